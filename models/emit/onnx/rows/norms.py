"""Normalisation, norms and distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Scalar, Size, Value, axes

Row = Callable[..., Any]


def batch_norm(
    to: Nodes,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Value:
    channels = input.shape[1]
    if running_mean is None or running_var is None:
        dims = [0, *range(2, input.rank)]
        return _affine(to, _standard(to, input, dims, eps), weight, bias, 1)
    weight = _filled(to, weight, channels, 1.0, input.dtype)
    bias = _filled(to, bias, channels, 0.0, input.dtype)
    return to.node(
        "BatchNormalization",
        input,
        weight,
        bias,
        running_mean,
        running_var,
        dtype=input.dtype,
        shape=input.shape,
        epsilon=eps,
    )


def _filled(to: Nodes, value: Value | None, size: Any, number: float, dtype: str) -> Value:
    if value is not None:
        return value
    if not isinstance(size, int):
        raise to.refused("the number of channels has to be known")
    return to.constant([number] * size, dtype)


def _standard(to: Nodes, value: Value, dims: Sequence[int], eps: float) -> Value:
    """With mean 0 and variance 1 over some dimensions."""
    centred = to.sub(value, to.reduce("ReduceMean", value, list(dims), keep=True))
    variance = to.reduce("ReduceMean", to.mul(centred, centred), list(dims), keep=True)
    return to.div(centred, to.unary("Sqrt", to.add(variance, eps)))


def _affine(to: Nodes, value: Value, weight: Value | None, bias: Value | None, dim: int) -> Value:
    """Times a weight and plus a bias for each index of a dimension."""
    behind = range(1, value.rank - dim)
    if weight is not None:
        value = to.mul(value, to.unsqueeze(weight, *behind))
    return value if bias is None else to.add(value, to.unsqueeze(bias, *behind))


def layer_norm(
    to: Nodes,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-05,
    cudnn_enable: bool = True,
) -> Value:
    sizes = [each for each in normalized_shape if isinstance(each, int)]
    if weight is None and len(sizes) == len(normalized_shape):
        import numpy as np

        weight = to.constant(np.ones(sizes), input.dtype)
    if weight is None:
        dims = list(range(input.rank - len(normalized_shape), input.rank))
        return _standard(to, input, dims, eps)
    return to.node(
        "LayerNormalization",
        input,
        weight,
        bias,
        dtype=input.dtype,
        shape=input.shape,
        axis=-len(normalized_shape),
        epsilon=eps,
    )


def native_layer_norm(
    to: Nodes,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> tuple[Value, None, None]:
    return layer_norm(to, input, normalized_shape, weight, bias, eps), None, None


def group_norm(
    to: Nodes,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-05,
    cudnn_enabled: bool = True,
) -> Value:
    """As a norm of each group's instance, which there is an operator for."""
    sizes: list[Size] = [to.size(input, 0), num_groups, -1]
    groups = to.reshape(input, sizes, (input.shape[0], num_groups, None))
    one = to.constant([1.0] * num_groups, input.dtype)
    none = to.constant([0.0] * num_groups, input.dtype)
    found = to.node("InstanceNormalization", groups, one, none, dtype=input.dtype, shape=groups.shape, epsilon=eps)
    back = to.node("Reshape", found, to.shape(input), dtype=input.dtype, shape=input.shape)
    return _affine(to, back, weight, bias, 1)


def native_group_norm(
    to: Nodes,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    N: Size,
    C: Size,
    HxW: Size,
    group: int,
    eps: float,
) -> tuple[Value, None, None]:
    return group_norm(to, input, group, weight, bias, eps), None, None


