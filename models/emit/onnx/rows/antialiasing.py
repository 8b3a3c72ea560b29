"""Images of another size, antialiased: a product with a matrix for each dimension, since OpenVINO runs `Resize` without
its antialiasing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.rows.resampling import Resize, Row, Scales, default, vec
from rightrank.models.emit.onnx.values import Size, Value, dim_of

# What an old place counts for a new one, by their distance.
Kernel = Callable[[Nodes, Value], Value]


def _linear(to: Nodes, distance: Value) -> Value:
    """What counts at a distance: 1 at none, nothing from 1 on."""
    return to.unary("Relu", to.sub(1.0, distance))


def _cubic(to: Nodes, distance: Value) -> Value:
    """Keys' (doi:10.1109/TASSP.1981.1163711, equation 4) with a = -1/2: nothing from 2 on."""
    square = to.mul(distance, distance)
    near = to.add(to.mul(to.sub(to.mul(distance, 1.5), 2.5), square), 1.0)
    far = to.mul(to.sub(to.mul(to.add(to.mul(to.sub(distance, 5.0), distance), 8.0), distance), 4.0), -0.5)
    beyond = to.where(to.compare("Less", distance, 2.0), far, 0.0)
    return to.where(to.compare("Less", distance, 1.0), near, beyond)


def _resized(kernel: Kernel) -> Resize:
    """As a product with a matrix for each of two dimensions."""

    def resized(to: Nodes, value: Value, sizes: Sequence[Size] | None, aligned: bool, scales: Scales | None) -> Value:
        if not value.floating:
            raise to.refused("antialiased resizing is there for floating point alone")
        dtype = "float64" if value.dtype == "float64" else "float32"
        high, wide = scales or (None, None)
        for dim, scale in ((3, wide), (2, high)):
            if isinstance(scale, Value):
                raise to.refused("a scale has to be a number")
            own = to.size(value, dim)
            size = sizes[dim - 2] if sizes is not None else _scaled(to, own, scale)
            step = _step(to, own, size, aligned, scale, dtype)
            matrix = to.cast(_weights(to, own, size, step, kernel, dtype), value.dtype)
            shape = (*value.shape[:dim], dim_of(size), *value.shape[dim + 1 :])
            operands = (value, to.swap(matrix)) if dim == 3 else (matrix, value)
            value = to.matmul(*operands, shape)
        return value

    return resized


def _scaled(to: Nodes, own: Size, scale: float | None) -> Size:
    """A size, times a scale and rounded down."""
    assert scale is not None
    if isinstance(own, int):
        return int(own * scale)
    wanted = to.mul(to.cast(own, "float64"), to.constant(scale, "float64"))
    return replace(to.cast(to.unary("Floor", wanted), "int64"), number=True)


def _step(to: Nodes, own: Size, size: Size, aligned: bool, scale: float | None, dtype: str) -> Value:
    """How many old places there are from one new one to the next; aligned, none where there is but one."""
    if aligned:
        before, after = (to.cast(to.sub(each, 1), dtype) for each in (own, size))
        some, least = (to.node(op, after, to.constant(1, dtype), dtype=dtype, shape=()) for op in ("Min", "Max"))
        return to.div(to.mul(before, some), least)
    if scale:
        return to.constant(1 / scale, dtype)
    return to.div(to.cast(own, dtype), to.cast(size, dtype))


def _weights(to: Nodes, own: Size, size: Size, step: Value, kernel: Kernel, dtype: str) -> Value:
    """What old places count for new ones, (new, old): by their distances, and where there are more of them by those in
    steps; in sum one. As in torch's `_compute_weights_aa`."""
    old, new = (to.add(to.range(0, each, 1, dtype, dim_of(each)), 0.5) for each in (own, size))
    apart = to.unary("Abs", to.sub(old, to.unsqueeze(to.mul(new, step), 1)))
    reach = to.node("Max", step, to.constant(1, dtype), dtype=dtype, shape=())
    found = kernel(to, to.div(apart, reach))
    return to.div(found, to.reduce("ReduceSum", found, [1], keep=True))


ROWS: Mapping[str, Row] = {
    "aten._upsample_bilinear2d_aa.vec": vec(_resized(_linear)),
    "aten._upsample_bilinear2d_aa.default": default(2, _resized(_linear)),
    "aten._upsample_bicubic2d_aa.vec": vec(_resized(_cubic)),
    "aten._upsample_bicubic2d_aa.default": default(2, _resized(_cubic)),
}
