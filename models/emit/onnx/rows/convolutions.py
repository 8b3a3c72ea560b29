"""Convolutions, transposed or not, of one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Dim, Value

Row = Callable[..., Any]


def convolution(
    to: Nodes,
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    dims = weight.rank - 2
    if input.rank == weight.rank - 1:
        several = to.unsqueeze(input, 0)
        found = convolution(to, several, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        return to.squeeze(found, 0)
    stride, padding, dilation, output_padding = (
        spread(each, dims) for each in (stride, padding, dilation, output_padding)
    )
    kernel = weight.shape[2:]
    places: list[Dim] = []
    for at, size in enumerate(input.shape[2:]):
        width = kernel[at]
        if not isinstance(size, int) or not isinstance(width, int):
            places.append(None)
        elif transposed:
            places.append(
                (size - 1) * stride[at] - 2 * padding[at] + dilation[at] * (width - 1) + output_padding[at] + 1
            )
        else:
            places.append((size + 2 * padding[at] - dilation[at] * (width - 1) - 1) // stride[at] + 1)
    channels = weight.shape[1] if transposed else weight.shape[0]
    if transposed:
        channels = channels * groups if isinstance(channels, int) else None
    return to.node(
        "ConvTranspose" if transposed else "Conv",
        input,
        weight,
        bias,
        dtype=input.dtype,
        shape=(input.shape[0], channels, *places),
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
        **({"output_padding": output_padding} if transposed and any(output_padding) else {}),
    )


def spread(numbers: int | Sequence[int], dims: int) -> list[int]:
    """A number for each dimension."""
    several = [numbers] if isinstance(numbers, int) else list(numbers)
    return several * dims if len(several) == 1 else several


def _plain(
    to: Nodes,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    return convolution(to, input, weight, bias, stride, padding, dilation, False, (0,), groups)


def _padded(
    to: Nodes,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: str = "valid",
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    """By the name of a padding: of what does not go by half, more is at the end."""
    dims = weight.rank - 2
    if padding == "valid":
        return _plain(to, input, weight, bias, stride, (0,), dilation, groups)
    total = [
        d * (k - 1) if isinstance(k, int) else 0 for d, k in zip(spread(dilation, dims), weight.shape[2:], strict=True)
    ]
    before, after = [each // 2 for each in total], [each - each // 2 for each in total]
    channels = input.rank - dims
    return to.node(
        "Conv",
        input,
        weight,
        bias,
        dtype=input.dtype,
        shape=(*input.shape[: channels - 1], weight.shape[0], *input.shape[channels:]),
        strides=spread(stride, dims),
        pads=[*before, *after],
        dilations=spread(dilation, dims),
        group=groups,
    )


def _transposed(
    to: Nodes,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Value:
    return convolution(to, input, weight, bias, stride, padding, dilation, True, output_padding, groups)


ROWS: Mapping[str, Row] = {
    "aten.convolution.default": convolution,
    **{f"aten.conv{dims}d.default": _plain for dims in (1, 2, 3)},
    **{f"aten.conv{dims}d.padding": _padded for dims in (1, 2, 3)},
    "aten.conv_transpose1d.default": _transposed,
    "aten.conv_transpose2d.input": _transposed,
    "aten.conv_transpose3d.input": _transposed,
}
