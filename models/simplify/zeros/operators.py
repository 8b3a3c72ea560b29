"""One rule per kind of operator: how channels pass through it. A rule returns False where it cannot tell.

To teach another operator: name it in one of the sets, or write a rule and enter it in `RULES`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rightrank.models.program.calls import BATCH_NORM, CONVOLUTION, LINEAR, BatchNorm, Convolution, Linear
from rightrank.models.program.execute import resolve
from rightrank.models.program.graph import Argument, Node, Ref
from rightrank.models.simplify.zeros import columns
from rightrank.models.simplify.zeros.channels import Channels
from rightrank.models.simplify.zeros.flow import Flow, Product, Resize, Rule, keywords, plain

# So many rows of a weight at a time are taken to double precision.
ROWS = 64
_GROUPS = Convolution.__slots__.index("groups")


def _aten(text: str) -> list[str]:
    return [f"aten.{name}" if "." in name else f"aten.{name}.default" for name in text.split()]


def convolution(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    # Of the numbers, what they come to: a program may compute them.
    call, numbers = Convolution.of(node), Convolution(*arguments)
    x, weight = arguments[:2]
    if numbers.transposed or x.dim() != weight.dim():
        return False
    return _product(flow, node, call, 1, numbers.groups, any(numbers.padding))


def linear(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    call = Linear.of(node)
    weight, bias = flow.tensor(call.weight), flow.tensor(call.bias)
    if weight is None or weight.dim() != 2 or result.dim() < 2:
        return False
    if bias is not None and bias.shape != weight.shape[:1]:
        return False
    return _product(flow, node, call, result.dim() - 1, 1, False)


def _product(flow: Flow, node: Node, call: Linear | Convolution, axis: int, groups: int, padded: bool) -> bool:
    """Fresh units for the outputs; in a grouped convolution, one unit for all inputs and outputs of a group."""
    weight, bias, source = flow.stored(call.weight), flow.stored(call.bias), flow.of(call.input)
    if weight is None or (call.bias is not None and bias is None) or flow.stored(call.input) is not None:
        return False
    if (source is None and groups > 1) or (source is not None and source.axis != axis):
        return False
    matrix = flow.program.tensors[weight]
    units = flow.units.fresh(len(matrix))
    if groups == 1:
        claim = {0: units} if source is None else {0: units, 1: source.units}
    else:
        assert source is not None
        grouped = source.units.reshape(groups, -1)
        for column in grouped.T:
            flow.units.tie(grouped[:, 0], column)
        flow.units.tie(grouped[:, 0].repeat_interleave(len(matrix) // groups), units)
        claim = {0: units}
        flow.resizes.append(Resize(node.name, _GROUPS, None, grouped[:, 0]))
    flow.claim(call.weight, claim)
    flow.claim(call.bias, {0: units})
    zero = columns.norms(matrix)
    limit = columns.cut(zero, flow.threshold)
    offset = flow.program.tensors[bias].double() if bias else torch.zeros(len(matrix)).double()
    known, values = _outputs(matrix, offset, source, groups, padded, zero, limit)
    flow.products.append(Product(node, weight, bias, units, zero <= limit, source if groups == 1 else None, padded))
    return flow.give(node, Channels(axis, units, known, values))


def _outputs(
    weight: Tensor,
    bias: Tensor,
    source: Channels | None,
    groups: int,
    padded: bool,
    norms: Tensor,
    limit: float,
) -> tuple[Tensor, Tensor]:
    """Which output channels are constant, and their values: those that read nothing but constant channels
    through weights that are not zero. Padding breaks all constants but zero."""
    if source is None or not bool(source.known.any()):
        return norms <= limit, bias
    kernel = weight.detach().reshape(groups, len(weight) // groups, weight.shape[1], -1)
    steady = (source.known & ((source.values == 0) | (not padded))).reshape(groups, 1, -1)
    inputs = torch.where(steady, source.values.reshape(groups, 1, -1), 0.0)
    varying, constant = [], []
    for rows in torch.split(kernel, ROWS, dim=1):
        varying.append((rows.double().square().sum(3) * ~steady).sum(2).sqrt())
        constant.append((rows.double().sum(3) * inputs).sum(2))
    return torch.cat(varying, 1).flatten() <= limit, bias + torch.cat(constant, 1).flatten()


def batch_norm(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """A scale of zero makes a channel constant whatever it reads."""
    call = BatchNorm.of(node)
    source = flow.of(call.input)
    options = (call.training, call.momentum, call.eps, call.cudnn_enabled)
    if source is None or source.axis != 1 or call.training or not plain(options):
        return False
    tensors = (call.weight, call.bias, call.running_mean, call.running_var)
    if any(argument is not None and flow.stored(argument) is None for argument in tensors):
        return False
    if call.running_mean is None or call.running_var is None:
        return False
    for argument in tensors:
        flow.claim(argument, {0: source.units})
    found = (flow.tensor(argument) for argument in tensors)
    scale, shift, mean, variance = (None if tensor is None else tensor.double() for tensor in found)
    values = resolve(node.op)(source.values[None], scale, shift, mean, variance, *options)[0]
    known = source.known
    if scale is not None:
        limit = columns.EXACT if flow.threshold is None else min(flow.threshold, columns.EXACT)
        dead = scale.abs() <= limit * scale.abs().max()
        offset = torch.zeros_like(scale) if shift is None else shift
        known, values = known | dead, torch.where(dead, offset, values)
    return flow.give(node, Channels(1, source.units, known, values))


def unary(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Elementwise, on one tensor."""
    source = flow.of(node.args[0])
    if source is None or not plain(node.args[1:]):
        return False
    values = resolve(node.op)(source.values, *arguments[1:], **keywords(node)).double()
    return flow.give(node, Channels(source.axis, source.units, source.known, values))


