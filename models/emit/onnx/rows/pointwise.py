"""Functions of each number by itself, and of tensors that are broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rightrank.models.emit.onnx.nodes import Nodes
from rightrank.models.emit.onnx.rows.sizes import floored
from rightrank.models.emit.onnx.values import Scalar, Value, promoted

Row = Callable[..., Any]
LARGEST = {"float16": 65504.0, "float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}


def _floating(op: str) -> Row:
    """Of floating point; of whole numbers by way of it."""

    def row(to: Nodes, self: Value) -> Value:
        return to.unary(op, to.single(self))

    return row


def _rounding(op: str) -> Row:
    def row(to: Nodes, self: Value) -> Value:
        return to.unary(op, self) if self.floating else self

    return row


def _written(made: Callable[[Nodes, Value], Value]) -> Row:
    """Of floating point, by several nodes."""

    def row(to: Nodes, self: Value) -> Value:
        return made(to, to.single(self))

    return row


def add(to: Nodes, self: Scalar, other: Scalar, *, alpha: Scalar = 1) -> Value:
    return _plus(to, "Add", self, other, alpha)


def sub(to: Nodes, self: Scalar, other: Scalar, *, alpha: Scalar = 1) -> Value:
    return _plus(to, "Sub", self, other, alpha)


def add_scalar(to: Nodes, self: Scalar, other: Scalar, alpha: Scalar = 1) -> Value:
    return _plus(to, "Add", self, other, alpha)


def sub_scalar(to: Nodes, self: Scalar, other: Scalar, alpha: Scalar = 1) -> Value:
    return _plus(to, "Sub", self, other, alpha)


def rsub(to: Nodes, self: Scalar, other: Scalar, alpha: Scalar = 1) -> Value:
    return _plus(to, "Sub", other, self, alpha)


def rsub_tensor(to: Nodes, self: Value, other: Value, *, alpha: Scalar = 1) -> Value:
    return _plus(to, "Sub", other, self, alpha)


def _plus(to: Nodes, op: str, one: Scalar, other: Scalar, alpha: Scalar) -> Value:
    dtype = promoted(one, other)
    if dtype == "bool" and op == "Add":
        return to.joint("Or", one, other, wide=False)
    if not isinstance(alpha, Value) and alpha == 1:
        return to.joint(op, one, other)
    return to.joint(op, to.cast(one, dtype), to.mul(to.cast(other, dtype), to.cast(alpha, dtype)))


def mul(to: Nodes, self: Scalar, other: Scalar) -> Value:
    if promoted(self, other) == "bool":
        return to.joint("And", self, other, wide=False)
    return to.mul(self, other)


def div(to: Nodes, self: Scalar, other: Scalar) -> Value:
    return to.joint("Div", self, other, floating=True)


def div_mode(to: Nodes, self: Scalar, other: Scalar, *, rounding_mode: str | None) -> Value:
    if rounding_mode is None:
        return div(to, self, other)
    return floor_divide(to, self, other) if rounding_mode == "floor" else truncated(to, self, other)


def truncated(to: Nodes, self: Scalar, other: Scalar) -> Value:
    found = to.div(self, other)
    return trunc(to, found) if found.floating else found


def floor_divide(to: Nodes, self: Scalar, other: Scalar) -> Value:
    dtype = promoted(self, other)
    one, two = (to.wide(to.cast(each, dtype)) for each in (self, other))
    return to.cast(floored(to, one, two), dtype)


def remainder(to: Nodes, self: Scalar, other: Scalar) -> Value:
    one, two = to.together(self, other)
    if not one.floating:
        return to.joint("Mod", one, two)
    # The remainder of a division that is rounded towards zero, and one divisor more where signs differ.
    rest = to.joint("Mod", one, two, fmod=1)
    zero = to.constant(0, rest.dtype)
    differ = to.compare("Less", to.mul(rest, two), zero)
    return to.where(differ, to.add(rest, two), rest)


def fmod(to: Nodes, self: Scalar, other: Scalar) -> Value:
    return to.joint("Mod", self, other, fmod=1)


def power(to: Nodes, self: Scalar, exponent: Scalar) -> Value:
    if exponent == 2 and isinstance(self, Value):
        value = to.cast(self, promoted(self, exponent))
        return to.mul(value, value)
    if exponent == 0.5 and isinstance(self, Value):
        return to.unary("Sqrt", to.cast(self, promoted(self, exponent)))
    return to.joint("Pow", self, exponent)


def float_power(to: Nodes, self: Scalar, exponent: Scalar) -> Value:
    return to.joint("Pow", *(to.cast(each, "float64") for each in (self, exponent)))


def trunc(to: Nodes, self: Value) -> Value:
    if not self.floating:
        return self
    return to.mul(to.unary("Floor", to.unary("Abs", self)), to.unary("Sign", self))


def frac(to: Nodes, self: Value) -> Value:
    return to.sub(self, trunc(to, self))


def round_decimals(to: Nodes, self: Value, *, decimals: int) -> Value:
    if not decimals:
        return to.unary("Round", self)
    return to.div(to.unary("Round", to.mul(self, 10.0**decimals)), 10.0**decimals)


def clamp(to: Nodes, self: Value, min: Scalar | None = None, max: Scalar | None = None) -> Value:
    dtype = promoted(*(each for each in (self, min, max) if each is not None))
    value = to.wide(to.cast(self, dtype))
    bounds = [None if each is None else to.cast(each, value.dtype) for each in (min, max)]
    if all(each is None or not each.shape for each in bounds):
        return to.cast(to.node("Clip", value, *bounds, dtype=value.dtype, shape=value.shape), dtype)
    if bounds[0] is not None:
        value = to.joint("Max", value, bounds[0])
    return to.cast(value if bounds[1] is None else to.joint("Min", value, bounds[1]), dtype)


def clamp_min(to: Nodes, self: Value, min: Scalar) -> Value:
    return clamp(to, self, min=min)


def clamp_max(to: Nodes, self: Value, max: Scalar) -> Value:
    return clamp(to, self, max=max)


def _either(op: str) -> Row:
    def row(to: Nodes, self: Value, other: Value) -> Value:
        return to.joint(op, self, other)

    return row


def _number_or(op: str, other: str) -> Row:
    """Maximum or minimum of which a number that is none is left out (fmax, fmin)."""

    def row(to: Nodes, self: Value, other: Value) -> Value:
        one, two = to.together(self, other)
        if not one.floating:
            return to.joint(op, one, two)
        found = to.joint(op, one, two)
        found = to.where(to.node("IsNaN", one, dtype="bool", shape=one.shape), two, found)
        return to.where(to.node("IsNaN", two, dtype="bool", shape=two.shape), one, found)

    return row


def _compared(op: str) -> Row:
    def row(to: Nodes, self: Value, other: Scalar) -> Value:
        return to.compare(op, self, other)

    return row


def unequal(to: Nodes, self: Value, other: Scalar) -> Value:
    return to.unary("Not", to.compare("Equal", self, other))


def logical_not(to: Nodes, self: Value) -> Value:
    return to.unary("Not", self) if self.dtype == "bool" else to.compare("Equal", self, 0)


def _logical(op: str) -> Row:
    def row(to: Nodes, self: Value, other: Value) -> Value:
        return to.joint(op, to.cast(self, "bool"), to.cast(other, "bool"), wide=False)

    return row


def _bitwise(op: str, bits: str) -> Row:
    def row(to: Nodes, self: Scalar, other: Scalar) -> Value:
        if promoted(self, other) == "bool":
            return to.joint(op, self, other, wide=False)
        return to.joint(bits, self, other, wide=False)

    return row


def bitwise_not(to: Nodes, self: Value) -> Value:
    return to.unary("Not" if self.dtype == "bool" else "BitwiseNot", self)


def _shifted(direction: str) -> Row:
    """By a product with, or a division by, a power of two, as torch's are for whole numbers with signs."""

    def row(to: Nodes, self: Scalar, other: Scalar) -> Value:
        one, two = to.together(self, other)
        dtype = one.dtype
        if one.floating:
            raise to.refused("floating point is not shifted")
        scale = to.cast(to.joint("Pow", to.constant(2.0, "float64"), to.cast(two, "float64")), dtype)
        return to.mul(one, scale) if direction == "left" else floor_divide(to, one, scale)

    return row