def instance_norm(
    to: Nodes,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if not use_input_stats:
        return batch_norm(to, input, weight, bias, running_mean, running_var, False, momentum, eps)
    weight = _filled(to, weight, input.shape[1], 1.0, input.dtype)
    bias = _filled(to, bias, input.shape[1], 0.0, input.dtype)
    return to.node("InstanceNormalization", input, weight, bias, dtype=input.dtype, shape=input.shape, epsilon=eps)


def rms_norm(
    to: Nodes, input: Value, normalized_shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    eps = {"float16": 2.0**-10, "float64": 2.0**-52}.get(input.dtype, 2.0**-23) if eps is None else eps
    dims = list(range(input.rank - len(normalized_shape), input.rank))
    squares = to.reduce("ReduceMean", to.mul(input, input), dims, keep=True)
    found = to.div(input, to.unary("Sqrt", to.add(squares, eps)))
    return found if weight is None else to.mul(found, weight)


def fused_rms_norm(
    to: Nodes, input: Value, normalized_shape: Sequence[int], weight: Value | None, eps: float | None
) -> tuple[Value, None]:
    return rms_norm(to, input, normalized_shape, weight, eps), None


def length(to: Nodes, value: Value, order: Scalar, dims: Sequence[int], keep: bool) -> Value:
    """The norm of an order over dimensions."""
    if isinstance(order, Value):
        raise to.refused("the order of a norm has to be a number")
    if order == 2:
        return to.reduce("ReduceL2", value, list(dims), keep)
    if order == 1:
        return to.reduce("ReduceL1", value, list(dims), keep)
    size = to.unary("Abs", value)
    if math.isinf(order):
        return to.reduce("ReduceMax" if order > 0 else "ReduceMin", size, list(dims), keep)
    if order == 0:
        there = to.cast(to.unary("Not", to.compare("Equal", value, to.constant(0, value.dtype))), value.dtype)
        return to.reduce("ReduceSum", there, list(dims), keep)
    power = to.joint("Pow", size, to.constant(float(order), value.dtype))
    total = to.reduce("ReduceSum", power, list(dims), keep)
    return to.joint("Pow", total, to.constant(1 / order, value.dtype))


def vector_norm(
    to: Nodes,
    self: Value,
    ord: Scalar = 2,
    dim: Sequence[int] | int | None = None,
    keepdim: bool = False,
    *,
    dtype: str | None = None,
) -> Value:
    value = to.cast(self, dtype) if dtype else self
    return length(to, value, ord, axes(dim, value.rank), keepdim)


def norm(to: Nodes, self: Value, p: Scalar = 2) -> Value:
    return length(to, self, p, axes(None, self.rank), False)


def norm_of(to: Nodes, self: Value, p: Scalar | None, dim: Sequence[int], keepdim: bool = False) -> Value:
    return length(to, self, 2 if p is None else p, axes(dim, self.rank), keepdim)


def norm_typed(to: Nodes, self: Value, p: Scalar | None, *, dtype: str) -> Value:
    return length(to, to.cast(self, dtype), 2 if p is None else p, axes(None, self.rank), False)


def norm_of_typed(to: Nodes, self: Value, p: Scalar | None, dim: Sequence[int], keepdim: bool, *, dtype: str) -> Value:
    return length(to, to.cast(self, dtype), 2 if p is None else p, axes(dim, self.rank), keepdim)


def frobenius_norm(to: Nodes, self: Value, dim: Sequence[int], keepdim: bool = False) -> Value:
    return length(to, self, 2, axes(dim, self.rank), keepdim)


def linalg_norm(
    to: Nodes,
    self: Value,
    ord: Scalar | None = None,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: str | None = None,
) -> Value:
    value = to.cast(self, dtype) if dtype else self
    several = axes(dim, value.rank)
    if ord is not None and (len(several) > 1 or dim is None and value.rank > 1):
        raise to.refused("norms of matrices are Frobenius' alone")
    return length(to, value, 2 if ord is None else ord, several, keepdim)


def linalg_norm_named(
    to: Nodes,
    self: Value,
    ord: str,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: str | None = None,
) -> Value:
    if ord != "fro":
        raise to.refused("norms of matrices are Frobenius' alone")
    return linalg_norm(to, self, None, dim, keepdim, dtype=dtype)


def matrix_norm_named(
    to: Nodes,
    self: Value,
    ord: str = "fro",
    dim: Sequence[int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: str | None = None,
) -> Value:
    return linalg_norm_named(to, self, ord, dim, keepdim, dtype=dtype)


def cosine_similarity(to: Nodes, x1: Value, x2: Value, dim: int = 1, eps: float = 1e-08) -> Value:
    product = to.mul(x1, x2)
    place = [dim % product.rank]
    lengths = [length(to, to.expand_as(each, product), 2, place, True) for each in (x1, x2)]
    one, two = (
        to.div(each, to.joint("Max", size, to.constant(eps, each.dtype)))
        for each, size in zip((x1, x2), lengths, strict=True)
    )
    return to.reduce("ReduceSum", to.mul(one, two), place, keep=False)


def pairwise_distance(
    to: Nodes, x1: Value, x2: Value, p: float = 2, eps: float = 1e-06, keepdim: bool = False
) -> Value:
    difference = to.add(to.sub(x1, x2), eps)
    return length(to, difference, p, [difference.rank - 1], keepdim)


def cdist(to: Nodes, x1: Value, x2: Value, p: float = 2, compute_mode: int | None = None) -> Value:
    return length(to, to.sub(to.unsqueeze(x1, -2), to.unsqueeze(x2, -3)), p, [max(x1.rank, x2.rank)], False)


def dist(to: Nodes, self: Value, other: Value, p: Scalar = 2) -> Value:
    difference = to.sub(self, other)
    return length(to, difference, p, axes(None, difference.rank), False)


def weight_norm(to: Nodes, v: Value, g: Value, dim: int = 0) -> Value:
    dims = [at for at in range(v.rank) if at != dim % v.rank] if dim != -1 else list(range(v.rank))
    return to.mul(v, to.div(g, length(to, v, 2, dims, True)))


def weight_norm_interface(to: Nodes, v: Value, g: Value, dim: int = 0) -> tuple[Value, None]:
    return weight_norm(to, v, g, dim), None


ROWS: Mapping[str, Row] = {
    "aten.batch_norm.default": batch_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.native_layer_norm.default": native_layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.native_group_norm.default": native_group_norm,
    "aten.instance_norm.default": instance_norm,
    "aten.rms_norm.default": rms_norm,
    "aten._fused_rms_norm.default": fused_rms_norm,
    "aten.linalg_vector_norm.default": vector_norm,
    "aten.norm.Scalar": norm,
    "aten.norm.ScalarOpt_dim": norm_of,
    "aten.norm.ScalarOpt_dtype": norm_typed,
    "aten.norm.ScalarOpt_dim_dtype": norm_of_typed,
    "aten.frobenius_norm.dim": frobenius_norm,
    "aten.linalg_norm.default": linalg_norm,
    "aten.linalg_norm.ord_str": linalg_norm_named,
    "aten.linalg_matrix_norm.str_ord": matrix_norm_named,
    "aten.cosine_similarity.default": cosine_similarity,
    "aten.pairwise_distance.default": pairwise_distance,
    "aten.cdist.default": cdist,
    "aten._cdist_forward.default": cdist,
    "aten.dist.default": dist,
    "aten._weight_norm.default": weight_norm,
    "aten._weight_norm_interface.default": weight_norm_interface,
}
