"""A tensor as levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaled:
    """`levels`, int8, in the shape in which calls take the tensor, and `scales`, in double as they are stored, in a
    shape that goes with it: the tensor is the product of both."""

    levels: Tensor
    scales: Tensor

    def numbers(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The tensor itself."""
        return self.levels.to(dtype) * self.scales.to(dtype)
