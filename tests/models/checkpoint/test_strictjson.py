import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.checkpoint.strictjson import loads
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint

SIMPLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(SIMPLE)
def test_plain_json_is_read_as_it_is(value: object) -> None:
    assert loads(json.dumps(value).encode(), "It") == value


@pytest.mark.parametrize(
    "text", [b'{"a":1,"a":2}', b"NaN", b"[Infinity]", b"9" * 30, b"-" + b"9" * 19, b"", b"{", b"\xff"]
)
def test_what_two_readers_could_see_differently_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedCheckpoint, match="It is not valid JSON"):
        loads(text, "It")


def test_nesting_that_exhausts_the_parser_is_unsafe() -> None:
    with pytest.raises(UnsafeCheckpoint, match="nested too deeply"):
        loads(b"[" * 200_000, "It")
