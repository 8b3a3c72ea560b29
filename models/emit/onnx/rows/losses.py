"""Losses that some networks give back beside their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Value

Row = Callable[..., Any]
# How torch numbers what is made of the losses of each number.
NONE, MEAN, SUM = 0, 1, 2


def _reduced(to: Nodes, value: Value, reduction: int) -> Value:
    if reduction == NONE:
        return value
    return to.reduce("ReduceMean" if reduction == MEAN else "ReduceSum", value, list(range(value.rank)), keep=False)


def mse_loss(to: Nodes, self: Value, target: Value, reduction: int = MEAN) -> Value:
    difference = to.sub(self, target)
    return _reduced(to, to.mul(difference, difference), reduction)


def l1_loss(to: Nodes, self: Value, target: Value, reduction: int = MEAN) -> Value:
    return _reduced(to, to.unary("Abs", to.sub(self, target)), reduction)


def smooth_l1_loss(to: Nodes, self: Value, target: Value, reduction: int = MEAN, beta: float = 1.0) -> Value:
    size = to.unary("Abs", to.sub(self, target))
    near, far = to.mul(to.mul(size, size), 0.5 / beta), to.sub(size, 0.5 * beta)
    return _reduced(to, to.where(to.compare("Less", size, to.constant(beta, size.dtype)), near, far), reduction)


def huber_loss(to: Nodes, self: Value, target: Value, reduction: int = MEAN, delta: float = 1.0) -> Value:
    size = to.unary("Abs", to.sub(self, target))
    near, far = to.mul(to.mul(size, size), 0.5), to.mul(to.sub(size, 0.5 * delta), delta)
    return _reduced(to, to.where(to.compare("Less", size, to.constant(delta, size.dtype)), near, far), reduction)


def binary_cross_entropy_with_logits(
    to: Nodes,
    self: Value,
    target: Value,
    weight: Value | None = None,
    pos_weight: Value | None = None,
    reduction: int = MEAN,
) -> Value:
    """(1 - t)·x + (1 + (p - 1)·t)·log(1 + e^-x)."""
    softened = to.unary("Softplus", to.unary("Neg", self))
    if pos_weight is not None:
        softened = to.mul(to.add(to.mul(to.sub(pos_weight, 1.0), target), 1.0), softened)
    found = to.add(to.mul(to.sub(1.0, target), self), softened)
    return _reduced(to, found if weight is None else to.mul(found, weight), reduction)


ROWS: Mapping[str, Row] = {
    "aten.mse_loss.default": mse_loss,
    "aten.l1_loss.default": l1_loss,
    "aten.smooth_l1_loss.default": smooth_l1_loss,
    "aten.huber_loss.default": huber_loss,
    "aten.binary_cross_entropy_with_logits.default": binary_cross_entropy_with_logits,
}
