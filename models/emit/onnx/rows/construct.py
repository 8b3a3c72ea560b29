"""Tensors made of numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Dim, Scalar, Size, Value, dim_of, promoted

Row = Callable[..., Any]
# Types that onnxruntime counts in.
RANGED = ("int32", "int64", "float32", "float64")


def _typed(dtype: str | None, *numbers: Scalar) -> str:
    return dtype or promoted(*numbers)


def _all(number: float) -> Row:
    def row(
        to: Nodes,
        size: Sequence[Size],
        *,
        dtype: str | None = None,
        layout: object = None,
        device: object = None,
        pin_memory: object = None,
    ) -> Value:
        return to.filled(size, number, dtype or "float32")

    return row


def full(
    to: Nodes,
    size: Sequence[Size],
    fill_value: Scalar,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return to.filled(size, fill_value, _typed(dtype, fill_value))


def _like(number: float) -> Row:
    def row(
        to: Nodes,
        self: Value,
        *,
        dtype: str | None = None,
        layout: object = None,
        device: object = None,
        pin_memory: object = None,
        memory_format: object = None,
    ) -> Value:
        return alike(to, self, number, dtype or self.dtype)

    return row


def full_like(
    to: Nodes,
    self: Value,
    fill_value: Scalar,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
    memory_format: object = None,
) -> Value:
    return alike(to, self, fill_value, dtype or self.dtype)


def alike(to: Nodes, value: Value, number: Scalar, dtype: str) -> Value:
    """A tensor of one number, with a tensor's shape."""
    return to.node("Expand", to.cast(number, dtype), to.shape(value), dtype=dtype, shape=value.shape)


def _new(number: float) -> Row:
    def row(
        to: Nodes,
        self: Value,
        size: Sequence[Size],
        *,
        dtype: str | None = None,
        layout: object = None,
        device: object = None,
        pin_memory: object = None,
    ) -> Value:
        return to.filled(size, number, dtype or self.dtype)

    return row


def new_full(
    to: Nodes,
    self: Value,
    size: Sequence[Size],
    fill_value: Scalar,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return to.filled(size, fill_value, dtype or self.dtype)


def fill(to: Nodes, self: Value, value: Scalar) -> Value:
    return alike(to, self, value, self.dtype)


def copy(to: Nodes, self: Value, src: Value, non_blocking: bool = False) -> Value:
    return to.node("Expand", to.cast(src, self.dtype), to.shape(self), dtype=self.dtype, shape=self.shape)


def scalar_tensor(
    to: Nodes,
    s: Scalar,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return to.cast(s, dtype or "float32")


def arange(
    to: Nodes,
    end: Scalar,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return counted(to, 0, end, 1, _typed(dtype, end))


def arange_from(
    to: Nodes,
    start: Scalar,
    end: Scalar,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return counted(to, start, end, 1, _typed(dtype, start, end))


def arange_by(
    to: Nodes,
    start: Scalar,
    end: Scalar,
    step: Scalar = 1,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return counted(to, start, end, step, _typed(dtype, start, end, step))


def counted(to: Nodes, start: Scalar, end: Scalar, step: Scalar, dtype: str) -> Value:
    size: Dim = None
    if not (isinstance(start, Value) or isinstance(end, Value) or isinstance(step, Value)):
        size = max(0, math.ceil((end - start) / step))
        if dtype not in RANGED or any(isinstance(each, float) for each in (start, end, step)):
            # As torch does: the first, and each next one by its number.
            return to.constant(start + step * np.arange(size), dtype)
    elif start == 0 and step == 1 and isinstance(end, Value):
        size = end.symbol
    own = dtype if dtype in RANGED else "float32"
    return to.cast(to.range(start, end, step, own, size), dtype)


def linspace(
    to: Nodes,
    start: float,
    end: float,
    steps: Size,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    if isinstance(start, Value) or isinstance(end, Value) or isinstance(steps, Value):
        raise to.refused("its ends and its number have to be known")
    return to.constant(np.linspace(start, end, steps), dtype or "float32")


def eye_of(
    to: Nodes,
    n: Size,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return _eye(to, n, n, dtype or "float32")


def eye(
    to: Nodes,
    n: Size,
    m: Size,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
) -> Value:
    return _eye(to, n, m, dtype or "float32")


def _eye(to: Nodes, rows: Size, columns: Size, dtype: str) -> Value:
    one, two = (to.range(0, each, 1, "int64", dim_of(each)) for each in (rows, columns))
    return to.cast(to.compare("Equal", to.unsqueeze(one, 1), to.unsqueeze(two, 0)), dtype)


def _indices(upper: bool) -> Row:
    def row(
        to: Nodes,
        row: int,
        col: int,
        offset: int = 0,
        *,
        dtype: str | None = "int64",
        layout: object = None,
        device: object = None,
        pin_memory: object = None,
    ) -> Value:
        found = np.triu_indices(row, offset, col) if upper else np.tril_indices(row, offset, col)
        return to.constant(np.stack(found), dtype or "int64")

    return row


ROWS: Mapping[str, Row] = {
    "aten.zeros.default": _all(0),
    "aten.ones.default": _all(1),
    "aten.full.default": full,
    "aten.zeros_like.default": _like(0),
    "aten.ones_like.default": _like(1),
    "aten.full_like.default": full_like,
    "aten.new_zeros.default": _new(0),
    "aten.new_ones.default": _new(1),
    "aten.new_full.default": new_full,
    "aten.fill.Scalar": fill,
    "aten.fill.Tensor": fill,
    "aten.copy.default": copy,
    "aten.scalar_tensor.default": scalar_tensor,
    "aten.arange.default": arange,
    "aten.arange.start": arange_from,
    "aten.arange.start_step": arange_by,
    "aten.linspace.default": linspace,
    "aten.eye.default": eye_of,
    "aten.eye.m": eye,
    "aten.tril_indices.default": _indices(False),
    "aten.triu_indices.default": _indices(True),
}
