"""Pooling, padding and what moves channels into places."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.rows.convolutions import spread
from rightrank.models.emit.onnx.values import Dim, Shape, Size, Value, dim_of, known

Row = Callable[..., Any]


def _windows(size: Dim, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> tuple[int | None, int]:
    """How many windows there are, and how much more padding at the end they want that ONNX rounds down."""
    if not isinstance(size, int):
        return None, 0
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-span // stride) if ceil else span // stride) + 1
    # None begins in the padding at the end.
    count -= int(ceil and (count - 1) * stride >= size + padding)
    return count, max(0, (count - 1) * stride - span)


def max_pool(
    to: Nodes,
    self: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Value:
    return _max_pool(to, self, len(spread(kernel_size, 1)), kernel_size, stride, padding, dilation, ceil_mode)


def _max_pool_of(dims: int) -> Row:
    def row(
        to: Nodes,
        self: Value,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Value:
        return _max_pool(to, self, dims, kernel_size, stride, padding, dilation, ceil_mode)

    return row


def _max_pool_with_places(dims: int) -> Row:
    def row(
        to: Nodes,
        self: Value,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Value, None]:
        return _max_pool(to, self, dims, kernel_size, stride, padding, dilation, ceil_mode), None

    return row


def _max_pool(
    to: Nodes,
    value: Value,
    dims: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Value:
    if value.rank == dims + 1:
        several = to.unsqueeze(value, 0)
        return to.squeeze(_max_pool(to, several, dims, kernel_size, stride, padding, dilation, ceil_mode), 0)
    kernel, pads, apart = (spread(each, dims) for each in (kernel_size, padding, dilation))
    steps = spread(stride, dims) if stride else kernel
    found = [
        _windows(size, k, s, p, d, ceil_mode)
        for size, k, s, p, d in zip(value.shape[2:], kernel, steps, pads, apart, strict=True)
    ]
    sizes = [size for size, _ in found]
    ceil = ceil_mode and None in sizes
    # Padding never is the largest, so what ONNX would round otherwise is padded.
    ends = pads if ceil else [pad + more for pad, (_, more) in zip(pads, found, strict=True)]
    return to.node(
        "MaxPool",
        value,
        dtype=value.dtype,
        shape=(*value.shape[:2], *sizes),
        kernel_shape=kernel,
        strides=steps,
        pads=[*pads, *ends],
        dilations=apart,
        **({"ceil_mode": 1} if ceil else {}),
    )


def _avg_pool_of(dims: int) -> Row:
    if dims == 1:

        def row_of_one(
            to: Nodes,
            self: Value,
            kernel_size: Sequence[int],
            stride: Sequence[int] = (),
            padding: Sequence[int] = (0,),
            ceil_mode: bool = False,
            count_include_pad: bool = True,
        ) -> Value:
            return _avg_pool(to, self, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None)

        return row_of_one

    def row(
        to: Nodes,
        self: Value,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        return _avg_pool(to, self, dims, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

    return row


def _avg_pool(
    to: Nodes,
    value: Value,
    dims: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Value:
    if value.rank == dims + 1:
        args = kernel_size, stride, padding, ceil_mode, count_include_pad, divisor
        return to.squeeze(_avg_pool(to, to.unsqueeze(value, 0), dims, *args), 0)
    kernel, pads = spread(kernel_size, dims), spread(padding, dims)
    steps = spread(stride, dims) if stride else kernel
    found = [
        _windows(size, k, s, p, 1, ceil_mode)
        for size, k, s, p in zip(value.shape[2:], kernel, steps, pads, strict=True)
    ]
    sizes, more = [size for size, _ in found], [each for _, each in found]
    if ceil_mode and None in sizes:
        raise to.refused("windows that do not fit are averaged only where sizes are known")
    uneven = any(more)
    own = divisor is not None or uneven
    result = to.node(
        "AveragePool",
        value,
        dtype=value.dtype,
        shape=(*value.shape[:2], *sizes),
        kernel_shape=kernel,
        strides=steps,
        pads=[*pads, *(pad + each for pad, each in zip(pads, more, strict=True))],
        count_include_pad=int(own or count_include_pad),
    )
    if not own:
        return result
    if divisor is not None:
        return to.mul(result, math.prod(kernel) / divisor)
    # By how many numbers each window is divided, and by how many ONNX has divided it.
    counts: Any = np.ones(())
    for size, k, s, p in zip(value.shape[2:], kernel, steps, pads, strict=True):
        assert isinstance(size, int)
        count, _ = _windows(size, k, s, p, 1, ceil_mode)
        starts = np.arange(count or 0) * s - p
        ends = np.minimum(starts + k, size + p)
        if not count_include_pad:
            starts, ends = np.maximum(starts, 0), np.minimum(ends, size)
        counts = np.multiply.outer(counts, ends - starts)
    return to.mul(result, to.constant(math.prod(kernel) / counts, value.dtype))


def _adaptive_avg(dims: int) -> Row:
    def row(to: Nodes, self: Value, output_size: Sequence[int]) -> Value:
        wanted, places = spread(output_size, dims), range(self.rank - dims, self.rank)
        if all(each == 1 for each in wanted):
            return to.reduce("ReduceMean", self, list(places), keep=True)
        found = self
        for place, size in zip(places, wanted, strict=True):
            found = _averaged(to, found, place, size)
        return found

    return row


def _averaged(to: Nodes, value: Value, place: int, wanted: int) -> Value:
    """Along one dimension, averages of windows that need not be of one length: a product with a matrix of shares."""
    size = value.shape[place]
    if size == wanted:
        return value
    if wanted == 1:
        return to.reduce("ReduceMean", value, [place], keep=True)
    if not isinstance(size, int):
        raise to.refused(f"an average to {wanted} places is of a size that is known")
    shares = np.zeros((size, wanted))
    for at in range(wanted):
        start, end = at * size // wanted, -(-(at + 1) * size // wanted)
        shares[start:end, at] = 1 / (end - start)
    moved = to.move(value, place, -1)
    product = to.matmul(moved, to.constant(shares, value.dtype), (*moved.shape[:-1], wanted))
    return to.move(product, -1, place)


def _adaptive_max(dims: int) -> Row:
    def row(to: Nodes, self: Value, output_size: Sequence[int]) -> tuple[Value, None]:
        wanted, places = spread(output_size, dims), range(self.rank - dims, self.rank)
        if all(each == 1 for each in wanted):
            return to.reduce("ReduceMax", self, list(places), keep=True), None
        found = self
        for place, size in zip(places, wanted, strict=True):
            found = _largest(to, found, place, size)
        return found, None

    return row


def _largest(to: Nodes, value: Value, place: int, wanted: int) -> Value:
    size = value.shape[place]
    if not isinstance(size, int):
        raise to.refused(f"the largest of {wanted} places is of a size that is known")
    parts = []
    for at in range(wanted):
        start, end = at * size // wanted, -(-(at + 1) * size // wanted)
        part = to.slice(value, place, start, end, size=end - start)
        parts.append(to.reduce("ReduceMax", part, [place], keep=True))
    return to.concat(parts, place)


def pad(to: Nodes, self: Value, pad: Sequence[Size], mode: str = "constant", value: float | None = None) -> Value:
    return padded(to, self, pad, mode, value or 0.0)


def constant_pad(to: Nodes, self: Value, pad: Sequence[Size], value: float = 0) -> Value:
    return padded(to, self, pad, "constant", value)


def padded(to: Nodes, self: Value, pads: Sequence[Size], mode: str, number: float) -> Value:
    """`pads` are a pair for each dimension, from the last one on."""
    names = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode == "circular":
        return _wrapped(to, self, pads)
    count = len(pads) // 2
    before: list[Size] = [0] * self.rank
    after: list[Size] = [0] * self.rank
    for at in range(count):
        before[self.rank - 1 - at], after[self.rank - 1 - at] = pads[2 * at], pads[2 * at + 1]
    if not any(isinstance(each, Value) or each for each in (*before, *after)):
        return self
    sizes = [_plus(size, *more) for size, *more in zip(self.shape, before, after, strict=True)]
    value = to.wide(self) if mode == "constant" else self
    given = to.constant(number, value.dtype) if mode == "constant" else None
    found = to.node(
        "Pad",
        value,
        to.vector([*before, *after]),
        given,
        dtype=value.dtype,
        shape=tuple(sizes),
        mode=names[mode],
    )
    return to.cast(found, self.dtype)


def _plus(size: Dim, before: Size, after: Size) -> Dim:
    if before == 0 and after == 0:
        return size
    found = known((size, dim_of(before), dim_of(after)))
    return None if found is None else sum(found)


def _wrapped(to: Nodes, value: Value, pads: Sequence[Size]) -> Value:
    """What comes out on one side comes in on the other."""
    for at in range(len(pads) // 2):
        place = value.rank - 1 - at
        before, after = pads[2 * at], pads[2 * at + 1]
        if not isinstance(before, int) or not isinstance(after, int) or min(before, after) < 0:
            raise to.refused("padding that goes round has to be a number, and not a negative one")
        parts = [value]
        if before:
            parts.insert(0, to.slice(value, place, -before, 2**63 - 1, size=before))
        if after:
            parts.append(to.slice(value, place, 0, after, size=after))
        value = to.concat(parts, place)
    return value


def _padding(mode: str) -> Row:
    def row(to: Nodes, self: Value, padding: Sequence[Size]) -> Value:
        return padded(to, self, padding, mode, 0.0)

    return row


def pixel_shuffle(to: Nodes, self: Value, upscale_factor: int) -> Value:
    value = self if self.rank == 4 else _flat(to, self)
    *_, channels, height, width = self.shape
    block = upscale_factor
    found = to.node(
        "DepthToSpace",
        value,
        dtype=self.dtype,
        shape=(value.shape[0], *_scaled((channels, height, width), block)),
        blocksize=block,
        mode="CRD",
    )
    return found if self.rank == 4 else _apart(to, found, self)


def _scaled(sizes: Shape, block: int) -> Shape:
    channels, height, width = (size if isinstance(size, int) else None for size in sizes)
    return (
        None if channels is None else channels // block**2,
        None if height is None else height * block,
        None if width is None else width * block,
    )


def pixel_unshuffle(to: Nodes, self: Value, downscale_factor: int) -> Value:
    block = downscale_factor
    value = self if self.rank == 4 else _flat(to, self)
    batch, channels, height, width = value.shape
    if known((channels, height, width)) is None:
        raise to.refused("places go into channels only where sizes are known")
    assert isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)
    apart = to.like(value, (batch, channels, height // block, block, width // block, block))
    moved = to.permute(apart, (0, 1, 3, 5, 2, 4))
    found = to.like(moved, (batch, channels * block**2, height // block, width // block))
    return found if self.rank == 4 else _apart(to, found, self)


def _flat(to: Nodes, value: Value) -> Value:
    """With one dimension in front of the last three."""
    sizes: list[Size] = [-1, *(to.size(value, dim) for dim in (-3, -2, -1))]
    return to.reshape(value, sizes, (None, *value.shape[-3:]))


def _apart(to: Nodes, value: Value, before: Value) -> Value:
    """With the dimensions in front that it had."""
    sizes = [*(to.size(before, dim) for dim in range(before.rank - 3)), *(to.size(value, dim) for dim in (1, 2, 3))]
    return to.reshape(value, sizes, (*before.shape[:-3], *value.shape[1:]))


def channel_shuffle(to: Nodes, self: Value, groups: int) -> Value:
    channels = self.shape[1]
    if not isinstance(channels, int):
        raise to.refused("channels are shuffled only where their number is known")
    rest = [to.size(self, dim) for dim in range(2, self.rank)]
    batch = to.size(self, 0)
    apart = to.reshape(
        self, [batch, groups, channels // groups, *rest], (self.shape[0], groups, channels // groups, *self.shape[2:])
    )
    return to.reshape(to.swap(apart, 1, 2), [batch, channels, *rest], self.shape)


ROWS: Mapping[str, Row] = {
    **{f"aten.max_pool{dims}d.default": _max_pool_of(dims) for dims in (1, 2, 3)},
    **{f"aten.max_pool{dims}d_with_indices.default": _max_pool_with_places(dims) for dims in (1, 2, 3)},
    **{f"aten.avg_pool{dims}d.default": _avg_pool_of(dims) for dims in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{dims}d.default": _adaptive_avg(dims) for dims in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{dims}d.default": _adaptive_avg(dims) for dims in (2, 3)},
    **{f"aten.adaptive_max_pool{dims}d.default": _adaptive_max(dims) for dims in (1, 2, 3)},
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": constant_pad,
    **{f"aten.reflection_pad{dims}d.default": _padding("reflect") for dims in (1, 2, 3)},
    **{f"aten.replication_pad{dims}d.default": _padding("replicate") for dims in (1, 2, 3)},
    "aten.pixel_shuffle.default": pixel_shuffle,
    "aten.pixel_unshuffle.default": pixel_unshuffle,
    "aten.channel_shuffle.default": channel_shuffle,
    "aten.native_channel_shuffle.default": channel_shuffle,
}
