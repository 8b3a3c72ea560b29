"""Images of another size, and looked up at other places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Dim, Size, Value, dim_of

Row = Callable[..., Any]


def _resized(
    to: Nodes,
    value: Value,
    sizes: Sequence[Size] | None,
    scales: Sequence[float | Value | None] | None,
    **how: Any,
) -> Value:
    """To `sizes`, or by `scales`, of all but the first two dimensions. By a scale places are found by that, and by the
    sizes' ratio where there is none."""
    dims = value.rank - 2
    own = [value.shape[dim] for dim in range(2, value.rank)]
    given = [] if scales is None else [each for each in scales if isinstance(each, (int, float))]
    if scales is not None and any(isinstance(each, Value) for each in scales):
        raise to.refused("a scale has to be a number")
    shape: list[Dim]
    if len(given) == dims and given != _ratios(sizes, own):
        shape = [int(size * scale) if isinstance(size, int) else None for size, scale in zip(own, given, strict=True)]
        vector = to.constant([1.0, 1.0, *given], "float32")
        return to.node("Resize", value, None, vector, dtype=value.dtype, shape=(*value.shape[:2], *shape), **how)
    assert sizes is not None
    wanted = [to.size(value, 0), to.size(value, 1), *sizes]
    shape = [dim_of(each) for each in sizes]
    return to.node(
        "Resize", value, None, None, to.vector(wanted), dtype=value.dtype, shape=(*value.shape[:2], *shape), **how
    )


def _ratios(sizes: Sequence[Size] | None, own: Sequence[Dim]) -> list[float] | None:
    """How many times its own each size is, where all are known."""
    pairs = zip(sizes or (), own, strict=False)
    found = [size / before for size, before in pairs if isinstance(size, int) and isinstance(before, int)]
    return found if len(found) == len(own) else None


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
EXACT = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}


def _nearest_vec(how: Mapping[str, Any]) -> Row:
    def row(
        to: Nodes, input: Value, output_size: Sequence[Size] | None, scale_factors: Sequence[float] | None
    ) -> Value:
        return _resized(to, input, output_size, scale_factors, **how)

    return row


def _nearest(dims: int, how: Mapping[str, Any]) -> Row:
    if dims == 1:
        return lambda to, self, output_size, scales=None: _resized(to, self, output_size, [scales], **how)
    if dims == 2:
        return lambda to, self, output_size, scales_h=None, scales_w=None: _resized(
            to, self, output_size, [scales_h, scales_w], **how
        )
    return lambda to, self, output_size, scales_d=None, scales_h=None, scales_w=None: _resized(
        to, self, output_size, [scales_d, scales_h, scales_w], **how
    )


def _smooth(mode: str, aligned: bool) -> dict[str, Any]:
    transform = "align_corners" if aligned else "half_pixel"
    cubic = {"cubic_coeff_a": -0.75} if mode == "cubic" else {}
    return {"mode": mode, "coordinate_transformation_mode": transform, **cubic}


