"""Attention as one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Size, Value, broadcast


def attention(
    to: Nodes,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(q·kᵀ·scale + mask)·v; a row that is masked altogether comes to zero."""
    if enable_gqa:
        key, value = (_repeated(to, each, query) for each in (key, value))
    width = query.shape[-1]
    if scale is not None:
        query = to.mul(query, float(scale))
    elif isinstance(width, int):
        query = to.mul(query, 1 / math.sqrt(width))
    else:
        query = to.div(query, to.cast(to.unary("Sqrt", to.cast(to.size(query, -1), "float32")), query.dtype))
    batch = broadcast(query.shape[:-2], key.shape[:-2])
    scores = to.matmul(query, to.swap(key), (*batch, query.shape[-2], key.shape[-2]))
    if is_causal:
        ones = to.filled([to.size(query, -2), to.size(key, -2)], 1, "int64")
        attn_mask = to.cast(to.node("Trilu", ones, dtype="int64", shape=ones.shape, upper=0), "bool")
    allowed = None
    if attn_mask is not None and attn_mask.dtype == "bool":
        allowed = attn_mask
        scores = to.where(attn_mask, scores, to.constant(-math.inf, scores.dtype))
    elif attn_mask is not None:
        scores = to.add(scores, to.cast(attn_mask, scores.dtype))
    weights = to.unary("Softmax", scores, axis=scores.rank - 1)
    if allowed is not None or attn_mask is not None:
        none = to.node("IsNaN", weights, dtype="bool", shape=weights.shape)
        weights = to.where(none, to.constant(0.0, weights.dtype), weights)
    return to.matmul(weights, value, (*broadcast(batch, value.shape[:-2]), query.shape[-2], value.shape[-1]))


def _repeated(to: Nodes, value: Value, query: Value) -> Value:
    """Each head of keys or values as often as queries share it."""
    heads, wanted = value.shape[-3], query.shape[-3]
    if not isinstance(heads, int) or not isinstance(wanted, int):
        raise to.refused("the number of heads has to be known")
    if heads == wanted:
        return value
    sizes: list[Size] = [to.size(value, dim) for dim in range(value.rank)]
    apart = to.unsqueeze(value, value.rank - 2)
    shape = (*value.shape[:-2], wanted // heads, *value.shape[-2:])
    many = to.expand(apart, [1] * (value.rank - 2) + [wanted // heads, 1, 1], shape)
    return to.reshape(many, [*sizes[:-3], wanted, *sizes[-2:]], (*value.shape[:-3], wanted, *value.shape[-2:]))


def flash_attention(
    to: Nodes,
    query: Value,
    key: Value,
    value: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> tuple[Value, None]:
    return attention(to, query, key, value, attn_mask, 0.0, is_causal, scale=scale), None


ROWS: Mapping[str, Callable[..., Any]] = {
    "aten.scaled_dot_product_attention.default": attention,
    "aten._scaled_dot_product_flash_attention_for_cpu.default": flash_attention,
}
