"""Numbers of single precision stored in half of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.encoding import coarsened
from rightrank.models.errors import PrecisionError
from rightrank.models.master.template import TensorSpec
from rightrank.models.program.graph import Constant, Node, Ref


class Half:
    """Tensors of float32 with two dimensions or more as float16, rounded to the nearest; all others as they are.

    `encode` raises PrecisionError where a number is beyond the largest of float16.
    """

    name, exact, coded = "half", False, False

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        return {"": TensorSpec("float16", spec.shape)} if coarsened(spec.dtype, len(spec.shape)) else {"": spec}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        if not coarsened(dtype, array.ndim):
            return {"": array}
        numbers = np.ascontiguousarray(array).view(np.float32)
        with np.errstate(over="ignore", under="ignore"):
            half = numbers.astype(np.float16)
        if np.any(beyond := np.isinf(half) & np.isfinite(numbers)):
            raise PrecisionError(
                f"float16 goes up to 65,504, and a tensor of this model has {float(numbers[beyond][0]):g}.",
                "Ask for another precision.",
            )
        return {"": half}

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        if not coarsened(spec.dtype, len(spec.shape)):
            return ()
        return (Node(value, "aten.to.dtype", (parts[""], Constant("dtype", "float32")), (), (value,)),)