def _smooth_vec(mode: str) -> Row:
    def row(
        to: Nodes,
        input: Value,
        output_size: Sequence[Size] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> Value:
        return _resized(to, input, output_size, scale_factors, **_smooth(mode, align_corners))

    return row


def _smoothly(dims: int, mode: str) -> Row:
    if dims == 1:
        return lambda to, self, output_size, align_corners, scales=None: _resized(
            to, self, output_size, [scales], **_smooth(mode, align_corners)
        )
    if dims == 2:
        return lambda to, self, output_size, align_corners, scales_h=None, scales_w=None: _resized(
            to, self, output_size, [scales_h, scales_w], **_smooth(mode, align_corners)
        )
    return lambda to, self, output_size, align_corners, scales_d=None, scales_h=None, scales_w=None: _resized(
        to, self, output_size, [scales_d, scales_h, scales_w], **_smooth(mode, align_corners)
    )


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


def _antialiased(kernel: Callable[[Nodes, Value], Value]) -> Callable[..., Value]:
    """As a product with a matrix for each of two dimensions, since OpenVINO runs `Resize` without its antialiasing."""

    def row(
        to: Nodes, value: Value, sizes: Sequence[Size] | None, aligned: bool, scales: Sequence[float | Value | None]
    ) -> Value:
        if not value.floating:
            raise to.refused("antialiased resizing is there for floating point alone")
        dtype = "float64" if value.dtype == "float64" else "float32"
        for dim, scale in ((3, scales[1]), (2, scales[0])):
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

    return row


def _scaled(to: Nodes, own: Size, scale: float | None) -> Size:
    """A size, times a scale and rounded down."""
    assert scale is not None
    if isinstance(own, int):
        return int(own * scale)
    return replace(to.cast(to.unary("Floor", to.mul(to.single(own), scale)), "int64"), number=True)


def _step(to: Nodes, own: Size, size: Size, aligned: bool, scale: float | None, dtype: str) -> Value:
    """How many old places there are from one new one to the next; aligned, none where there is but one."""
    if aligned:
        before, after = (to.cast(to.sub(each, 1), dtype) for each in (own, size))
        some, least = (to.node(op, after, to.constant(1, dtype), dtype=dtype, shape=()) for op in ("Min", "Max"))
        return to.div(to.mul(before, some), least)
    if scale:
        return to.constant(1 / scale, dtype)
    return to.div(to.cast(own, dtype), to.cast(size, dtype))


def _weights(
    to: Nodes, own: Size, size: Size, step: Value, kernel: Callable[[Nodes, Value], Value], dtype: str
) -> Value:
    """What old places count for new ones, (new, old): by their distances, and where there are more of them by those in
    steps; in sum one. As in torch's `_compute_weights_aa`."""
    old, new = (to.add(to.range(0, each, 1, dtype, dim_of(each)), 0.5) for each in (own, size))
    apart = to.unary("Abs", to.sub(old, to.unsqueeze(to.mul(new, step), 1)))
    reach = to.node("Max", step, to.constant(1, dtype), dtype=dtype, shape=())
    found = kernel(to, to.div(apart, reach))
    return to.div(found, to.reduce("ReduceSum", found, [1], keep=True))


def _antialiased_vec(kernel: Callable[[Nodes, Value], Value]) -> Row:
    resized = _antialiased(kernel)

    def row(
        to: Nodes,
        input: Value,
        output_size: Sequence[Size] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> Value:
        return resized(to, input, output_size, align_corners, scale_factors or (None, None))

    return row


def _antialiased_2d(kernel: Callable[[Nodes, Value], Value]) -> Row:
    resized = _antialiased(kernel)
    return lambda to, self, output_size, align_corners, scales_h=None, scales_w=None: resized(
        to, self, output_size, align_corners, (scales_h, scales_w)
    )


def grid_sampler(
    to: Nodes, input: Value, grid: Value, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Value:
    if input.rank != 4:
        raise to.refused("only images of two dimensions are sampled at a grid")
    return to.node(
        "GridSample",
        input,
        grid,
        dtype=input.dtype,
        shape=(*input.shape[:2], *grid.shape[1:3]),
        mode=("bilinear", "nearest", "bicubic")[interpolation_mode],
        padding_mode=("zeros", "border", "reflection")[padding_mode],
        align_corners=int(align_corners),
    )


_KINDS = {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"}

ROWS: Mapping[str, Row] = {
    **{f"aten.upsample_nearest{dims}d.vec": _nearest_vec(NEAREST) for dims in (1, 2, 3)},
    **{f"aten.upsample_nearest{dims}d.default": _nearest(dims, NEAREST) for dims in (1, 2, 3)},
    **{f"aten._upsample_nearest_exact{dims}d.vec": _nearest_vec(EXACT) for dims in (1, 2)},
    **{f"aten._upsample_nearest_exact{dims}d.default": _nearest(dims, EXACT) for dims in (1, 2)},
    **{f"aten.upsample_{name}.vec": _smooth_vec("linear") for name in _KINDS.values()},
    **{f"aten.upsample_{name}.default": _smoothly(dims, "linear") for dims, name in _KINDS.items()},
    "aten.upsample_bicubic2d.vec": _smooth_vec("cubic"),
    "aten.upsample_bicubic2d.default": _smoothly(2, "cubic"),
    "aten._upsample_bilinear2d_aa.vec": _antialiased_vec(_linear),
    "aten._upsample_bilinear2d_aa.default": _antialiased_2d(_linear),
    "aten._upsample_bicubic2d_aa.vec": _antialiased_vec(_cubic),
    "aten._upsample_bicubic2d_aa.default": _antialiased_2d(_cubic),
    "aten.grid_sampler.default": grid_sampler,
    "aten.grid_sampler_2d.default": grid_sampler,
}
