from __future__ import annotations

import json
from typing import Any

import pytest

from rightrank.models.checkpoint.calls import Calls
from rightrank.models.emit.pt2.arguments import argument
from rightrank.models.program.graph import Argument, Constant, Ref

KINDS = {"n": "int", "f": "float", "b": "bool"}


def written(value: Argument) -> Any:
    return json.loads(argument(value, {name: name for name in ("x", "y", "n", "f", "b")}, lambda n: KINDS.get(n, "")))


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -1, 0.5, float("inf"), float("-inf"), "reflect", "bij,bjd->bid", (), (1, 2), (0.5, 2.0)),
        *((True, False), Ref("x"), Ref("n"), (Ref("x"), Ref("y")), (Ref("x"), None), (Ref("n"), 3, -1)),
        *(Constant("dtype", "float16"), Constant("layout", "strided"), Constant("device", "cpu")),
        Constant("memory_format", "channels_last"),
    ],
)
def test_the_reader_finds_the_argument_that_was_written(value: Argument) -> None:
    calls = Calls()
    for name in ("x", "y"):
        calls.define(name, "tensor")
    for name in ("n", "f", "b"):
        calls.define(name, "number")
    assert calls.argument(written(value)) == value


def test_what_no_call_takes_is_not_written() -> None:
    for value in ((Ref("x"), 3), ("a", 1)):
        with pytest.raises(ValueError, match="no call may pass"):
            written(value)
