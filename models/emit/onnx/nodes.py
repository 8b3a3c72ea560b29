"""The ONNX nodes that one call of a program becomes, as a row of the table puts them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.onnx.values import Dim, Scalar, Shape, Size, Value, broadcast, dim_of, promoted
from rightrank.models.errors import UnsupportedCheckpoint

# Types that onnxruntime has few kernels for, and the one in which it computes instead.
_NARROW = {"bool": "int32", "uint8": "int32", "int8": "int32", "int16": "int32"}
# One that it has no kernels for at all.
NONE = "bfloat16"
END = 2**63 - 1


@dataclass(frozen=True)
class Made:
    """A node: an operator of ONNX, names of what it reads ("" where it leaves one out) and makes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Known:
    """A tensor of a few numbers that the file has for its nodes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Nodes:
    """Nodes of one call of the program, of the operator `op`, of which `outputs` results are wanted. What they make is
    called after `name`, so that it depends on no other call."""

    def __init__(self, name: str, op: str, outputs: int = 1) -> None:
        self.name, self.op, self.outputs = name, op, outputs
        self.made: list[Made] = []
        self.known: dict[tuple[str, tuple[int, ...], bytes], Known] = {}
        self._count = 0

    def _fresh(self) -> str:
        self._count += 1
        return f"{self.name}.{self._count}"

    # Nodes and constants.

    def node(self, op: str, *inputs: Value | None, dtype: str, shape: Shape, **attributes: Any) -> Value:
        """A node with one result."""
        (found,) = self.several(op, inputs, ((dtype, shape),), **attributes)
        return found

    def several(
        self, op: str, inputs: Sequence[Value | None], results: Sequence[tuple[str, Shape] | None], **attributes: Any
    ) -> tuple[Value, ...]:
        """A node with several results, each of a type and a shape; None for one that is left out."""
        values = [None if each is None else Value(self._fresh(), *each) for each in results]
        given = ["" if each is None else each.name for each in inputs]
        while given and not given[-1]:
            given.pop()
        names = tuple("" if each is None else each.name for each in values)
        kept = tuple(sorted((key, value) for key, value in attributes.items() if value is not None))
        self.made.append(Made(op, tuple(given), names, kept))
        return tuple(each for each in values if each is not None)

    def constant(self, numbers: Any, dtype: str) -> Value:
        """A tensor of numbers, one or a list."""
        if dtype == NONE:
            raise no_bfloat16()
        array = _array(numbers, dtype)
        key = dtype, array.shape, array.tobytes()
        if key not in self.known:
            self.known[key] = Known(f"{self.name}:{len(self.known)}", dtype, array.shape, array.tobytes())
        return Value(self.known[key].name, dtype, array.shape)

    def refused(self, why: str) -> UnsupportedCheckpoint:
        """To be raised for a call that ONNX has no nodes for."""
        return refused(self.op, why)

    # Types.

    def cast(self, value: Scalar, dtype: str) -> Value:
        """A tensor, or a number, as one of this type."""
        if not isinstance(value, Value):
            return self.constant(value, dtype)
        if value.dtype == dtype:
            return replace(value, number=False, symbol=None) if value.number else value
        return self.node("Cast", value, dtype=dtype, shape=value.shape, to=dtype)

    def single(self, value: Scalar) -> Value:
        """As floating point, where it is not yet."""
        if isinstance(value, Value):
            return value if value.floating and not value.number else self.cast(value, "float32")
        return self.constant(value, "float32")

    def together(self, *operands: Scalar, floating: bool = False) -> tuple[Value, ...]:
        """All of them in the type that torch computes in; in a floating one, where asked for."""
        dtype = promoted(*operands)
        if floating and "float" not in dtype:
            dtype = "float32"
        return tuple(self.cast(each, dtype) for each in operands)

    def joint(self, op: str, *operands: Scalar, floating: bool = False, wide: bool = True, **attributes: Any) -> Value:
        """A node of operands that are broadcast, of one type. By way of a wider one where they are narrow integers."""
        values = self.together(*operands, floating=floating)
        dtype, shape = values[0].dtype, broadcast(*(each.shape for each in values))
        if wide and dtype in _NARROW:
            values = tuple(self.cast(each, _NARROW[dtype]) for each in values)
            return self.cast(self.node(op, *values, dtype=_NARROW[dtype], shape=shape, **attributes), dtype)
        return self.node(op, *values, dtype=dtype, shape=shape, **attributes)

    def wide(self, value: Value) -> Value:
        """The same in a type that there are kernels for."""
        return self.cast(value, _NARROW[value.dtype]) if value.dtype in _NARROW else value

    # Arithmetic, of tensors of one type or with numbers.

    def add(self, one: Scalar, other: Scalar) -> Value:
        return self.joint("Add", one, other)

    def sub(self, one: Scalar, other: Scalar) -> Value:
        return self.joint("Sub", one, other)

    def mul(self, one: Scalar, other: Scalar) -> Value:
        return self.joint("Mul", one, other)

    def div(self, one: Scalar, other: Scalar) -> Value:
        return self.joint("Div", one, other)

    def unary(self, op: str, value: Value, **attributes: Any) -> Value:
        """A node that changes neither type nor shape."""
        return self.node(op, value, dtype=value.dtype, shape=value.shape, **attributes)

    def compare(self, op: str, one: Scalar, other: Scalar) -> Value:
        """Equal, Less, Greater, LessOrEqual or GreaterOrEqual."""
        values = self.together(one, other)
        values = tuple(map(self.wide, values))
        return self.node(op, *values, dtype="bool", shape=broadcast(*(each.shape for each in values)))

    def where(self, mask: Value, one: Scalar, other: Scalar) -> Value:
        """`one` where the mask is true, `other` elsewhere."""
        values = self.together(one, other)
        dtype, shape = values[0].dtype, broadcast(mask.shape, *(each.shape for each in values))
        values = tuple(map(self.wide, values))
        found = self.node("Where", self.cast(mask, "bool"), *values, dtype=values[0].dtype, shape=shape)
        return self.cast(found, dtype)

    def matmul(self, one: Value, other: Value, shape: Shape) -> Value:
        return self.node("MatMul", one, other, dtype=one.dtype, shape=shape)

    # Sizes.

    def size(self, value: Value, dim: int) -> Size:
        """A tensor's size along a dimension, as a number where it is known."""
        size = value.shape[dim]
        if isinstance(size, int):
            return size
        shape = self.node("Shape", value, dtype="int64", shape=(1,), start=dim % value.rank, end=dim % value.rank + 1)
        return replace(self.scalar(shape), number=True, symbol=size)

    def scalar(self, vector: Value) -> Value:
        """The one number of a vector."""
        return self.node("Squeeze", vector, dtype=vector.dtype, shape=())

    def count(self, value: Value, dims: Sequence[int]) -> Size:
        """How many positions some dimensions have together."""
        sizes = [self.size(value, dim) for dim in dims]
        total: Size = math.prod(size for size in sizes if isinstance(size, int))
        for free in sizes:
            if isinstance(free, Value):
                total = free if total == 1 else replace(self.mul(total, free), number=True)
        return total

    def vector(self, sizes: Size | Sequence[Size]) -> Value:
        """Sizes as a vector."""
        several = [sizes] if isinstance(sizes, (int, Value)) else list(sizes)
        if all(isinstance(each, int) for each in several):
            return self.constant(several, "int64")
        parts = [
            self.unsqueeze(self.cast(each, "int64"), 0) if isinstance(each, Value) else self.constant([each], "int64")
            for each in several
        ]
        return self.concat(parts, 0) if len(parts) > 1 else parts[0]

    def shape(self, value: Value) -> Value:
        """A tensor's shape as a vector."""
        return self.node("Shape", value, dtype="int64", shape=(value.rank,))

    # Shapes.

    def reshape(self, value: Value, sizes: Sequence[Size], shape: Shape) -> Value:
        """To `sizes`, of which one may be -1; `shape` is what is known of them."""
        if shape == value.shape and all(each is not None for each in shape):
            return value
        return self.node("Reshape", value, self.vector(sizes), dtype=value.dtype, shape=shape)

    def like(self, value: Value, sizes: Sequence[Dim], other: Value | None = None) -> Value:
        """To a shape of which what is not a number is the size of the same place in `other` (else the value itself).
        The first that is none there is left to the runtime."""
        wanted = [-1 if not isinstance(size, int) else size for size in sizes]
        if wanted.count(-1) > 1:
            source = value if other is None else other
            places = [place for place, size in enumerate(wanted) if size == -1][1:]
            return self.reshape(
                value,
                [self.size(source, place) if place in places else each for place, each in enumerate(wanted)],
                tuple(sizes),
            )
        return self.reshape(value, wanted, tuple(sizes))

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        if list(order) == list(range(value.rank)):
            return value
        shape = tuple(value.shape[dim] for dim in order)
        return self.node("Transpose", value, dtype=value.dtype, shape=shape, perm=list(order))

    def swap(self, value: Value, one: int = -2, other: int = -1) -> Value:
        """With two dimensions in each other's place."""
        order = list(range(value.rank))
        order[one], order[other] = order[other], order[one]
        return self.permute(value, order)

    def move(self, value: Value, source: int, to: int) -> Value:
        """With one dimension elsewhere, and the others in order."""
        order = [dim for dim in range(value.rank) if dim != source % value.rank]
        order.insert(to % value.rank, source % value.rank)
        return self.permute(value, order)

    def unsqueeze(self, value: Value, *dims: int) -> Value:
        """With dimensions of one at these places of the result."""
        if not dims:
            return value
        rank = value.rank + len(dims)
        places, sizes = {dim % rank for dim in dims}, iter(value.shape)
        shape = tuple(1 if at in places else next(sizes) for at in range(rank))
        axes = self.constant(sorted(places), "int64")
        return self.node("Unsqueeze", value, axes, dtype=value.dtype, shape=shape)

    def squeeze(self, value: Value, *dims: int) -> Value:
        """Without these dimensions, of one."""
        if not dims:
            return value
        places = sorted({dim % value.rank for dim in dims})
        shape = tuple(size for at, size in enumerate(value.shape) if at not in places)
        return self.node("Squeeze", value, self.constant(places, "int64"), dtype=value.dtype, shape=shape)

    def leading(self, value: Value, rank: int) -> Value:
        """With dimensions of one before its own, until it has so many."""
        return self.unsqueeze(value, *range(rank - value.rank)) if value.rank < rank else value

    def expand(self, value: Value, sizes: Sequence[Size], shape: Shape) -> Value:
        """Broadcast to `sizes`, of which 1 leaves a dimension as it is."""
        if shape == value.shape and all(isinstance(each, int) for each in shape):
            return value
        return self.node("Expand", value, self.vector(sizes), dtype=value.dtype, shape=shape)

    def expand_as(self, value: Value, other: Value, shape: Shape | None = None) -> Value:
        shape = broadcast(value.shape, other.shape) if shape is None else shape
        return self.node("Expand", value, self.shape(other), dtype=value.dtype, shape=shape)

    def concat(self, values: Sequence[Value], dim: int) -> Value:
        """Of one type, along a dimension."""
        if len(values) == 1:
            return values[0]
        dim %= values[0].rank
        sizes = [value.shape[dim] for value in values]
        total = sum(size for size in sizes if isinstance(size, int)) if all(isinstance(s, int) for s in sizes) else None
        shape = tuple(
            total if at == dim else broadcast(*((value.shape[at],) for value in values))[0]
            for at in range(values[0].rank)
        )
        return self.node("Concat", *values, dtype=values[0].dtype, shape=shape, axis=dim)

    def slice(self, value: Value, dim: int, start: Size, end: Size, step: int = 1, size: Dim = None) -> Value:
        """A part along a dimension, of `size` where that is known."""
        dim %= value.rank
        vectors = [self.vector(each) for each in (start, end, dim, step)]
        shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])
        return self.node("Slice", value, *vectors, dtype=value.dtype, shape=shape)

    def gather(self, value: Value, places: Value, dim: int = 0) -> Value:
        """What stands at some places along a dimension, which these take the place of."""
        dim %= value.rank
        shape = (*value.shape[:dim], *places.shape, *value.shape[dim + 1 :])
        return self.node("Gather", value, places, dtype=value.dtype, shape=shape, axis=dim)

    def range(self, start: Scalar, end: Scalar, step: Scalar, dtype: str, size: Dim = None) -> Value:
        given = [self.cast(each, dtype) for each in (start, end, step)]
        return self.node("Range", *given, dtype=dtype, shape=(size,))

    def filled(self, sizes: Sequence[Size], number: Scalar, dtype: str) -> Value:
        """A tensor of one number."""
        shape = tuple(map(dim_of, sizes))
        if not sizes:
            return self.cast(number, dtype)
        return self.node("Expand", self.cast(number, dtype), self.vector(sizes), dtype=dtype, shape=shape)

    def reduce(self, op: str, value: Value, dims: Sequence[int], keep: bool) -> Value:
        """ReduceSum, ReduceMean, ReduceMax, … over dimensions that are counted from the front."""
        shape = tuple(1 if at in dims else size for at, size in enumerate(value.shape) if keep or at not in dims)
        if not value.rank:
            return value
        given = self.constant(list(dims), "int64")
        # These take their dimensions as an input in every version.
        return self.node(op, value, given, dtype=value.dtype, shape=shape, keepdims=int(keep))


def no_bfloat16() -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        "The program computes in bfloat16, for which onnxruntime has no kernels on a processor.",
        "Ask for another format, or upload the network in float32 or float16.",
    )


def refused(op: str, why: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"The program calls {op}, and in ONNX {why}.", "Ask for another format, such as torchscript."
    )


def _array(numbers: Any, dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return np.array(numbers).astype(dtype, order="C")
