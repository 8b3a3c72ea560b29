"""Activations, and what makes probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.rows.pointwise import LARGEST
from rightrank.models.emit.onnx.values import Value, axis

Row = Callable[..., Any]


def relu(to: Nodes, self: Value) -> Value:
    return to.unary("Relu", self) if self.floating else to.joint("Max", self, 0)


def hardtanh(to: Nodes, self: Value, min_val: float = -1, max_val: float = 1) -> Value:
    bounds = [to.constant(each, self.dtype) for each in (min_val, max_val)]
    return to.node("Clip", self, *bounds, dtype=self.dtype, shape=self.shape)


def leaky_relu(to: Nodes, self: Value, negative_slope: float = 0.01) -> Value:
    return to.unary("LeakyRelu", self, alpha=float(negative_slope))


def elu(to: Nodes, self: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale != 1:
        zero = to.constant(0.0, self.dtype)
        below = to.mul(to.sub(to.unary("Exp", to.mul(self, input_scale)), 1.0), float(alpha))
        found = to.where(to.compare("Greater", self, zero), self, below)
    else:
        found = to.unary("Elu", self, alpha=float(alpha))
    return found if scale == 1 else to.mul(found, float(scale))


def selu(to: Nodes, self: Value) -> Value:
    return to.unary("Selu", self)


def celu(to: Nodes, self: Value, alpha: float = 1.0) -> Value:
    return to.unary("Celu", self, alpha=float(alpha)) if self.dtype == "float32" else elu(to, self, alpha, 1, 1 / alpha)


def gelu(to: Nodes, self: Value, *, approximate: str = "none") -> Value:
    if approximate == "tanh":
        cube = to.mul(to.mul(self, self), self)
        inner = to.mul(to.add(self, to.mul(cube, 0.044715)), math.sqrt(2 / math.pi))
        return to.mul(to.mul(self, 0.5), to.add(to.unary("Tanh", inner), 1.0))
    # As onnxruntime finds it, to make one kernel of it.
    share = to.add(to.unary("Erf", to.div(self, math.sqrt(2.0))), 1.0)
    return to.mul(to.mul(self, share), 0.5)


def silu(to: Nodes, self: Value) -> Value:
    return to.mul(self, to.unary("Sigmoid", self))


def softplus(to: Nodes, self: Value, beta: float = 1, threshold: float = 20) -> Value:
    scaled = self if beta == 1 else to.mul(self, float(beta))
    found = to.unary("Softplus", scaled)
    found = found if beta == 1 else to.div(found, float(beta))
    return to.where(to.compare("Greater", scaled, to.constant(float(threshold), self.dtype)), self, found)


def mish(to: Nodes, self: Value) -> Value:
    return to.mul(self, to.unary("Tanh", to.unary("Softplus", self)))


def hardswish(to: Nodes, self: Value) -> Value:
    return to.unary("HardSwish", self)


def hardsigmoid(to: Nodes, self: Value) -> Value:
    return to.unary("HardSigmoid", self, alpha=1 / 6, beta=0.5)


def log_sigmoid(to: Nodes, self: Value) -> Value:
    return to.unary("Neg", to.unary("Softplus", to.unary("Neg", self)))


def log_sigmoid_forward(to: Nodes, self: Value) -> tuple[Value, None]:
    return log_sigmoid(to, self), None


def hardshrink(to: Nodes, self: Value, lambd: float = 0.5) -> Value:
    small = to.compare("LessOrEqual", to.unary("Abs", self), to.constant(float(lambd), self.dtype))
    return to.where(small, to.constant(0.0, self.dtype), self)


def softshrink(to: Nodes, self: Value, lambd: float = 0.5) -> Value:
    size = to.unary("Relu", to.sub(to.unary("Abs", self), float(lambd)))
    return to.mul(to.unary("Sign", self), size)


def threshold(to: Nodes, self: Value, threshold: float, value: float) -> Value:
    above = to.compare("Greater", self, to.constant(threshold, self.dtype))
    return to.where(above, self, to.constant(value, self.dtype))


def glu(to: Nodes, self: Value, dim: int = -1) -> Value:
    place = axis(dim, self.rank)
    size = self.shape[place]
    half = size // 2 if isinstance(size, int) else None
    result = self.dtype, (*self.shape[:place], half, *self.shape[place + 1 :])
    one, two = to.several("Split", (self,), (result, result), axis=place, num_outputs=2)
    return to.mul(one, to.unary("Sigmoid", two))


def prelu(to: Nodes, self: Value, weight: Value) -> Value:
    if self.rank > 2 and weight.shape != (1,):
        weight = to.unsqueeze(weight, *range(1, self.rank - 1))
    return to.node("PRelu", self, weight, dtype=self.dtype, shape=self.shape)


def prelu_kernel(to: Nodes, self: Value, weight: Value) -> Value:
    return to.node("PRelu", self, weight, dtype=self.dtype, shape=self.shape)


def rrelu(
    to: Nodes,
    self: Value,
    lower: float = 0.125,
    upper: float = 0.3333333333333333,
    training: bool = False,
    generator: None = None,
) -> Value:
    return leaky_relu(to, self, (lower + upper) / 2)


def softmax(to: Nodes, self: Value, dim: int, dtype: str | None = None) -> Value:
    return _probabilities(to, "Softmax", self, dim, dtype)


def log_softmax(to: Nodes, self: Value, dim: int, dtype: str | None = None) -> Value:
    return _probabilities(to, "LogSoftmax", self, dim, dtype)


def half_softmax(to: Nodes, self: Value, dim: int, half_to_float: bool) -> Value:
    return _probabilities(to, "Softmax", self, dim, "float32" if half_to_float else None)


def half_log_softmax(to: Nodes, self: Value, dim: int, half_to_float: bool) -> Value:
    return _probabilities(to, "LogSoftmax", self, dim, "float32" if half_to_float else None)


def safe_softmax(to: Nodes, self: Value, dim: int, dtype: str | None = None) -> Value:
    """Zero where all of a row is minus infinity."""
    found = _probabilities(to, "Softmax", self, dim, dtype)
    value = to.cast(self, found.dtype)
    most = to.reduce("ReduceMax", value, [axis(dim, value.rank)], keep=True)
    # OpenVINO's largest of nothing but minus infinity is the least finite number, which may be one in earnest.
    least = to.compare("LessOrEqual", most, to.constant(-LARGEST[value.dtype], value.dtype))
    nowhere = to.node("IsNaN", found, dtype="bool", shape=found.shape)
    none = to.node("And", least, nowhere, dtype="bool", shape=found.shape)
    return to.where(none, to.constant(0.0, value.dtype), found)


def _probabilities(to: Nodes, op: str, value: Value, dim: int, dtype: str | None) -> Value:
    value = to.cast(value, dtype) if dtype else to.single(value)
    if not value.rank:
        return to.squeeze(_probabilities(to, op, to.unsqueeze(value, 0), 0, None), 0)
    return to.unary(op, value, axis=axis(dim, value.rank))


ROWS: Mapping[str, Row] = {
    "aten.relu.default": relu,
    "aten.relu6.default": lambda to, self: hardtanh(to, self, 0, 6),
    "aten.hardtanh.default": hardtanh,
    "aten.leaky_relu.default": leaky_relu,
    "aten.elu.default": elu,
    "aten.selu.default": selu,
    "aten.celu.default": celu,
    "aten.gelu.default": gelu,
    "aten.silu.default": silu,
    "aten.softplus.default": softplus,
    "aten.mish.default": mish,
    "aten.hardswish.default": hardswish,
    "aten.hardsigmoid.default": hardsigmoid,
    "aten.log_sigmoid.default": log_sigmoid,
    "aten.log_sigmoid_forward.default": log_sigmoid_forward,
    "aten.hardshrink.default": hardshrink,
    "aten.softshrink.default": softshrink,
    "aten.threshold.default": threshold,
    "aten.glu.default": glu,
    "aten.prelu.default": prelu,
    "aten._prelu_kernel.default": prelu_kernel,
    "aten.rrelu.default": rrelu,
    "aten.softmax.int": softmax,
    "aten.log_softmax.int": log_softmax,
    "aten.special_softmax.default": softmax,
    "aten.special_log_softmax.default": lambda to, self, dim, *, dtype=None: log_softmax(to, self, dim, dtype),
    "aten._softmax.default": half_softmax,
    "aten._log_softmax.default": half_log_softmax,
    "aten._safe_softmax.default": safe_softmax,
}
