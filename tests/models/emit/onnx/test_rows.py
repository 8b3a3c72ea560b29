"""What torch's kernels make, the rows' nodes make: every row, on random inputs, with sizes known and free."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rightrank.models.emit.encoding.plain import Plain
from rightrank.models.emit.onnx.rows import ROWS
from rightrank.models.emit.onnx.session import session
from rightrank.models.emit.onnx.writer import OnnxWriter
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.master.template import Template
from rightrank.models.program.execute import resolve, run
from rightrank.models.program.graph import Argument, Constant, Graph, Input, Node, Ref
from rightrank.models.program.operators import ALLOWED

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

CPU = Constant("device", "cpu")
F16, F32, F64, I32, I64, BOOL = (
    Constant("dtype", name) for name in ("float16", "float32", "float64", "int32", "int64", "bool")
)


class Case:
    """Arguments of a call; `listed`: how many tensors it gives back as a list; `only`: how many of its results are to
    be had; `known`: it is only had with sizes that are known."""

    def __init__(self, *args: Any, listed: int = 0, only: int = 0, known: bool = False, **kwargs: Any) -> None:
        self.args, self.kwargs, self.listed, self.only, self.known = args, kwargs, listed, only, known


GENERATOR = torch.Generator().manual_seed(0)


def f(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


def pos(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR) + 0.1


def unit(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR) * 1.8 - 0.9


def whole(*shape: int, low: int = -5, high: int = 6) -> Tensor:
    return torch.randint(low, high, shape, generator=GENERATOR)


def truth(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR) < 0.5


EDGES = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -1.5, 2.5, -0.5, 0.5])


def families() -> Iterator[tuple[str, list[Case]]]:
    """The cases of operators that are alike, by name without namespace."""
    for name in [
        "exp",
        "sin",
        "cos",
        "tan",
        "atan",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "arcsinh",
        "erf",
        "special_erf",
        "sigmoid",
        "special_expit",
        "exp2",
        "special_exp2",
        "expm1",
        "special_expm1",
        "erfc",
        "special_erfc",
        "deg2rad",
        "rad2deg",
        "sinc",
        "special_sinc",
        "special_ndtr",
        "ceil",
        "floor",
        "round",
        "neg",
        "negative",
        "abs",
        "absolute",
        "sign",
        "sgn",
        "square",
        "positive",
        "trunc",
        "fix",
        "frac",
        "relu",
        "relu6",
        "selu",
        "silu",
        "mish",
        "hardswish",
        "hardsigmoid",
        "log_sigmoid",
        "signbit",
        "special_round",
    ]:
        cases = [Case(f(3, 4) * 3)]
        if name in ("exp", "neg", "abs", "relu", "sign", "square", "tanh", "sigmoid", "round", "ceil"):
            cases += [Case(whole(3, 4))] + ([Case(whole(4).to(torch.int8))] if name != "exp" else [])
        yield f"{name}.default", cases
    for name in ["log", "sqrt", "rsqrt", "reciprocal", "log2", "log10", "log1p", "special_log1p", "special_entr"]:
        yield f"{name}.default", [Case(pos(3, 4))]
    for name in ["asin", "arcsin", "acos", "arccos", "atanh", "arctanh"]:
        yield f"{name}.default", [Case(unit(3, 4))]
    for name in ("acosh", "arccosh"):
        yield f"{name}.default", [Case(pos(3, 4) + 1)]
    for name in ("logit", "special_logit"):
        yield f"{name}.default", [Case(pos(3, 4) / 2), Case(pos(3, 4), 0.1)]
    for name in ("isnan", "isinf", "isposinf", "isneginf", "isfinite", "nan_to_num", "logical_not"):
        yield f"{name}.default", [Case(EDGES)]
    for name in [
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "atan2",
        "arctan2",
        "hypot",
        "logaddexp",
        "logaddexp2",
        "heaviside",
    ]:
        yield f"{name}.default", [Case(f(2, 3, 4), f(3, 1))]
    for name in ["logical_and", "logical_or", "logical_xor"]:
        yield f"{name}.default", [Case(whole(3, 4, low=0, high=2), f(4))]
    for name in ["eq", "lt", "less", "gt", "greater", "le", "less_equal", "ge", "greater_equal", "ne", "not_equal"]:
        yield (
            f"{name}.Tensor",
            [Case(whole(3, 4), whole(4)), Case(f(3), whole(3).to(torch.uint8)), Case(truth(3), truth(3))],
        )
        yield f"{name}.Scalar", [Case(whole(3, 4), 2), Case(f(3, 4), 0.1), Case(whole(3), 0.5)]
    for name in ["and", "or", "xor"]:
        yield f"bitwise_{name}.Tensor", [Case(whole(3, 4), whole(4)), Case(truth(3), truth(3))]
        yield f"bitwise_{name}.Scalar", [Case(whole(3, 4), 6), Case(truth(3), True)]
        yield f"bitwise_{name}.Scalar_Tensor", [Case(6, whole(3, 4))]
    for name in ("left", "right"):
        yield f"bitwise_{name}_shift.Tensor", [Case(whole(3, 4), whole(4, low=0))]
        yield f"bitwise_{name}_shift.Tensor_Scalar", [Case(whole(3, 4), 2)]
        yield f"bitwise_{name}_shift.Scalar_Tensor", [Case(-9, whole(4, low=0))]
    for name in ["add", "sub", "subtract", "rsub"]:
        number = [Case(f(3, 4), 2), Case(whole(3), 2.5), Case(whole(3), 2, 3)]
        yield f"{name}.Tensor", [Case(f(3, 4), f(4)), Case(whole(3), f(3)), Case(f(3), whole(3), alpha=2)]
        yield f"{name}.Scalar", number
    for name in ["mul", "multiply"]:
        yield f"{name}.Tensor", [Case(f(3, 4), f(3, 1)), Case(whole(3), whole(3).to(torch.uint8)), Case(truth(3), f(3))]
        yield f"{name}.Scalar", [Case(f(3, 4), 3), Case(whole(3), 0.5)]
    for name in ["div", "divide", "true_divide"]:
        yield f"{name}.Tensor", [Case(f(3, 4), pos(4)), Case(whole(3), whole(3, low=1))]
        yield f"{name}.Scalar", [Case(f(3, 4), 3), Case(whole(3), 2)]
    for name in ["div", "divide"]:
        for mode in ("floor", "trunc", None):
            numbers = [Case(whole(9), 3, rounding_mode=mode), Case(f(9), -0.3, rounding_mode=mode)]
            tensors = [Case(whole(9), whole(9, low=1), rounding_mode=mode), Case(f(9), pos(9), rounding_mode=mode)]
            yield f"{name}.Tensor_mode", tensors
            yield f"{name}.Scalar_mode", numbers
    yield "floor_divide.default", [Case(whole(9), whole(9, low=-4, high=0)), Case(f(9), pos(9))]
    yield "floor_divide.Scalar", [Case(whole(9), 4), Case(f(9), 0.4)]
    for name in ("remainder", "fmod"):
        yield f"{name}.Tensor", [Case(whole(9), whole(9, low=-4, high=0)), Case(f(9), pos(9))]
        yield f"{name}.Scalar", [Case(whole(9), -4), Case(f(9), 0.4)]
    yield "remainder.Scalar_Tensor", [Case(7, whole(9, low=1))]
    for name in ("pow", "float_power"):
        yield f"{name}.Tensor_Tensor", [Case(pos(3, 4), f(4))]
        yield f"{name}.Tensor_Scalar", [Case(pos(3, 4), 2.5), Case(f(3, 4), 2), Case(pos(3), 0.5), Case(whole(3), 3)]
        yield f"{name}.Scalar", [Case(2, f(3, 4))]
    for name in ("clamp", "clip"):
        yield (
            f"{name}.default",
            [Case(f(3, 4), -0.5, 0.5), Case(f(3, 4), None, 0.1), Case(whole(3), 0), Case(whole(3), 0.5)],
        )
        yield f"{name}.Tensor", [Case(f(3, 4), f(4)), Case(f(3, 4), None, f(4)), Case(f(3), f(3), f(3))]
    for name in ("clamp_min", "clamp_max"):
        yield f"{name}.default", [Case(f(3, 4), 0.1), Case(whole(3), 1)]
        yield f"{name}.Tensor", [Case(f(3, 4), f(4))]
    yield "max.other", [Case(f(3, 4), f(4)), Case(whole(3).to(torch.int16), whole(3).to(torch.int16))]
    yield "min.other", [Case(f(3, 4), f(4))]
    yield "round.decimals", [Case(f(3, 4), decimals=2), Case(f(3, 4), decimals=0)]
    yield (
        "where.self",
        [Case(truth(3, 4), f(4), f(3, 1)), Case(truth(3), truth(3), truth(3)), Case(truth(3), whole(3), f(3))],
    )
    yield "where.ScalarSelf", [Case(truth(3, 4), 1.5, f(4))]
    yield "where.ScalarOther", [Case(truth(3, 4), f(4), 0)]
    yield "where.Scalar", [Case(truth(3, 4), 1.0, 0.0), Case(truth(3), 1, 0)]
    yield "masked_fill.Scalar", [Case(f(3, 4), truth(4), -math.inf), Case(whole(3), truth(3), 7)]
    yield "masked_fill.Tensor", [Case(f(3, 4), truth(4), torch.tensor(2.0))]
    yield "lerp.Scalar", [Case(f(3), f(3), 0.3)]
    yield "lerp.Tensor", [Case(f(3), f(3), f(3))]
    yield "addcmul.default", [Case(f(3, 4), f(4), f(3, 1), value=2), Case(f(3), f(3), f(3))]
    yield "addcdiv.default", [Case(f(3, 4), f(4), pos(3, 1), value=2), Case(f(3), f(3), pos(3))]
    yield "isclose.default", [Case(f(3), f(3)), Case(torch.ones(3), torch.ones(3) + 1e-7)]
    for kind in ("Tensor", "Scalar_Self", "Scalar_Other"):
        args = (1.5 if kind == "Scalar_Self" else f(3), 0.7 if kind == "Scalar_Other" else pos(3))
        yield f"xlogy.{kind}", [Case(*args)]
    yield "special_xlogy.default", [Case(torch.tensor([0.0, 1.0]), pos(2))]
    yield "special_xlogy.self_scalar", [Case(0.5, pos(3))]
    yield "special_xlogy.other_scalar", [Case(f(3), 0.5)]
    yield "copysign.Tensor", [Case(f(3), f(3))]
    yield "copysign.Scalar", [Case(f(3), -1.0)]
    yield "bitwise_not.default", [Case(whole(3)), Case(truth(3))]
    yield "to.dtype", [Case(f(3) * 3, I64), Case(whole(3), BOOL), Case(f(3), F16)]
    yield "to.dtype_layout", [Case(f(3), dtype=F64)]
    yield "to.device", [Case(f(3), CPU, I32)]
    yield "to.other", [Case(f(3), whole(1))]
    yield "type_as.default", [Case(whole(3), f(1))]
    yield "_to_copy.default", [Case(f(3), dtype=F64), Case(f(3))]
    # Activations.
    yield "hardtanh.default", [Case(f(9)), Case(f(9), -0.2, 0.3)]
    yield "leaky_relu.default", [Case(f(9)), Case(f(9), 0.2)]
    yield "elu.default", [Case(f(9)), Case(f(9), 0.5, 2.0, 1.5)]
    yield "celu.default", [Case(f(9)), Case(f(9), 0.5), Case(f(9).double(), 0.5)]
    yield "gelu.default", [Case(f(9)), Case(f(9), approximate="tanh")]
    yield "softplus.default", [Case(f(9)), Case(f(9) * 9, 2, 3)]
    yield "log_sigmoid_forward.default", [Case(f(9), only=1)]
    yield "hardshrink.default", [Case(f(9)), Case(f(9), 0.2)]
    yield "softshrink.default", [Case(f(9)), Case(f(9), 0.2)]
    yield "threshold.default", [Case(f(9), 0.1, 20)]
    yield "glu.default", [Case(f(3, 4)), Case(f(2, 4, 3), 1)]
    yield "prelu.default", [Case(f(2, 3, 4), pos(3)), Case(f(2, 3), pos(1))]
    yield "_prelu_kernel.default", [Case(f(2, 3), pos(1, 3))]
    yield "rrelu.default", [Case(f(9))]
    yield "softmax.int", [Case(f(3, 4), -1), Case(f(3, 4), 0, F64), Case(torch.tensor(2.0), 0)]
    yield "log_softmax.int", [Case(f(3, 4), 1), Case(whole(3, 4), 0, F32)]
    yield "special_softmax.default", [Case(f(3, 4), -1)]
    yield "special_log_softmax.default", [Case(f(3, 4), -1)]
    yield "_softmax.default", [Case(f(3, 4), -1, False)]
    yield "_log_softmax.default", [Case(f(3, 4), -1, False)]
    masked = f(3, 4).masked_fill(torch.tensor([[True], [False], [False]]), -math.inf)
    yield "_safe_softmax.default", [Case(masked, -1)]
    # Products.
    yield (
        "linear.default",
        [
            Case(f(3, 4), f(5, 4), f(5)),
            Case(f(2, 3, 4), f(5, 4), f(5)),
            Case(f(2, 3, 4), f(5, 4)),
            Case(f(4), f(5, 4), f(5)),
        ],
    )
    for name in ("matmul", "linalg_matmul"):
        yield (
            f"{name}.default",
            [
                Case(f(2, 3, 4), f(4, 5)),
                Case(f(3, 4), f(4)),
                Case(f(4), f(2, 4, 3)),
                Case(f(4), f(4)),
                Case(f(5, 1, 3, 4), f(2, 4, 3)),
            ],
        )
    yield "mm.default", [Case(f(3, 4), f(4, 5)), Case(whole(3, 4), whole(4, 5))]
    yield "bmm.default", [Case(f(2, 3, 4), f(2, 4, 5))]
    yield "mv.default", [Case(f(3, 4), f(4))]
    yield "dot.default", [Case(f(4), f(4))]
    yield "vdot.default", [Case(f(4), f(4))]
    yield "inner.default", [Case(f(2, 4), f(3, 4)), Case(f(4), f(4))]
    yield "addmm.default", [Case(f(5), f(3, 4), f(4, 5)), Case(f(3, 5), f(3, 4), f(4, 5), beta=0.5, alpha=2)]
    yield (
        "baddbmm.default",
        [Case(f(2, 3, 5), f(2, 3, 4), f(2, 4, 5), beta=0.5, alpha=2), Case(f(1), f(2, 3, 4), f(2, 4, 5), beta=0)],
    )
    yield "addmv.default", [Case(f(3), f(3, 4), f(4), alpha=2)]
    yield "addbmm.default", [Case(f(3, 5), f(2, 3, 4), f(2, 4, 5))]
    yield "addr.default", [Case(f(3, 4), f(3), f(4), beta=2)]
    for name in ("outer", "ger"):
        yield f"{name}.default", [Case(f(3), f(4))]
    yield (
        "einsum.default",
        [
            Case("bid,bjd->bij", [f(2, 3, 4), f(2, 5, 4)]),
            Case("b...j,b j d -> b...d", [f(2, 3, 4), f(2, 4, 5)]),
            Case("ij,jk", [f(2, 3), f(3, 4)]),
            Case("ii->i", [f(3, 3)]),
        ],
    )
    yield "linalg_vecdot.default", [Case(f(3, 4), f(3, 4)), Case(f(3, 4), f(3, 4), dim=0)]
    yield "linalg_multi_dot.default", [Case([f(2, 3), f(3, 4), f(4, 5)])]
    yield "chain_matmul.default", [Case([f(2, 3), f(3, 4), f(4, 5)])]
    yield "bilinear.default", [Case(f(2, 3), f(2, 4), f(5, 3, 4), f(5))]
    yield "tensordot.default", [Case(f(2, 3, 4), f(4, 3, 5), [1, 2], [1, 0])]
    yield "kron.default", [Case(f(2, 3), f(3, 2), known=True)]
    attend = [f(2, 4, 5, 8), f(2, 4, 6, 8), f(2, 4, 6, 3)]
    yield (
        "scaled_dot_product_attention.default",
        [
            Case(*attend),
            Case(*attend, f(5, 6)),
            Case(*attend, torch.ones(5, 6, dtype=torch.bool).tril(0)),
            Case(*attend, None, 0.0, True, scale=0.3),
            Case(f(2, 4, 5, 8), f(2, 2, 6, 8), f(2, 2, 6, 8), enable_gqa=True, known=True),
            Case(*attend, torch.zeros(5, 6, dtype=torch.bool)),
        ],
    )
    yield (
        "_scaled_dot_product_flash_attention_for_cpu.default",
        [Case(f(2, 4, 5, 8), f(2, 4, 5, 8), f(2, 4, 5, 8), only=1)],
    )
    # Convolutions.
    yield (
        "convolution.default",
        [
            Case(f(2, 4, 7, 6), f(6, 2, 3, 2), f(6), [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
            Case(f(2, 4, 5, 6), f(4, 3, 3, 2), f(6), [2, 3], [1, 0], [1, 1], True, [1, 0], 2),
            Case(f(2, 3, 4, 5, 6), f(2, 3, 2, 2, 2), None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1),
        ],
    )
    for dims in (1, 2, 3):
        size, kernel = (7, 6, 5)[:dims], (3, 2, 2)[:dims]
        yield (
            f"conv{dims}d.default",
            [Case(f(2, 4, *size), f(6, 2, *kernel), f(6), [2], [1], [1], 2), Case(f(4, *size), f(6, 4, *kernel))],
        )
        yield (
            f"conv{dims}d.padding",
            [Case(f(2, 4, *size), f(6, 4, *kernel), f(6), [1] * dims, "same"), Case(f(2, 4, *size), f(6, 4, *kernel))],
        )
        yield (
            f"conv_transpose{dims}d.{'default' if dims == 1 else 'input'}" if dims < 3 else "conv_transpose3d.input",
            [Case(f(2, 4, *size), f(4, 6, *kernel), f(6), [2] * dims, [1] * dims, [1] * dims)],
        )
    # Pooling.
    for dims in (1, 2, 3):
        size = (8, 7, 6)[:dims]
        pool = [
            Case(f(2, 3, *size), [2] * dims),
            Case(f(2, 3, *size), [3] * dims, [2] * dims, [1] * dims),
            Case(f(3, *size), [3] * dims, [2] * dims),
        ]
        larger = Case(f(2, 3, *size), [3] * dims, [2] * dims, [1] * dims, [2] * dims)
        up = Case(f(2, 3, *size), [3] * dims, [2] * dims, [0] * dims, [1] * dims, True)
        far = Case(f(2, 3, *(9, 9, 9)[:dims]), [2] * dims, [3] * dims, [1] * dims, [1] * dims, True, known=True)
        yield f"max_pool{dims}d.default", [*pool, larger, up, far]
        yield f"max_pool{dims}d_with_indices.default", [Case(f(2, 3, *size), [2] * dims, only=1)]
        above = Case(f(2, 3, *size), [3] * dims, [2] * dims, [1] * dims, True, known=True)
        inside = Case(f(2, 3, *size), [3] * dims, [2] * dims, [1] * dims, True, False, known=True)
        yield (
            f"avg_pool{dims}d.default",
            [*pool, Case(f(2, 3, *size), [3] * dims, [2] * dims, [1] * dims, False, False), above, inside]
            + ([Case(f(2, 3, *size), [3] * dims, [2] * dims, [1] * dims, False, True, 5)] if dims > 1 else []),
        )
        yield (
            f"adaptive_avg_pool{dims}d.default",
            [Case(f(2, 3, *size), [1] * dims), Case(f(2, 3, *size), [3] * dims, known=True)],
        )
        yield (
            f"adaptive_max_pool{dims}d.default",
            [Case(f(2, 3, *size), [1] * dims, only=1), Case(f(2, 3, *size), [3] * dims, only=1, known=True)],
        )
        if dims > 1:
            yield (
                f"_adaptive_avg_pool{dims}d.default",
                [Case(f(2, 3, *size), [1] * dims), Case(f(2, 3, *size), [4] * dims, known=True)],
            )
        amount = [1, 2] * dims
        yield f"reflection_pad{dims}d.default", [Case(f(2, 3, *size), amount)]
        yield f"replication_pad{dims}d.default", [Case(f(2, 3, *size), amount)]
    yield (
        "pad.default",
        [
            Case(f(2, 3, 5), [1, 2]),
            Case(f(2, 3, 5), [1, 2, 0, 1], "constant", 2.0),
            Case(f(2, 3, 5), [1, 2], "reflect"),
            Case(f(2, 3, 5), [1, 2], "replicate"),
            Case(f(2, 3, 5), [1, 2], "circular"),
            Case(f(2, 3, 5), [-1, 2]),
        ],
    )
    yield (
        "constant_pad_nd.default",
        [Case(f(2, 3), [1, 0, 2, 1]), Case(whole(2, 3), [1, 1], 7), Case(truth(2, 3), [1, 1])],
    )
    yield "pixel_shuffle.default", [Case(f(2, 8, 3, 5), 2), Case(f(8, 3, 5), 2)]
    yield "pixel_unshuffle.default", [Case(f(2, 2, 4, 6), 2, known=True), Case(f(2, 4, 6), 2, known=True)]
    for name in ("channel_shuffle", "native_channel_shuffle"):
        yield f"{name}.default", [Case(f(2, 6, 3, 5), 3, known=True)]
    # Sizes of images.
    for dims in (1, 2, 3):
        size, wanted = (5, 6, 4)[:dims], [7, 3, 8][:dims]
        for name in (f"upsample_nearest{dims}d", f"_upsample_nearest_exact{dims}d"):
            if name == "_upsample_nearest_exact3d":
                continue
            yield (
                f"{name}.vec",
                [
                    Case(f(2, 3, *size), wanted, None),
                    Case(f(2, 3, *size), None, [2.0] * dims),
                    Case(f(2, 3, *size), None, [1.7] * dims),
                ],
            )
            yield (
                f"{name}.default",
                [Case(f(2, 3, *size), wanted), Case(f(2, 3, *size), [2 * each for each in size], *[2.0] * dims)],
            )
        name = {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"}[dims]
        yield (
            f"upsample_{name}.vec",
            [Case(f(2, 3, *size), wanted, aligned, None) for aligned in (True, False)]
            + [Case(f(2, 3, *size), None, False, [2.0] * dims)],
        )
        yield f"upsample_{name}.default", [Case(f(2, 3, *size), wanted, aligned) for aligned in (True, False)]
    yield "upsample_bicubic2d.vec", [Case(f(2, 3, 5, 6), [7, 9], aligned, None) for aligned in (True, False)]
    yield "upsample_bicubic2d.default", [Case(f(2, 3, 5, 6), [7, 9], False)]
    for name in ("bilinear", "bicubic"):
        yield (
            f"_upsample_{name}2d_aa.vec",
            [Case(f(2, 3, 9, 8), size, aligned, None) for size in ([4, 5], [1, 13]) for aligned in (False, True)]
            + [Case(f(2, 3, 9, 8), None, aligned, [0.4, 1.3]) for aligned in (False, True)],
        )
        yield (
            f"_upsample_{name}2d_aa.default",
            [Case(f(2, 3, 9, 8), [4, 5], False), Case(f(2, 3, 9, 8), [3, 10], False, 0.4, 1.3)],
        )
    for name in ("grid_sampler", "grid_sampler_2d"):
        yield (
            f"{name}.default",
            [Case(f(2, 3, 5, 6), unit(2, 4, 3, 2), way, edge, True) for way, edge in ((0, 0), (0, 1), (1, 0))]
            + [Case(f(2, 3, 5, 6), unit(2, 4, 3, 2), 0, 0, False)],
        )
    # Norms.
    yield (
        "batch_norm.default",
        [
            Case(f(2, 3, 4), f(3), f(3), f(3), pos(3), False, 0.1, 1e-3, False),
            Case(f(2, 3), None, None, f(3), pos(3), False, 0.1, 1e-3, False, known=True),
            Case(f(2, 3, 4), f(3), f(3), None, None, True, 0.1, 1e-3, False),
        ],
    )
    yield (
        "layer_norm.default",
        [Case(f(2, 3, 4), [4], f(4), f(4)), Case(f(2, 3, 4), [3, 4]), Case(f(2, 3, 4), [4], f(4), None, 1e-3)],
    )
    yield "native_layer_norm.default", [Case(f(2, 3, 4), [4], f(4), f(4), 1e-3, only=1)]
    yield "group_norm.default", [Case(f(2, 6, 4, 3), 3, f(6), f(6)), Case(f(2, 6), 2)]
    yield "native_group_norm.default", [Case(f(2, 6, 4), f(6), f(6), 2, 6, 4, 3, 1e-3, only=1)]
    yield (
        "instance_norm.default",
        [
            Case(f(2, 3, 4, 5), f(3), f(3), None, None, True, 0.1, 1e-3, False),
            Case(f(2, 3, 4), f(3), f(3), f(3), pos(3), False, 0.1, 1e-3, False),
        ],
    )
    yield "rms_norm.default", [Case(f(2, 3, 4), [4], f(4)), Case(f(2, 3, 4), [3, 4], None, 1e-3)]
    yield "_fused_rms_norm.default", [Case(f(2, 3, 4), [4], f(4), 1e-3, only=1)]
    yield (
        "linalg_vector_norm.default",
        [Case(f(3, 4), order, [1], True) for order in (2, 1, 0, 3, math.inf, -math.inf)] + [Case(f(3, 4))],
    )
    yield "norm.Scalar", [Case(f(3, 4)), Case(f(3, 4), 1)]
    yield "norm.ScalarOpt_dim", [Case(f(3, 4), 2, [0]), Case(f(3, 4), None, [1], True)]
    yield "norm.ScalarOpt_dtype", [Case(f(3, 4), 2, dtype=F64)]
    yield "norm.ScalarOpt_dim_dtype", [Case(f(3, 4), 2, [0], True, dtype=F64)]
    yield "frobenius_norm.dim", [Case(f(3, 4), [0, 1])]
    yield "linalg_norm.default", [Case(f(3, 4)), Case(f(3, 4), 1, [1])]
    yield "linalg_norm.ord_str", [Case(f(2, 3, 4), "fro", [1, 2])]
    yield "linalg_matrix_norm.str_ord", [Case(f(2, 3, 4))]
    yield "cosine_similarity.default", [Case(f(3, 4), f(3, 4)), Case(f(3, 4), f(4), -1)]
    yield "pairwise_distance.default", [Case(f(3, 4), f(3, 4)), Case(f(3, 4), f(4), 1.0, 1e-3, True)]
    yield "cdist.default", [Case(f(2, 3, 4), f(2, 5, 4)), Case(f(3, 4), f(5, 4), 1.0)]
    yield "_cdist_forward.default", [Case(f(3, 4), f(5, 4), 1.0, None)]
    yield "dist.default", [Case(f(3, 4), f(3, 4)), Case(f(3, 4), f(4), 1)]
    yield "_weight_norm.default", [Case(f(3, 4), pos(3, 1)), Case(f(3, 4), pos(1, 4), 1)]
    yield "_weight_norm_interface.default", [Case(f(3, 4), pos(3, 1), only=1)]
    # Reductions.
    for name in ("sum", "mean"):
        dim = f"{name}.{'dim_IntList' if name == 'sum' else 'dim'}"
        yield f"{name}.default", [Case(f(3, 4)), Case(f(3), dtype=F64)]
        yield dim, [Case(f(2, 3, 4), [1, -1]), Case(f(2, 3, 4), [0], True), Case(f(2, 3), None)]
    yield "sum.default", [Case(whole(3)), Case(truth(9))]
    yield "prod.default", [Case(f(3, 4))]
    yield "prod.dim_int", [Case(f(3, 4), 1), Case(whole(3, 4), 0, True)]
    for name in ("var", "std", "var_mean", "std_mean"):
        yield f"{name}.default", [Case(f(3, 4)), Case(f(3, 4), False)]
        yield f"{name}.dim", [Case(f(3, 4), [1]), Case(f(3, 4), [0, 1], False, True)]
        yield (
            f"{name}.correction",
            [Case(f(3, 4), [1], correction=0, keepdim=True), Case(f(3, 4)), Case(f(3, 4), [0], correction=1)],
        )
    for name in ("amax", "amin"):
        yield f"{name}.default", [Case(f(2, 3, 4), [1, 2]), Case(whole(3, 4), [0], True), Case(truth(3, 4), [0])]
    yield "aminmax.default", [Case(f(3, 4)), Case(f(3, 4), dim=1, keepdim=True)]
    for name in ("max", "min"):
        yield f"{name}.default", [Case(f(3, 4)), Case(whole(3))]
        yield f"{name}.dim", [Case(f(3, 4), 1), Case(f(3, 4), 0, True)]
    for name in ("argmax", "argmin"):
        yield (
            f"{name}.default",
            [Case(f(3, 4)), Case(f(3, 4), 1), Case(whole(3, 4), 0, True), Case(f(3, 4), None, True)],
        )
    for name in ("any", "all"):
        yield f"{name}.default", [Case(truth(3, 4)), Case(whole(9, low=0, high=2))]
        yield f"{name}.dim", [Case(truth(3, 4), 1), Case(truth(3, 4), 0, True)]
        yield f"{name}.dims", [Case(truth(3, 4), [0, 1])]
    yield "count_nonzero.default", [Case(whole(3, 4, low=0, high=2), 1)]
    yield "count_nonzero.dim_IntList", [Case(whole(3, 4, low=0, high=2), [0])]
    yield "cumsum.default", [Case(f(3, 4), 1), Case(whole(3, 4), 0), Case(truth(3, 4), -1)]
    yield "logsumexp.default", [Case(f(3, 4), [1]), Case(f(3, 4), [0, 1], True)]
    yield "topk.default", [Case(f(3, 6), 2), Case(f(6, 3), 2, 0, False)]
    yield "sort.default", [Case(f(3, 6)), Case(f(6, 3), 0, True)]
    yield "sort.stable", [Case(f(3, 6), stable=True, dim=1)]
    yield "argsort.default", [Case(f(3, 6))]
    yield "argsort.stable", [Case(f(3, 6), stable=True, dim=0)]
    yield "msort.default", [Case(f(6, 3))]
    yield "kthvalue.default", [Case(f(3, 6), 2), Case(f(6, 3), 3, 0, True)]
    yield "median.default", [Case(f(3, 5), known=True)]
    yield "median.dim", [Case(f(3, 5), 1, known=True), Case(f(4, 3), 0, True, known=True)]
    yield "diff.default", [Case(f(3, 5)), Case(f(5, 3), 2, 0), Case(f(3, 5), 1, 1, f(3, 1)), Case(truth(3, 5))]
    gaps = torch.where(truth(3, 4), f(3, 4), math.nan)
    yield "nansum.default", [Case(gaps), Case(gaps, [1])]
    yield "nanmean.default", [Case(gaps), Case(torch.cat([gaps, f(1, 4)]), [0])]
    yield "trace.default", [Case(f(3, 4))]
    # Shapes.
    yield "reshape.default", [Case(f(2, 3, 4), [2, 12]), Case(f(2, 3, 4), [-1, 4])]
    for name in ("view", "_unsafe_view"):
        yield f"{name}.default", [Case(f(2, 3, 4), [6, -1])]
    for name in ("view_as", "reshape_as"):
        yield f"{name}.default", [Case(f(2, 6), f(3, 4))]
    yield "permute.default", [Case(f(2, 3, 4), [2, 0, 1]), Case(f(2, 3, 4), [0, -1, 1])]
    yield "t.default", [Case(f(2, 3)), Case(f(3))]
    yield "numpy_T.default", [Case(f(2, 3, 4))]
    for name in ("mT", "mH", "adjoint"):
        yield f"{name}.default", [Case(f(2, 3, 4))]
    yield "ravel.default", [Case(f(2, 3))]
    yield (
        "flatten.using_ints",
        [
            Case(f(2, 3, 4)),
            Case(f(2, 3, 4), 1),
            Case(f(2, 3, 4, 5), 1, 2),
            Case(f(2, 3, 4), 0, 1),
            Case(torch.tensor(1.0)),
        ],
    )
    yield "unflatten.int", [Case(f(2, 12, 3), 1, [3, -1]), Case(f(2, 12), -1, [3, 4])]
    yield "transpose.int", [Case(f(2, 3, 4), 1, -1)]
    yield "swapaxes.default", [Case(f(2, 3, 4), 0, 2)]
    yield "swapdims.default", [Case(f(2, 3, 4), 0, 2)]
    for name in ("movedim", "moveaxis"):
        yield f"{name}.int", [Case(f(2, 3, 4), 0, -1)]
        yield f"{name}.intlist", [Case(f(2, 3, 4), [0, 1], [-1, 0])]
    yield "unsqueeze.default", [Case(f(2, 3), 1), Case(f(2, 3), -1)]
    yield "squeeze.default", [Case(f(2, 1, 3, 1), known=True)]
    yield "squeeze.dim", [Case(f(2, 1, 3), 1, known=True), Case(f(2, 3), 0, known=True)]
    yield "squeeze.dims", [Case(f(2, 1, 3, 1), [1, -1], known=True)]
    yield "expand.default", [Case(f(3, 1), [2, 3, 4]), Case(f(3, 1), [-1, 4])]
    yield "expand_as.default", [Case(f(3, 1), f(2, 3, 4))]
    yield "broadcast_to.default", [Case(f(3, 1), [2, 3, 4])]
    yield "contiguous.default", [Case(f(3))]
    yield "clone.default", [Case(f(3))]
    for name in ("alias", "detach", "lift_fresh_copy", "resolve_conj", "resolve_neg"):
        if f"aten.{name}.default" in ALLOWED:
            yield f"{name}.default", [Case(f(3))]
    yield (
        "slice.Tensor",
        [Case(f(5, 3)), Case(f(5, 3), 0, 1, -1), Case(f(3, 7), 1, -5, None, 2), Case(f(3, 4), 1, 2, 99)],
    )
    yield "narrow.default", [Case(f(5, 3), 0, 1, 2), Case(f(3, 7), 1, -2, 2)]
    yield "select.int", [Case(f(3, 4), 1, 2), Case(f(3, 4), 0, -1)]
    for name in ("split.Tensor", "unsafe_split.Tensor"):
        yield name, [Case(f(5, 3), 2, listed=3), Case(f(2, 6), 3, 1, listed=2)]
    for name in ("split.sizes", "split_with_sizes.default", "unsafe_split_with_sizes.default"):
        yield name, [Case(f(5, 3), [2, 3], listed=2), Case(f(2, 6), [1, 2, 3], 1, listed=3)]
    for name in ("chunk", "unsafe_chunk"):
        yield f"{name}.default", [Case(f(5, 3), 3, listed=3), Case(f(2, 7), 3, 1, listed=3)]
    yield "tensor_split.sections", [Case(f(7, 3), 3, listed=3, known=True)]
    yield "tensor_split.indices", [Case(f(7, 3), [2, -1], listed=3)]
    for name, cut in (("hsplit", f(2, 6, 4)), ("vsplit", f(6, 2)), ("dsplit", f(2, 3, 6))):
        yield f"{name}.int", [Case(cut, 2, listed=2, known=True)]
        yield f"{name}.array", [Case(cut, [1, 3], listed=3)]
    yield "unbind.int", [Case(f(3, 4), listed=3), Case(f(3, 2), 1, listed=2)]
    for name in ("cat", "concat", "concatenate"):
        yield f"{name}.default", [Case([f(2, 3), f(4, 3)]), Case([f(2, 3), whole(2, 1)], -1)]
    yield "stack.default", [Case([f(2, 3), f(2, 3)]), Case([f(2, 3), f(2, 3)], -1)]
    yield "hstack.default", [Case([f(2, 3), f(2, 1)]), Case([f(2), f(3)])]
    for name in ("vstack", "row_stack"):
        yield f"{name}.default", [Case([f(2, 3), f(3)])]
    yield "dstack.default", [Case([f(2, 3), f(2, 3)]), Case([f(3), f(3)])]
    yield "column_stack.default", [Case([f(3), f(3, 2)])]
    yield "repeat.default", [Case(f(2, 3), [2, 1, 3]), Case(truth(2, 3), [1, 2])]
    yield "tile.default", [Case(f(2, 3), [2])]
    yield "repeat_interleave.self_int", [Case(f(2, 3), 2), Case(f(2, 3), 3, 1)]
    yield "roll.default", [Case(f(3, 4), [1], [0]), Case(f(3, 4), [-1, 2], [0, 1]), Case(f(3, 4), [5])]
    yield "flip.default", [Case(f(3, 4), [0, 1])]
    yield "fliplr.default", [Case(f(3, 4))]
    yield "flipud.default", [Case(f(3, 4))]
    yield "rot90.default", [Case(f(2, 3, 4), times, [1, 2]) for times in range(-1, 4)]
    yield "tril.default", [Case(f(3, 4)), Case(truth(3, 4), 1), Case(whole(4, 4).to(torch.int32), -1)]
    yield "triu.default", [Case(f(3, 4), 1)]
    yield (
        "diagonal.default",
        [Case(f(3, 4), known=True), Case(f(2, 3, 4), -1, 1, 2, known=True), Case(f(3, 2, 4), 1, 0, 2, known=True)],
    )
    yield "linalg_diagonal.default", [Case(f(2, 3, 4), known=True)]
    yield (
        "diag_embed.default",
        [Case(f(2, 3), known=True), Case(f(2, 3), 1, known=True), Case(f(2, 3), -1, 0, 2, known=True)],
    )
    yield "diag.default", [Case(f(3), known=True), Case(f(3, 4), 1, known=True)]
    yield "unfold.default", [Case(f(2, 9), 1, 3, 2, known=True), Case(f(9, 2), 0, 3, 3, known=True)]
    yield "meshgrid.default", [Case([f(2), f(3)], listed=2)]
    yield "meshgrid.indexing", [Case([f(2), f(3), f(4)], indexing=way, listed=3) for way in ("ij", "xy")]
    yield "broadcast_tensors.default", [Case([f(3, 1), f(4)], listed=2)]
    for rank in (1, 2, 3):
        yield f"atleast_{rank}d.default", [Case(torch.tensor(1.0)), Case(f(3)), Case(f(2, 3))]
    yield "sum_to_size.default", [Case(f(2, 3, 4), [3, 1])]
    yield "cartesian_prod.default", [Case([f(2), f(3)])]
    # Places.
    yield "embedding.default", [Case(f(7, 3), whole(2, 4, low=0, high=7))]
    yield "index_select.default", [Case(f(3, 4), 1, torch.tensor([3, 0]))]
    yield "gather.default", [Case(f(3, 4), 1, whole(3, 2, low=0, high=4))]
    yield (
        "take_along_dim.default",
        [Case(f(3, 4), whole(3, 2, low=0, high=4), 1), Case(f(3, 4), whole(5, low=0, high=12))],
    )
    yield "take.default", [Case(f(3, 4), whole(5, low=0, high=12))]
    yield (
        "index.Tensor",
        [
            Case(f(5, 3), [torch.tensor([[0, 4], [-1, 2]])]),
            Case(f(5, 3, 4), [None, torch.tensor([2, 0])]),
            Case(f(5, 3, 4), [torch.tensor([4, 0]), torch.tensor([2, 1])]),
            Case(f(5, 3, 4), [None, torch.tensor([[2], [0]]), torch.tensor([3, 0, 1])]),
            Case(f(5, 3, 4), [torch.tensor([4, 0]), None, torch.tensor([3, 1])]),
            Case(f(5, 3), [truth(5)]),
            Case(f(2, 5, 3), [None, truth(5)]),
        ],
    )
    yield (
        "index_put.default",
        [
            Case(f(5, 3), [torch.tensor([0, 4])], f(2, 3)),
            Case(f(5, 3), [None, torch.tensor([0, 2])], f(5, 2)),
            Case(f(5, 3), [torch.tensor([0, 0]), torch.tensor([1, 1])], f(2), True),
            Case(f(5, 3), [truth(5, 3)], torch.tensor(2.0)),
            Case(f(5, 3), [torch.tensor([1])], torch.tensor(2.0)),
            Case(whole(5), [torch.tensor([1, 2])], whole(2)),
        ],
    )
    places = torch.tensor([[0, 2], [1, 0], [3, 3]])
    once = torch.tensor([[0, 2], [1, 0], [3, 1]])
    yield "scatter.src", [Case(f(3, 4), 1, once, f(3, 2)), Case(f(3, 4), 1, once, f(3, 3))]
    yield "scatter.value", [Case(f(3, 4), 1, once, 2.0), Case(whole(3, 4), 1, once, 1)]
    yield "scatter_add.default", [Case(f(3, 4), 1, places, f(3, 2))]
    yield "scatter_reduce.two", [Case(f(3, 4), 1, places, f(3, 2), how) for how in ("sum", "prod", "amax", "amin")]
    yield (
        "index_add.default",
        [Case(f(3, 4), 1, torch.tensor([0, 0]), f(3, 2)), Case(f(3, 4), 0, torch.tensor([2]), f(1, 4), alpha=2)],
    )
    yield "index_copy.default", [Case(f(3, 4), 1, torch.tensor([0, 2]), f(3, 2))]
    yield "index_fill.int_Scalar", [Case(f(3, 4), 1, torch.tensor([0, 2]), 7)]
    yield "index_fill.int_Tensor", [Case(f(3, 4), 0, torch.tensor([1]), torch.tensor(7.0))]
    yield "one_hot.default", [Case(whole(3, 2, low=0, high=4), 5)]
    yield (
        "slice_scatter.default",
        [Case(f(3, 5), f(3, 2), 1, 1, 3), Case(f(3, 5), f(3, 2), 1, 1, 5, 2), Case(f(5, 3), f(5, 3))],
    )
    yield "select_scatter.default", [Case(f(3, 4), f(3), 1, 2)]
    yield "masked_scatter.default", [Case(f(3, 4), truth(3, 4), f(12))]
    yield "isin.Tensor_Tensor", [Case(whole(3, 4), whole(3)), Case(whole(4), whole(3), invert=True)]
    yield "isin.Tensor_Scalar", [Case(whole(9), 2), Case(whole(9), 2, invert=True)]
    yield "scatter.reduce", [Case(f(3, 4), 1, places, f(3, 2), reduce=how) for how in ("add", "multiply")]
    yield "scatter.value_reduce", [Case(f(3, 4), 1, places, 1.5, reduce=how) for how in ("add", "multiply")]
    edges = torch.tensor([-0.5, 0.0, 0.5])
    yield (
        "searchsorted.Tensor",
        [
            Case(edges, f(3, 4)),
            Case(f(3, 5).sort(1)[0], f(3, 4), right=True, out_int32=True),
            Case(edges, torch.tensor([0.0, 0.5]), side="right"),
        ],
    )
    yield "bucketize.Tensor", [Case(f(3, 4), edges), Case(torch.tensor([0.0, 0.5]), edges, right=True, out_int32=True)]
    yield "bucketize.Scalar", [Case(0.2, edges)]
    # Numbers alone: a tensor is given so that there is an input.
    for name, number in (("zeros", ()), ("ones", ()), ("full", (1.5,))):
        yield f"{name}.default", [Case([2, 3], *number), Case([2], *number, dtype=I64)]
        yield f"{name}_like.default", [Case(f(2, 3), *number), Case(f(3), *number, dtype=F64)]
        yield f"new_{name}.default", [Case(f(2, 3), [4], *number), Case(f(3), [2, 2], *number, dtype=BOOL)]
    yield "fill.Scalar", [Case(f(2, 3), 2)]
    yield "fill.Tensor", [Case(f(2, 3), torch.tensor(2.0))]
    yield "copy.default", [Case(f(2, 3), f(3))]
    yield "scalar_tensor.default", [Case(2.5), Case(2, dtype=I64)]
    yield "arange.default", [Case(5), Case(2.5), Case(3, dtype=F32)]
    yield "arange.start", [Case(2, 7), Case(2, 7, dtype=F64)]
    yield "arange.start_step", [Case(2, 9, 3), Case(0.5, 2.0, 0.25), Case(5, 0, -2)]
    yield "linspace.default", [Case(0.0, 1.0, 5), Case(-1, 3, 7, dtype=F64)]
    yield "eye.default", [Case(3)]
    yield "eye.m", [Case(2, 3, dtype=I64)]
    yield "tril_indices.default", [Case(3, 4)]
    yield "triu_indices.default", [Case(3, 4, 1)]
    # Recurrent calls.
    for cell, gates, states in (("lstm", 4, 2), ("gru", 3, 1), ("rnn_tanh", 1, 1), ("rnn_relu", 1, 1)):
        cases = []
        for levels, ways, biased, first in ((1, 1, True, True), (2, 2, True, True), (1, 2, False, False)):
            weights = []
            for number in range(levels * ways):
                width = 3 if number < ways else ways * 4
                weights += [f(gates * 4, width) / 2, f(gates * 4, 4) / 2] + [f(gates * 4)] * (2 * biased)
            begin = [f(levels * ways, 2, 4) for _ in range(states)]
            data = f(2, 5, 3) if first else f(5, 2, 3)
            cases.append(
                Case(data, begin if states > 1 else begin[0], weights, biased, levels, 0.0, False, ways == 2, first)
            )
        yield f"{cell}.input", cases

    for cell, gates in (("lstm", 4), ("gru", 3), ("rnn_tanh", 1), ("rnn_relu", 1)):
        state = [f(2, 4), f(2, 4)] if cell == "lstm" else f(2, 4)
        weights = [f(gates * 4, 3), f(gates * 4, 4), f(gates * 4), f(gates * 4)]
        yield f"{cell}_cell.default", [Case(f(2, 3), state, *weights), Case(f(2, 3), state, *weights[:2])]
    # Losses.
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        yield f"{name}.default", [Case(f(3, 4), f(3, 4), reduction) for reduction in (0, 1, 2)]
    yield "smooth_l1_loss.default", [Case(f(3, 4), f(3, 4), 1, 0.3)]
    yield "huber_loss.default", [Case(f(3, 4), f(3, 4), 1, 0.3)]
    yield (
        "binary_cross_entropy_with_logits.default",
        [
            Case(f(3, 4), pos(3, 4)),
            Case(f(3, 4), pos(3, 4), pos(4), pos(4), 0),
        ],
    )


CASES: dict[str, list[Case]] = {}
for _name, _cases in families():
    CASES.setdefault(f"aten.{_name}", []).extend(_cases)

SIZES: dict[str, tuple[Callable[..., Any], Sequence[tuple[Any, ...]]]] = {}


def written(case: Case, op: str, outputs: int, free: bool, path: Path) -> tuple[Graph, list[Tensor]]:
    """A program of one call whose tensors are all inputs, as a file."""
    inputs: list[Tensor] = []

    def argument(value: Any) -> Argument:
        if isinstance(value, Tensor):
            inputs.append(value)
            return Ref(f"x{len(inputs) - 1}")
        return tuple(map(argument, value)) if isinstance(value, (list, tuple)) else value

    args = tuple(argument(each) for each in case.args)
    kwargs = tuple((key, argument(value)) for key, value in case.kwargs.items())
    inputs += [] if inputs else [torch.zeros(1)]
    results = tuple(f"y{number}" if not case.only or number < case.only else "" for number in range(outputs))
    specs = []
    for number, each in enumerate(inputs):
        # Weights of layers are stored, so their sizes are known.
        shape = tuple(None if free and number == 0 else size for size in each.shape)
        specs.append(Input(f"x{number}", str(each.dtype).removeprefix("torch."), shape, tuple(each.shape)))
    node = Node("call", op, args, kwargs, results, listed=bool(case.listed))
    graph = Graph(tuple(specs), {}, frozenset(), (node,), tuple(each for each in results if each))
    writer = OnnxWriter(Template(graph, (), {}, 0, 0), Plain(), original=True)
    data = b"".join(writer.pieces(None, (), None))  # type: ignore[arg-type]
    assert len(data) == writer.sizes().whole
    path.write_bytes(data)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    for name, value in zip(graph.outputs, (writer._model._values[each] for each in graph.outputs), strict=True):
        VALUES[name] = value
    return graph, inputs


VALUES: dict[str, Any] = {}


@pytest.mark.parametrize("free", [False, True], ids=["known", "free"])
@pytest.mark.parametrize("op", CASES)
def test_a_row_makes_what_torch_makes(op: str, free: bool, tmp_path: Path) -> None:
    for number, case in enumerate(CASES[op]):
        if free and case.known:
            continue
        outputs = case.listed or len(resolve(op)._schema.returns)  # type: ignore[attr-defined]
        graph, inputs = written(case, op, outputs, free, tmp_path / f"{number}.onnx")
        with torch.no_grad():
            wanted = run(graph, {}, inputs)
        found = session(tmp_path / f"{number}.onnx")(*inputs)
        several = found if isinstance(found, tuple) else (found,)
        for name, one, other in zip(graph.outputs, several, wanted, strict=True):
            value = VALUES[name]
            assert one.dtype == other.dtype, number
            assert value.rank == other.ndim and value.dtype == str(other.dtype).removeprefix("torch."), number
            assert all(not isinstance(a, int) or a == b for a, b in zip(value.shape, other.shape, strict=True)), number
            assert one.shape == other.shape, number
            torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5, equal_nan=True)


def test_every_row_has_a_case() -> None:
    assert {op for op in ROWS if op.startswith("aten.") and not op.startswith("aten.sym_")} == CASES.keys()


def test_every_row_is_of_an_operator_that_programs_may_call_and_takes_its_arguments_by_name() -> None:
    assert ROWS.keys() <= ALLOWED
    for op, row in ROWS.items():
        if not op.startswith("aten."):
            continue
        own = list(inspect.signature(row).parameters.values())[1:]
        for argument, parameter in zip(resolve(op)._schema.arguments, own, strict=True):  # type: ignore[attr-defined]
            assert parameter.name == argument.name, op
            assert (parameter.kind is parameter.KEYWORD_ONLY) == argument.kwarg_only, op
            assert parameter.default is not parameter.empty or not argument.has_default_value(), op


def test_a_call_without_a_row_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match=r"calls aten\.linalg_svd\.default, .*another format"):
        written(Case(f(3, 3)), "aten.linalg_svd.default", 3, False, tmp_path / "net")


def test_antialiased_resizing_of_integers_is_refused_by_name(tmp_path: Path) -> None:
    image = whole(2, 3, 9, 8, low=0).to(torch.uint8)
    with pytest.raises(UnsupportedCheckpoint, match=r"calls aten\._upsample_bilinear2d_aa\.default, .*another format"):
        written(Case(image, [4, 5], False), "aten._upsample_bilinear2d_aa.default", 1, False, tmp_path / "net")