def prelu(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    source, slope = flow.of(node.args[0]), flow.stored(node.args[1])
    if source is None or source.axis != 1 or slope is None:
        return False
    weight = flow.program.tensors[slope].double().flatten()
    if arguments[1].dim() != 1 and len(weight) > 1:
        return False
    flow.claim(node.args[1], {0: source.units} if len(weight) > 1 else {})
    values = torch.where(source.values > 0, source.values, weight * source.values)
    return flow.give(node, Channels(1, source.units, source.known, values))


def binary(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Elementwise, on two operands that may broadcast: their channels are tied."""
    if not plain(node.args[2:]) or len(node.args) < 2:
        return False
    rank = result.dim()
    pairs = list(zip(node.args[:2], arguments[:2], strict=True))
    found = [(channels, value.dim()) for argument, value in pairs if (channels := flow.of(argument)) is not None]
    axes = {channels.axis + rank - dims for channels, dims in found}
    if len(axes) != 1 or 0 in axes:
        return False
    (axis,) = axes
    size = result.shape[axis]
    one, other = (_operand(flow, argument, value, axis, rank, size) for argument, value in pairs)
    if one is None or other is None or any(len(channels.units) != size for channels, _ in found):
        return False
    if len(found) == 2:
        flow.units.tie(found[0][0].units, found[1][0].units)
    units = found[0][0].units
    for argument, value in pairs:
        if flow.stored(argument) is not None:
            inside = axis - rank + value.dim()
            flow.claim(argument, {inside: units} if inside >= 0 and value.shape[inside] == size > 1 else {})
    values = resolve(node.op)(one[1], other[1], *arguments[2:], **keywords(node)).double().expand(size)
    known = (one[0] & other[0]).expand(size)
    if node.op.startswith("aten.mul"):
        nothing = (one[0] & (one[1] == 0)) | (other[0] & (other[1] == 0))
        known, values = (known | nothing).expand(size), torch.where(nothing, 0.0, values)
    return flow.give(node, Channels(axis, units, known, values))


def _operand(
    flow: Flow, argument: Argument, value: Any, axis: int, rank: int, size: int
) -> tuple[Tensor, Tensor] | None:
    """Where an operand is constant along `axis` of the result, and its values there; None where it has
    channels that cannot be followed."""
    if not isinstance(argument, Ref):
        return torch.tensor(True), torch.tensor(float(value), dtype=torch.float64)
    channels = flow.of(argument)
    if channels is not None:
        return channels.known, channels.values
    stored = flow.stored(argument)
    inside = axis - rank + value.dim() if isinstance(value, Tensor) else -1
    if stored is not None and (value.numel() == 1 or (inside >= 0 and value.shape[inside] == value.numel() == size)):
        return torch.tensor(True), flow.program.tensors[stored].double().flatten()
    if stored is None and inside >= 0 and value.shape[inside] == size:
        return None
    return torch.tensor(False), torch.tensor(0.0, dtype=torch.float64)


def same(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Each channel on its own, and a constant stays itself: maxima, interpolation."""
    source = flow.of(node.args[0])
    if source is None or not _images(node, source, arguments[0]):
        return False
    return flow.give(node, source)


def copy(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    source = flow.of(node.args[0])
    return source is not None and flow.give(node, source)


def _images(node: Node, source: Channels, x: Tensor) -> bool:
    """Whether `x` is (N, C, …) with as many axes as the operator's name says: max_pool2d takes four."""
    return source.axis == 1 and f"{x.dim() - 2}d" in node.op


def average(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Average pooling, which counts its padding as zeros."""
    source = flow.of(node.args[0])
    padding = arguments[3] if len(arguments) > 3 else 0
    padded = any(padding) if isinstance(padding, list) else bool(padding)
    exotic = len(arguments) > 4
    if source is not None and (padded or exotic):
        source = source.only(source.values == 0)
    if source is None or not _images(node, source, arguments[0]):
        return False
    return flow.give(node, source)


def reduction(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Mean, maximum, sum over axes that are not the channels'."""
    source = flow.of(node.args[0])
    dims = arguments[1] if len(arguments) > 1 else None
    if source is None or dims is None or not plain(node.args[1:]):
        return False
    rank = arguments[0].dim()
    gone = {dim % rank for dim in (dims if isinstance(dims, list) else [dims])}
    keep = bool(arguments[2]) if len(arguments) > 2 else False
    axis = source.axis if keep else source.axis - sum(dim < source.axis for dim in gone)
    if not gone or source.axis in gone or axis == 0:
        return False
    if node.op.startswith("aten.sum"):
        source = source.only(source.values == 0)
    return flow.give(node, source.at(axis))


def pad(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    source = flow.of(node.args[0])
    if source is None or not plain(node.args[1:]):
        return False
    widths = arguments[1]
    at = 2 * (arguments[0].dim() - 1 - source.axis)
    if any(widths[at : at + 2]):
        return False
    constant = node.op != "aten.pad.default" or len(arguments) < 3 or arguments[2] == "constant"
    place = 3 if node.op == "aten.pad.default" else 2
    fill = arguments[place] if len(arguments) > place and arguments[place] is not None else 0.0
    return flow.give(node, source.only(source.values == fill) if constant else source)


def rearrangement(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Reshapes, permutations, slices: followed by doing the same to the channels' numbers."""
    source = flow.of(node.args[0])
    if source is None or len(source.units) < 2 or not isinstance(result, Tensor):
        return False
    x = arguments[0]
    lines = [1] * x.dim()
    lines[source.axis] = -1
    index = torch.arange(len(source.units), dtype=torch.int32).reshape(lines).expand(x.shape)
    moved = resolve(node.op)(index, *arguments[1:], **keywords(node))
    axis = _varying(moved)
    if axis is None:
        return False
    order = moved.movedim(axis, -1).reshape(-1, moved.shape[axis])[0].long()
    sizes = {"aten.reshape.default", "aten.expand.default"}
    if node.op in sizes:
        given = node.args[1]
        if not isinstance(given, tuple) or not isinstance(given[axis], int):
            return False
        if given[axis] != -1:
            flow.resizes.append(Resize(node.name, 1, axis, source.units[order]))
    free = node.op in {"aten.reshape.default", "aten.flatten.using_ints"}
    if not free and not torch.equal(order, torch.arange(len(source.units))):
        return False
    return flow.give(node, source.take(axis, order))


def _varying(numbers: Tensor) -> int | None:
    """The one axis, not the batch's, along which the numbers change."""
    if not numbers.numel():
        return None
    for axis in range(1, numbers.dim()):
        lines = numbers.movedim(axis, -1)
        first = lines.reshape(-1, numbers.shape[axis])[0]
        if numbers.shape[axis] > 1 and bool((lines == first).all()):
            return axis
    return None


def concatenation(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Along the channels, one after the other; along another axis, tied."""
    parts = node.args[0]
    if not isinstance(parts, tuple) or not plain(node.args[1:]):
        return False
    axes = {channels.axis for channels in map(flow.of, parts) if channels is not None}
    along = (arguments[1] if len(arguments) > 1 else 0) % result.dim()
    if len(axes) != 1 or any(flow.stored(part) is not None for part in parts):
        return False
    (axis,) = axes
    joined = []
    for part, value in zip(parts, arguments[0], strict=True):
        channels = flow.of(part)
        if channels is None:
            channels = Channels.unknown(axis, flow.units.fresh(value.shape[axis]))
            flow.units.pin(channels.units.tolist(), f"{node.op} joins it with what cannot be followed")
        joined.append(channels)
    if along == axis:
        units, known, values = (
            torch.cat([getattr(c, field) for c in joined]) for field in ("units", "known", "values")
        )
        return flow.give(node, Channels(axis, units, known, values))
    whole = joined[0]
    for other in joined[1:]:
        flow.units.tie(whole.units, other.units)
        whole = whole.only(other.known & (whole.values == other.values))
    return flow.give(node, whole)


def size(flow: Flow, node: Node, arguments: list[Any], result: Any) -> bool:
    """Only the number of channels itself changes with a removal."""
    source = flow.of(node.args[0])
    if flow.stored(node.args[0]) is not None:
        return False
    return source is None or not isinstance(arguments[1], int) or arguments[1] % arguments[0].dim() != source.axis


_UNARY = _aten(
    """relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid sigmoid tanh softplus
    log_sigmoid hardshrink softshrink threshold special_expit abs neg sign exp expm1 log1p sqrt square sin cos
    erf floor ceil round trunc clamp clip clamp_min clamp_max nan_to_num pow.Tensor_Scalar
    add.Scalar sub.Scalar mul.Scalar div.Scalar rsub.Scalar _to_copy to.dtype"""
)
_BINARY = _aten("add.Tensor sub.Tensor mul.Tensor div.Tensor maximum minimum max.other min.other")
_COPIES = _aten("clone contiguous")
_SAME = _aten(
    """max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d upsample_nearest2d upsample_nearest2d.vec
    upsample_bilinear2d upsample_bilinear2d.vec"""
)
_AVERAGES = _aten("avg_pool1d avg_pool2d avg_pool3d")
_REDUCTIONS = _aten("mean.dim sum.dim_IntList amax amin")
_REARRANGEMENTS = _aten(
    """reshape flatten.using_ints unsqueeze squeeze squeeze.dim squeeze.dims permute transpose.int movedim.int
    expand slice.Tensor select.int flip"""
)

RULES: dict[str, Rule] = {
    CONVOLUTION: convolution,
    LINEAR: linear,
    BATCH_NORM: batch_norm,
    "aten.prelu.default": prelu,
    "aten._prelu_kernel.default": prelu,
    "aten.cat.default": concatenation,
    "aten.concat.default": concatenation,
    "aten.sym_size.int": size,
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_COPIES, copy),
    **dict.fromkeys(_SAME, same),
    **dict.fromkeys(_AVERAGES, average),
    **dict.fromkeys(_REDUCTIONS, reduction),
    **dict.fromkeys(_REARRANGEMENTS, rearrangement),
    **dict.fromkeys(_aten("constant_pad_nd pad"), pad),
}
