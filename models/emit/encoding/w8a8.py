"""Numbers as levels of eight bits that a file computes with: weights and activations (W8A8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.encoding import coarsened
from rightrank.models.emit.encoding.int8 import Int8
from rightrank.models.master.template import TensorSpec
from rightrank.models.master.tensorfile import TensorFile

# The highest level. Without VNNI, processors add two products of an unsigned and a signed byte in sixteen bits, and cut
# off what exceeds these: 255·127·2 does, 255·64·2 does not. So a file computes the same everywhere.
MOST = 64


@dataclass(frozen=True)
class W8A8(Int8):
    """As `Int8`, with levels from -64 to 64, and beside each scale the level that is zero, which is 0: some kernels are
    only put in place where a file says so. Values are rounded to the `ranges` that calibration inputs showed (see
    `master.ranges`), which a format's writer takes from here."""

    ranges: TensorFile | None = None

    name: ClassVar[str] = "w8a8"
    arithmetic: ClassVar[bool] = True
    most: ClassVar[int] = MOST

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        found = super().parts(spec)
        return {**found, "zero": TensorSpec("int8", found["scale"].shape)} if "scale" in found else found

    def encode(
        self, array: NDArray[Any], dtype: str, least: NDArray[np.float32] | None = None
    ) -> Mapping[str, NDArray[Any]]:
        """As it says there; `least` is what a level stands for at least, (n,), for n slices along the first axis."""
        parts = super().encode(array, dtype)
        if least is None or not coarsened(dtype, array.ndim) or (least <= parts["scale"].reshape(-1)).all():
            return parts
        scale = np.maximum(parts["scale"], least.reshape(parts["scale"].shape))
        return self.scaled(np.ascontiguousarray(array).view(np.float32), scale)

    def scaled(self, numbers: NDArray[np.float32], scale: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        return {**super().scaled(numbers, scale), "zero": np.zeros(scale.shape, dtype=np.int8)}