def where(to: Nodes, condition: Value, self: Scalar, other: Scalar) -> Value:
    return to.where(condition, self, other)


def masked_fill(to: Nodes, self: Value, mask: Value, value: Scalar) -> Value:
    return to.where(mask, to.cast(value, self.dtype), self)


def lerp(to: Nodes, self: Value, end: Value, weight: Scalar) -> Value:
    return to.add(self, to.mul(to.cast(weight, self.dtype), to.sub(end, self)))


def addcmul(to: Nodes, self: Value, tensor1: Value, tensor2: Value, *, value: Scalar = 1) -> Value:
    product = to.mul(tensor1, tensor2)
    return to.add(self, product if value == 1 else to.mul(product, value))


def addcdiv(to: Nodes, self: Value, tensor1: Value, tensor2: Value, *, value: Scalar = 1) -> Value:
    quotient = to.joint("Div", tensor1, tensor2, floating=True)
    return to.add(self, quotient if value == 1 else to.mul(quotient, value))


def nan_to_num(
    to: Nodes, self: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    if not self.floating:
        return self
    most = LARGEST[self.dtype]
    mask = to.node("IsNaN", self, dtype="bool", shape=self.shape)
    value = to.where(mask, to.constant(nan or 0.0, self.dtype), self)
    for number, given, sign in ((posinf, most, 1), (neginf, -most, -1)):
        there = to.node("IsInf", self, dtype="bool", shape=self.shape, **_only(sign))
        value = to.where(there, to.constant(given if number is None else number, self.dtype), value)
    return value


def _only(sign: int) -> dict[str, int]:
    """Attributes of IsInf that looks for infinity of one sign."""
    return {"detect_negative": int(sign < 0), "detect_positive": int(sign > 0)}


def _infinite(sign: int) -> Row:
    def row(to: Nodes, self: Value) -> Value:
        attributes = _only(sign) if sign else {}
        value = to.single(self)
        value = to.cast(value, "float32") if value.dtype == "float16" else value
        return to.node("IsInf", value, dtype="bool", shape=self.shape, **attributes)

    return row


def isnan(to: Nodes, self: Value) -> Value:
    return to.node("IsNaN", to.single(self), dtype="bool", shape=self.shape)


def isfinite(to: Nodes, self: Value) -> Value:
    value = to.single(self)
    value = to.cast(value, "float32") if value.dtype == "float16" else value
    beyond = to.node(
        "Or",
        to.node("IsInf", value, dtype="bool", shape=self.shape),
        to.node("IsNaN", value, dtype="bool", shape=self.shape),
        dtype="bool",
        shape=self.shape,
    )
    return to.unary("Not", beyond)


def isclose(
    to: Nodes, self: Value, other: Value, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Value:
    one, two = to.together(self, other, floating=True)
    near = to.compare(
        "LessOrEqual",
        to.unary("Abs", to.sub(one, two)),
        to.add(to.mul(to.unary("Abs", two), rtol), atol),
    )
    return to.joint("Or", near, to.compare("Equal", one, two), wide=False)


def atan2(to: Nodes, self: Value, other: Value) -> Value:
    y, x = to.together(self, other, floating=True)
    zero = to.constant(0.0, y.dtype)
    angle = to.unary("Atan", to.div(y, x))
    turned = to.where(to.compare("Less", y, zero), to.sub(angle, math.pi), to.add(angle, math.pi))
    found = to.where(to.compare("Less", x, zero), turned, angle)
    both = to.joint("And", to.compare("Equal", x, zero), to.compare("Equal", y, zero), wide=False)
    return to.where(both, zero, found)


def hypot(to: Nodes, self: Value, other: Value) -> Value:
    one, two = to.together(self, other)
    return to.unary("Sqrt", to.add(to.mul(one, one), to.mul(two, two)))


def _logaddexp(base: float) -> Row:
    def row(to: Nodes, self: Value, other: Value) -> Value:
        most = to.joint("Max", self, other)
        scale = math.log(base)
        terms = [to.unary("Exp", to.mul(to.sub(each, most), scale)) for each in (self, other)]
        return to.add(most, to.div(to.unary("Log", to.add(*terms)), scale))

    return row


def xlogy(to: Nodes, self: Scalar, other: Scalar) -> Value:
    one, two = to.together(self, other, floating=True)
    product = to.mul(one, to.unary("Log", two))
    found = to.where(to.compare("Equal", one, to.constant(0, one.dtype)), to.constant(0.0, one.dtype), product)
    return to.where(to.node("IsNaN", two, dtype="bool", shape=two.shape), two, found)


def heaviside(to: Nodes, self: Value, values: Value) -> Value:
    zero = to.constant(0, self.dtype)
    above = to.cast(to.compare("Greater", self, zero), self.dtype)
    return to.where(to.compare("Equal", self, zero), values, above)


def copysign(to: Nodes, self: Value, other: Scalar) -> Value:
    one, two = to.together(self, other, floating=True)
    size = to.unary("Abs", one)
    return to.where(to.compare("Less", two, to.constant(0.0, two.dtype)), to.unary("Neg", size), size)


def signbit(to: Nodes, self: Value) -> Value:
    return to.compare("Less", self, 0)


def sign(to: Nodes, self: Value) -> Value:
    return self if self.dtype == "bool" else to.cast(to.unary("Sign", to.wide(self)), self.dtype)


def logit(to: Nodes, self: Value, eps: float | None = None) -> Value:
    value = to.single(self)
    if eps is not None:
        value = clamp(to, value, eps, 1 - eps)
    return to.unary("Log", to.div(value, to.sub(1.0, value)))


def to_dtype(
    to: Nodes,
    self: Value,
    dtype: str,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: object = None,
) -> Value:
    return to.cast(self, dtype)


def to_layout(
    to: Nodes,
    self: Value,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: object = None,
) -> Value:
    return to.cast(self, dtype or self.dtype)


def to_copy(
    to: Nodes,
    self: Value,
    *,
    dtype: str | None = None,
    layout: object = None,
    device: object = None,
    pin_memory: object = None,
    non_blocking: bool = False,
    memory_format: object = None,
) -> Value:
    return to.cast(self, dtype or self.dtype)


def to_device(
    to: Nodes,
    self: Value,
    device: object,
    dtype: str,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: object = None,
) -> Value:
    return to.cast(self, dtype)


def to_other(
    to: Nodes, self: Value, other: Value, non_blocking: bool = False, copy: bool = False, memory_format: object = None
) -> Value:
    return to.cast(self, other.dtype)


def type_as(to: Nodes, self: Value, other: Value) -> Value:
    return to.cast(self, other.dtype)


def expm1(to: Nodes, value: Value) -> Value:
    """By way of tanh, which keeps what is small: e^x - 1 = 2·t/(1 - t), with t = tanh(x/2)."""
    half = to.unary("Tanh", to.mul(value, 0.5))
    near = to.div(to.mul(half, 2.0), to.sub(1.0, half))
    far = to.sub(to.unary("Exp", value), 1.0)
    return to.where(to.compare("Less", to.unary("Abs", value), to.constant(1.0, value.dtype)), near, far)


def log1p(to: Nodes, value: Value) -> Value:
    """log(u)·x/(u - 1) with u = 1 + x as it is rounded, which makes that good."""
    rounded = to.add(value, 1.0)
    log = to.unary("Log", rounded)
    better = to.div(to.mul(log, value), to.sub(rounded, 1.0))
    exact = to.joint(
        "Or",
        to.compare("Equal", rounded, to.constant(1.0, value.dtype)),
        to.node("IsInf", rounded, dtype="bool", shape=value.shape),
        wide=False,
    )
    same = to.compare("Equal", rounded, to.constant(1.0, value.dtype))
    return to.where(same, value, to.where(exact, log, better))


def sinc(to: Nodes, value: Value) -> Value:
    turned = to.mul(value, math.pi)
    zero = to.compare("Equal", value, to.constant(0.0, value.dtype))
    return to.where(zero, to.constant(1.0, value.dtype), to.div(to.unary("Sin", turned), turned))


def entr(to: Nodes, value: Value) -> Value:
    zero = to.constant(0.0, value.dtype)
    found = to.where(to.compare("Equal", value, zero), zero, to.unary("Neg", to.mul(value, to.unary("Log", value))))
    return to.where(to.compare("Less", value, zero), to.constant(-math.inf, value.dtype), found)


def ndtr(to: Nodes, value: Value) -> Value:
    return to.mul(to.add(to.unary("Erf", to.mul(value, math.sqrt(0.5))), 1.0), 0.5)


def absolute(to: Nodes, self: Value) -> Value:
    if self.dtype in ("bool", "uint8"):
        return self
    return to.cast(to.unary("Abs", to.wide(self)), self.dtype)


def negative(to: Nodes, self: Value) -> Value:
    return to.cast(to.unary("Neg", to.wide(self)), self.dtype)


def square(to: Nodes, self: Value) -> Value:
    return to.mul(self, self)


EXP2 = _written(lambda to, x: to.joint("Pow", to.constant(2.0, x.dtype), x))
EXPM1, LOG1P = _written(expm1), _written(log1p)
ROUND = _rounding("Round")

ROWS: Mapping[str, Row] = {
    **{
        f"aten.{name}.default": _floating(op)
        for name, op in {
            "exp": "Exp",
            "log": "Log",
            "sqrt": "Sqrt",
            "reciprocal": "Reciprocal",
            "sin": "Sin",
            "cos": "Cos",
            "tan": "Tan",
            "asin": "Asin",
            "acos": "Acos",
            "atan": "Atan",
            "sinh": "Sinh",
            "cosh": "Cosh",
            "tanh": "Tanh",
            "asinh": "Asinh",
            "acosh": "Acosh",
            "atanh": "Atanh",
            "arcsin": "Asin",
            "arccos": "Acos",
            "arctan": "Atan",
            "arcsinh": "Asinh",
            "arccosh": "Acosh",
            "arctanh": "Atanh",
            "erf": "Erf",
            "special_erf": "Erf",
            "sigmoid": "Sigmoid",
            "special_expit": "Sigmoid",
        }.items()
    },
    **{
        f"aten.{name}.default": _rounding(op)
        for name, op in {"ceil": "Ceil", "floor": "Floor", "round": "Round"}.items()
    },
    "aten.neg.default": negative,
    "aten.negative.default": negative,
    "aten.abs.default": absolute,
    "aten.absolute.default": absolute,
    "aten.sign.default": sign,
    "aten.sgn.default": sign,
    "aten.signbit.default": signbit,
    "aten.square.default": square,
    "aten.positive.default": lambda to, self: self,
    "aten.rsqrt.default": _written(lambda to, x: to.unary("Reciprocal", to.unary("Sqrt", x))),
    "aten.exp2.default": EXP2,
    "aten.special_exp2.default": EXP2,
    "aten.expm1.default": EXPM1,
    "aten.special_expm1.default": EXPM1,
    "aten.log1p.default": LOG1P,
    "aten.special_log1p.default": LOG1P,
    "aten.log2.default": _written(lambda to, x: to.mul(to.unary("Log", x), 1 / math.log(2))),
    "aten.log10.default": _written(lambda to, x: to.mul(to.unary("Log", x), 1 / math.log(10))),
    "aten.erfc.default": _written(lambda to, x: to.sub(1.0, to.unary("Erf", x))),
    "aten.special_erfc.default": _written(lambda to, x: to.sub(1.0, to.unary("Erf", x))),
    "aten.deg2rad.default": _written(lambda to, x: to.mul(x, math.pi / 180)),
    "aten.rad2deg.default": _written(lambda to, x: to.mul(x, 180 / math.pi)),
    "aten.sinc.default": _written(sinc),
    "aten.special_sinc.default": _written(sinc),
    "aten.special_entr.default": _written(entr),
    "aten.special_ndtr.default": _written(ndtr),
    "aten.logit.default": logit,
    "aten.special_logit.default": logit,
    "aten.trunc.default": trunc,
    "aten.fix.default": trunc,
    "aten.frac.default": frac,
    "aten.round.decimals": round_decimals,
    "aten.special_round.default": lambda to, self, *, decimals=0: round_decimals(to, self, decimals=decimals),
    "aten.add.Tensor": add,
    "aten.add.Scalar": add_scalar,
    "aten.sub.Tensor": sub,
    "aten.sub.Scalar": sub_scalar,
    "aten.subtract.Tensor": sub,
    "aten.subtract.Scalar": sub_scalar,
    "aten.rsub.Tensor": rsub_tensor,
    "aten.rsub.Scalar": rsub,
    **dict.fromkeys(("aten.mul.Tensor", "aten.mul.Scalar", "aten.multiply.Tensor", "aten.multiply.Scalar"), mul),
    **{f"aten.{name}.{of}": div for name in ("div", "divide", "true_divide") for of in ("Tensor", "Scalar")},
    **{f"aten.{name}.{of}_mode": div_mode for name in ("div", "divide") for of in ("Tensor", "Scalar")}
    | {"aten.divide.Tensor_mode": div_mode},
    "aten.floor_divide.default": floor_divide,
    "aten.floor_divide.Scalar": floor_divide,
    **{f"aten.remainder.{of}": remainder for of in ("Tensor", "Scalar", "Scalar_Tensor")},
    **{f"aten.fmod.{of}": fmod for of in ("Tensor", "Scalar")},
    **{f"aten.pow.{of}": power for of in ("Tensor_Tensor", "Tensor_Scalar", "Scalar")},
    **{f"aten.float_power.{of}": float_power for of in ("Tensor_Tensor", "Tensor_Scalar", "Scalar")},
    **{f"aten.{name}.{of}": clamp for name in ("clamp", "clip") for of in ("default", "Tensor")},
    **{f"aten.clamp_min.{of}": clamp_min for of in ("default", "Tensor")},
    **{f"aten.clamp_max.{of}": clamp_max for of in ("default", "Tensor")},
    "aten.maximum.default": _either("Max"),
    "aten.minimum.default": _either("Min"),
    "aten.max.other": _either("Max"),
    "aten.min.other": _either("Min"),
    "aten.fmax.default": _number_or("Max", "Min"),
    "aten.fmin.default": _number_or("Min", "Max"),
    **{
        f"aten.{name}.{of}": _compared(op)
        for names, op in {
            ("eq",): "Equal",
            ("lt", "less"): "Less",
            ("gt", "greater"): "Greater",
            ("le", "less_equal"): "LessOrEqual",
            ("ge", "greater_equal"): "GreaterOrEqual",
        }.items()
        for name in names
        for of in ("Tensor", "Scalar")
    },
    **{f"aten.{name}.{of}": unequal for name in ("ne", "not_equal") for of in ("Tensor", "Scalar")},
    "aten.logical_not.default": logical_not,
    "aten.logical_and.default": _logical("And"),
    "aten.logical_or.default": _logical("Or"),
    "aten.logical_xor.default": _logical("Xor"),
    "aten.bitwise_not.default": bitwise_not,
    **{
        f"aten.bitwise_{name}.{of}": _bitwise(op, f"Bitwise{op}")
        for name, op in {"and": "And", "or": "Or", "xor": "Xor"}.items()
        for of in ("Tensor", "Scalar", "Scalar_Tensor")
    },
    **{
        f"aten.bitwise_{direction}_shift.{of}": _shifted(direction)
        for direction in ("left", "right")
        for of in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")
    },
    **{f"aten.where.{of}": where for of in ("self", "ScalarSelf", "ScalarOther", "Scalar")},
    **{f"aten.masked_fill.{of}": masked_fill for of in ("Scalar", "Tensor")},
    **{f"aten.lerp.{of}": lerp for of in ("Scalar", "Tensor")},
    "aten.addcmul.default": addcmul,
    "aten.addcdiv.default": addcdiv,
    "aten.nan_to_num.default": nan_to_num,
    "aten.isnan.default": isnan,
    "aten.isinf.default": _infinite(0),
    "aten.isposinf.default": _infinite(1),
    "aten.isneginf.default": _infinite(-1),
    "aten.isfinite.default": isfinite,
    "aten.isclose.default": isclose,
    **dict.fromkeys(("aten.atan2.default", "aten.arctan2.default"), atan2),
    "aten.hypot.default": hypot,
    "aten.logaddexp.default": _logaddexp(math.e),
    "aten.logaddexp2.default": _logaddexp(2.0),
    **{f"aten.xlogy.{of}": xlogy for of in ("Tensor", "Scalar_Self", "Scalar_Other")},
    **{f"aten.special_xlogy.{of}": xlogy for of in ("default", "self_scalar", "other_scalar")},
    "aten.heaviside.default": heaviside,
    **{f"aten.copysign.{of}": copysign for of in ("Tensor", "Scalar")},
    "aten.to.dtype": to_dtype,
    "aten.to.dtype_layout": to_layout,
    "aten.to.device": to_device,
    "aten.to.other": to_other,
    "aten._to_copy.default": to_copy,
    "aten.type_as.default": type_as,
}
