"""What is known of a value before any file is written: its type, and of its shape all that follows from the graph.

Nothing of a program is run here, and no torch is there: a row of the table says what its nodes make.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rightrank.models.program.dtypes import DTYPES

# A size that is known, one that is free under a name, or one of which nothing is known.
Dim: TypeAlias = int | str | None
Shape: TypeAlias = tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that the file's nodes make or read, under its name there.

    A `number` is one that Python computes with in the program, such as a size: no tensor to torch's promotion of types.
    `symbol` is the free size that it is, if it is one as it stands.
    """

    name: str
    dtype: str
    shape: Shape
    number: bool = False
    symbol: str | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def floating(self) -> bool:
        return DTYPES[self.dtype].floating


Size: TypeAlias = int | Value
Scalar: TypeAlias = bool | int | float | Value


def dim_of(size: Size) -> Dim:
    """What is known of a size."""
    return size.symbol if isinstance(size, Value) else size


def promoted(*operands: Scalar) -> str:
    """The type in which torch computes with tensors and numbers: tensors with dimensions count before those without,
    and these before Python's numbers."""
    kinds: list[list[str]] = [[], [], []]
    for each in operands:
        if isinstance(each, Value):
            kinds[2 if each.number else 0 if each.shape else 1].append(each.dtype if not each.number else _own(each))
        else:
            kinds[2].append("bool" if isinstance(each, bool) else "int64" if isinstance(each, int) else "float32")
    result: str | None = None
    for several in reversed(kinds):
        higher: str | None = None
        for dtype in several:
            higher = dtype if higher is None else joined(higher, dtype)
        if higher is None:
            continue
        if result is None or DTYPES[higher].floating:
            result = higher
        elif higher == "bool" or DTYPES[result].floating:
            result = joined(higher, result)
        else:
            result = higher
    assert result is not None
    return result


def _own(number: Value) -> str:
    """The type that one of Python's numbers is to torch."""
    return "float32" if number.floating else number.dtype


def joined(one: str, other: str) -> str:
    """The smallest type that holds both."""
    if one == other:
        return one
    rows = DTYPES[one], DTYPES[other]
    if rows[0].floating != rows[1].floating:
        return one if rows[0].floating else other
    if "bool" in (one, other):
        return other if one == "bool" else one
    if {one, other} == {"uint8", "int8"}:
        return "int16"
    if {one, other} == {"float16", "bfloat16"}:
        return "float32"
    return one if rows[0].width > rows[1].width or one[0] != "u" == other[0] else other


def broadcast(*shapes: Sequence[Dim]) -> Shape:
    """The shape that these have together."""
    rank = max(map(len, shapes), default=0)
    found: list[Dim] = []
    for place in range(rank):
        sizes = {shape[place - rank] for shape in shapes if len(shape) >= rank - place} - {1}
        known = {size for size in sizes if isinstance(size, int)}
        found.append(known.pop() if known else sizes.pop() if len(sizes) == 1 else None if sizes else 1)
    return tuple(found)


def axis(dim: int, rank: int) -> int:
    """A dimension, counted from the front."""
    return dim % max(rank, 1)


def axes(dims: int | Sequence[int] | None, rank: int) -> list[int]:
    """Dimensions, counted from the front, in order; all of them for none."""
    several = (dims,) if isinstance(dims, int) else dims
    return sorted(axis(dim, rank) for dim in several) if several else list(range(rank))


def without(shape: Shape, gone: Iterable[int], keep: bool = False) -> Shape:
    """A shape after a reduction over some axes, which stay with a size of one where `keep`."""
    gone = set(gone)
    return tuple(1 if at in gone else size for at, size in enumerate(shape) if keep or at not in gone)


def known(shape: Iterable[Dim]) -> tuple[int, ...] | None:
    """The sizes where all are known."""
    found = tuple(size for size in shape if isinstance(size, int))
    return found if len(found) == len(tuple(shape)) else None


def reshaped(shape: Shape, wanted: Sequence[Dim], missing: int | None) -> Shape:
    """The shape that a reshape comes to, of which the place `missing` is whatever is left."""
    if missing is None:
        return tuple(wanted)
    left, others = list(shape), [size for place, size in enumerate(wanted) if place != missing]
    for free in [each for each in others if isinstance(each, str)]:
        if free in left:
            left.remove(free)
            others.remove(free)
    given, taken = known(left), known(others)
    size: Dim = None
    count = None if taken is None else math.prod(taken)
    if given is not None and count:
        size = math.prod(given) // count
    elif count == 1:
        names = [each for each in left if each != 1]
        size = names[0] if len(names) == 1 else None
    return tuple(size if place == missing else each for place, each in enumerate(wanted))
