"""Numbers of single precision stored as levels of eight bits, and a scale for those that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.encoding import coarsened
from rightrank.models.errors import PrecisionError
from rightrank.models.master.template import TensorSpec
from rightrank.models.program.graph import Constant, Node, Ref

# The highest level; the lowest is its negative, so that zero is a level and signs are alike.
MOST = 127


class Int8:
    """Tensors of float32 with two dimensions or more as levels from -127 to 127, and for each slice along their first
    axis the number that a level stands for; all others as they are. A number is the level times that.

    `encode` raises PrecisionError where a number is not finite.
    """

    name: ClassVar[str] = "int8"
    exact: ClassVar[bool] = False
    coded: ClassVar[bool] = False
    nested: ClassVar[bool] = False
    arithmetic: ClassVar[bool] = False
    most: ClassVar[int] = MOST
    # The type of the levels in a file.
    levels: ClassVar[str] = "int8"

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        if not coarsened(spec.dtype, len(spec.shape)):
            return {"": spec}
        scales = (spec.shape[0], *(1 for _ in spec.shape[1:]))
        return {"": TensorSpec(self.levels, spec.shape), "scale": TensorSpec("float32", scales)}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        if not coarsened(dtype, array.ndim):
            return {"": array}
        numbers = np.ascontiguousarray(array).view(np.float32)
        largest = np.abs(numbers).max(axis=tuple(range(1, numbers.ndim)), keepdims=True, initial=0)
        if not np.isfinite(largest).all():
            raise PrecisionError(
                "There is no level for a number that is not finite, and a tensor of this model has one.",
                "Ask for another precision.",
            )
        return self.scaled(numbers, largest / np.float32(self.most))

    def scaled(self, numbers: NDArray[np.float32], scale: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """The parts of numbers with these scales."""
        # Numbers so small that even their scale is zero become zero, as those of a slice of zeros are.
        levels = np.rint(numbers / np.where(scale > 0, scale, np.float32(1)))
        return {"": np.clip(levels, -self.most, self.most).astype(np.int8), "scale": scale}

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        if not coarsened(spec.dtype, len(spec.shape)):
            return ()
        levels = f"levels of {value}"
        single = Node(levels, "aten.to.dtype", (parts[""], Constant("dtype", "float32")), (), (levels,))
        return single, Node(value, "aten.mul.Tensor", (Ref(levels), parts["scale"]), (), (value,))
