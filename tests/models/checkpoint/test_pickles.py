from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightrank.models.checkpoint import pickles
from rightrank.models.errors import CheckpointError, UnsafeCheckpoint, UnsupportedCheckpoint


def test_a_dictionary_of_plain_values_passes() -> None:
    state = OrderedDict({"a": 1, "b": [1.5, True, None, ("x", -3)], "c": {"d": 1 << 40}})
    pickles.check(pickle.dumps(state, protocol=2))


@pytest.mark.parametrize("value", [print, OrderedDict.fromkeys, Path("x"), complex(1, 2), bytearray(b"x")])
def test_a_pickle_that_names_anything_else_is_unsafe(value: object) -> None:
    with pytest.raises(UnsafeCheckpoint):
        pickles.check(pickle.dumps(value, protocol=2))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_scan(data: bytes) -> None:
    try:
        pickles.check(data)
    except CheckpointError:
        return


def test_a_bare_pickle_without_code_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(UnsupportedCheckpoint, match=r"before version 1\.6"):
        pickles.refuse_bare(path)
