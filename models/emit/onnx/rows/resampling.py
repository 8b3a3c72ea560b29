"""Images of another size, and looked up at other places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Dim, Size, Value, dim_of

Row = Callable[..., Any]
Scales = Sequence["float | Value | None"]
# To sizes, with corners aligned or not, and by scales, of all but the first two dimensions.
Resize = Callable[[Nodes, Value, "Sequence[Size] | None", bool, "Scales | None"], Value]


def _resized(
    to: Nodes,
    value: Value,
    sizes: Sequence[Size] | None,
    scales: Scales | None,
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


def _smooth(mode: str) -> Resize:
    cubic = {"cubic_coeff_a": -0.75} if mode == "cubic" else {}

    def resized(to: Nodes, value: Value, sizes: Sequence[Size] | None, aligned: bool, scales: Scales | None) -> Value:
        transform = "align_corners" if aligned else "half_pixel"
        return _resized(to, value, sizes, scales, mode=mode, coordinate_transformation_mode=transform, **cubic)

    return resized


def vec(resize: Resize) -> Row:
    """As the overloads called so pass sizes and scales."""

    def row(
        to: Nodes,
        input: Value,
        output_size: Sequence[Size] | None,
        align_corners: bool,
        scale_factors: Sequence[float] | None,
    ) -> Value:
        return resize(to, input, output_size, align_corners, scale_factors)

    return row


def default(dims: int, resize: Resize) -> Row:
    """As the overloads called so do, for images of so many dimensions."""
    if dims == 1:
        return lambda to, self, output_size, align_corners, scales=None: resize(
            to, self, output_size, align_corners, [scales]
        )
    if dims == 2:
        return lambda to, self, output_size, align_corners, scales_h=None, scales_w=None: resize(
            to, self, output_size, align_corners, [scales_h, scales_w]
        )
    return lambda to, self, output_size, align_corners, scales_d=None, scales_h=None, scales_w=None: resize(
        to, self, output_size, align_corners, [scales_d, scales_h, scales_w]
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
    **{f"aten.upsample_{name}.vec": vec(_smooth("linear")) for name in _KINDS.values()},
    **{f"aten.upsample_{name}.default": default(dims, _smooth("linear")) for dims, name in _KINDS.items()},
    "aten.upsample_bicubic2d.vec": vec(_smooth("cubic")),
    "aten.upsample_bicubic2d.default": default(2, _smooth("cubic")),
    "aten.grid_sampler.default": grid_sampler,
    "aten.grid_sampler_2d.default": grid_sampler,
}
