from __future__ import annotations

import itertools

import pytest
import torch

from rightrank.models.emit.onnx.values import Scalar, Value, broadcast, joined, promoted, reshaped
from rightrank.models.program.dtypes import DTYPES


def pairs() -> list[tuple[Scalar, object]]:
    """Operands as they are known here, and as torch has them: tensors with dimensions, without, and numbers."""
    found: list[tuple[Scalar, object]] = [(True, True), (3, 3), (0.5, 0.5)]
    for name in DTYPES:
        found.append((Value("", name, (2,)), torch.ones(2, dtype=getattr(torch, name))))
        found.append((Value("", name, ()), torch.ones((), dtype=getattr(torch, name))))
    return found


def test_types_are_promoted_as_torch_does() -> None:
    for (mine, theirs), (my_other, their_other) in itertools.product(pairs(), repeat=2):
        wanted = torch.result_type(theirs, their_other)  # type: ignore[call-overload]
        assert promoted(mine, my_other) == str(wanted).removeprefix("torch."), (mine, my_other)


def test_a_size_that_a_node_computes_counts_as_a_number() -> None:
    size = Value("n", "int64", (), number=True)
    assert promoted(Value("", "float16", (2,)), size) == "float16"
    assert promoted(Value("", "uint8", (2,)), size) == "uint8"
    assert promoted(Value("", "int32", ()), Value("", "float32", (), number=True)) == "float32"


def test_two_types_are_joined_as_torch_does() -> None:
    for one, other in itertools.product(DTYPES, repeat=2):
        wanted = torch.promote_types(getattr(torch, one), getattr(torch, other))
        assert joined(one, other) == str(wanted).removeprefix("torch.")


@pytest.mark.parametrize(
    ("shapes", "wanted"),
    [
        (((3, 1), (4,)), (3, 4)),
        ((("batch", 3), (1, 1)), ("batch", 3)),
        ((("batch", 3), ("batch", 1)), ("batch", 3)),
        ((("batch",), ("length",)), (None,)),
        ((("batch",), (5,)), (5,)),
        (((None, 2), ("batch", 1)), (None, 2)),
        (((), (2,)), (2,)),
    ],
)
def test_what_is_known_of_a_broadcast(shapes: tuple[tuple[int | str | None, ...], ...], wanted: object) -> None:
    assert broadcast(*shapes) == wanted


@pytest.mark.parametrize(
    ("shape", "sizes", "missing", "wanted"),
    [
        ((2, 3, 4), (6, -1), 1, (6, 4)),
        (("batch", 3, 4), ("batch", -1), 1, ("batch", 12)),
        (("batch", 3, 4), (-1, 12), 0, (None, 12)),
        (("batch", 1), (-1,), 0, ("batch",)),
        ((None, 3), (-1, 3), 0, (None, 3)),
        ((2, 3), (3, 2), None, (3, 2)),
    ],
)
def test_what_is_known_of_a_reshape(
    shape: tuple[int | str | None, ...], sizes: tuple[int | str | None, ...], missing: int | None, wanted: object
) -> None:
    assert reshaped(shape, sizes, missing) == wanted
