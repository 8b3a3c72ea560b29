"""Arithmetic on sizes: on numbers where they are known, by nodes where they are free."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.values import Scalar, Size, Value


def size(to: Nodes, self: Value, dim: int) -> Size:
    return to.size(self, dim)


def numel(to: Nodes, self: Value) -> Size:
    return to.count(self, range(self.rank))


def _number(value: Value) -> Value:
    return replace(value, number=True)


def _of_two(here: Callable[[Any, Any], Any], row: Callable[[Nodes, Scalar, Scalar], Value]) -> Callable[..., Scalar]:
    def found(to: Nodes, a: Scalar, b: Scalar) -> Scalar:
        if isinstance(a, Value) or isinstance(b, Value):
            return _number(row(to, a, b))
        return here(a, b)  # type: ignore[no-any-return]

    return found


def _of_one(here: Callable[[Any], Any], row: Callable[[Nodes, Value], Value]) -> Callable[..., Scalar]:
    def found(to: Nodes, a: Scalar) -> Scalar:
        return _number(row(to, a)) if isinstance(a, Value) else here(a)

    return found


def floored(to: Nodes, a: Scalar, b: Scalar) -> Value:
    """Rounded down, where ONNX rounds towards zero."""
    quotient = to.div(a, b)
    if quotient.floating:
        return to.unary("Floor", quotient)
    rest = to.sub(a, to.mul(quotient, b))
    other = to.constant(0, rest.dtype)
    below = to.node(
        "And",
        to.node("Not", to.compare("Equal", rest, other), dtype="bool", shape=rest.shape),
        to.node(
            "Xor",
            to.compare("Less", rest, other),
            to.compare("Less", to.cast(b, rest.dtype), other),
            dtype="bool",
            shape=rest.shape,
        ),
        dtype="bool",
        shape=rest.shape,
    )
    return to.sub(quotient, to.cast(below, quotient.dtype))


def _power(to: Nodes, a: Scalar, b: Scalar) -> Value:
    return to.joint("Pow", a, b)


def _true(to: Nodes, a: Scalar, b: Scalar) -> Value:
    return to.joint("Div", a, b, floating=True)


def _unequal(to: Nodes, a: Scalar, b: Scalar) -> Value:
    found = to.compare("Equal", a, b)
    return to.unary("Not", found)


def _logical(op: str) -> Callable[[Nodes, Scalar, Scalar], Value]:
    def found(to: Nodes, a: Scalar, b: Scalar) -> Value:
        return to.node(op, to.cast(a, "bool"), to.cast(b, "bool"), dtype="bool", shape=())

    return found


def _compared(op: str) -> Callable[[Nodes, Scalar, Scalar], Value]:
    return lambda to, a, b: to.compare(op, a, b)


def _either(op: str) -> Callable[[Nodes, Scalar, Scalar], Value]:
    return lambda to, a, b: to.joint(op, a, b)


ROWS: Mapping[str, Callable[..., Any]] = {
    "aten.sym_size.int": size,
    "aten.sym_numel.default": numel,
    "operator.add": _of_two(operator.add, lambda to, a, b: to.add(a, b)),
    "operator.sub": _of_two(operator.sub, lambda to, a, b: to.sub(a, b)),
    "operator.mul": _of_two(operator.mul, lambda to, a, b: to.mul(a, b)),
    "operator.floordiv": _of_two(operator.floordiv, floored),
    "operator.truediv": _of_two(operator.truediv, _true),
    "operator.mod": _of_two(operator.mod, lambda to, a, b: to.sub(a, to.mul(floored(to, a, b), b))),
    "operator.pow": _of_two(operator.pow, _power),
    "operator.neg": _of_one(operator.neg, lambda to, a: to.unary("Neg", a)),
    "operator.pos": _of_one(operator.pos, lambda to, a: a),
    "operator.eq": _of_two(operator.eq, _compared("Equal")),
    "operator.ne": _of_two(operator.ne, _unequal),
    "operator.lt": _of_two(operator.lt, _compared("Less")),
    "operator.le": _of_two(operator.le, _compared("LessOrEqual")),
    "operator.gt": _of_two(operator.gt, _compared("Greater")),
    "operator.ge": _of_two(operator.ge, _compared("GreaterOrEqual")),
    "operator.and_": _of_two(operator.and_, _logical("And")),
    "operator.or_": _of_two(operator.or_, _logical("Or")),
    "torch.sym_float": _of_one(float, lambda to, a: to.cast(a, "float32")),
    "torch.sym_int": _of_one(int, lambda to, a: to.cast(a, "int64")),
    "torch.sym_max": _of_two(max, _either("Max")),
    "torch.sym_min": _of_two(min, _either("Min")),
    "torch.sym_sqrt": _of_one(math.sqrt, lambda to, a: to.unary("Sqrt", to.cast(a, "float32"))),
    "torch.sym_not": _of_one(operator.not_, lambda to, a: to.unary("Not", to.cast(a, "bool"))),
}
