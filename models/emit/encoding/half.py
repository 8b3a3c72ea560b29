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

# So many numbers at a time stay in the processor's cache.
BLOCK = 1 << 16
# A half that is not finite has all of these bits.
EXPONENT = np.uint16(0x7C00)


def _halves(numbers: NDArray[np.float32]) -> tuple[NDArray[np.float16], bool]:
    """Numbers in half precision, and whether all of these are finite. By torch, which takes a tenth of the time that
    numpy does, and rounds the same; what either makes of numbers that are not any differs."""
    import torch

    half = np.empty(numbers.shape, np.float16)
    given, made = numbers.reshape(-1), half.reshape(-1)
    some, bits = np.empty(min(BLOCK, given.size), np.float32), np.empty(min(BLOCK, given.size), np.uint16)
    source, target = torch.from_numpy(some), torch.from_numpy(made)
    finite = True
    for start in range(0, given.size, BLOCK):
        part = slice(start, min(start + BLOCK, given.size))
        count = part.stop - start
        # The master's own are only to be read, which torch warns of.
        some[:count] = given[part]
        target[part].copy_(source[:count])
        finite &= bool(np.bitwise_and(made[part].view(np.uint16), EXPONENT, out=bits[:count]).max() < EXPONENT)
    return half, finite


class Half:
    """Tensors of float32 with two dimensions or more as float16, rounded to the nearest; all others as they are.

    `encode` raises PrecisionError where a number is beyond the largest of float16.
    """

    name, exact, coded, nested, arithmetic = "half", False, False, False, False

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        return {"": TensorSpec("float16", spec.shape)} if coarsened(spec.dtype, len(spec.shape)) else {"": spec}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        if not coarsened(dtype, array.ndim):
            return {"": array}
        numbers = np.ascontiguousarray(array).view(np.float32)
        half, plain = _halves(numbers)
        if not plain:
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
