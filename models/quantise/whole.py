"""A weight that stays whole, as levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rightrank.models.quantise import metric, steps
from rightrank.models.quantise.feedback import Feedback, rounded


@dataclass(frozen=True)
class Whole:
    """`levels` (o, i), int8, and a scale for each output, `scales` (o,), in double as they are stored."""

    levels: Tensor
    scales: Tensor

    def weight(self) -> Tensor:
        """The numbers (o, i), in double."""
        return self.levels * self.scales.unsqueeze(1)


def whole(
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    grid: float,
    *,
    made_good: Feedback | None = None,
    sharing: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Whole:
    """A weight (o, i) at a grid (see `steps`), its errors made good in the metric of its `inputs`, (i, i) or (i,), and
    `outputs`, (o, o) or (o,) (see `metric`). So many neighbouring outputs share a scale, and scales are as `dtype`
    holds them. `made_good` is the inputs' feedback, where it is known already: it is the same at all grids, and most of
    the work."""
    weight, inputs, outputs = (each.double() for each in (weight, inputs, outputs))
    made_good = made_good or metric.feedback(inputs)
    left = metric.left(inputs, made_good)
    scales = steps.of_outputs(weight, metric.alone(outputs), left, grid, sharing, dtype)
    return Whole(rounded(weight, scales.unsqueeze(1), made_good), scales)


def eight_bits(weight: Tensor, *, sharing: int = 1, dtype: torch.dtype = torch.float32) -> Whole:
    """A weight (o, i) rounded to ±127 levels: for the few, tender ones that nothing makes good."""
    weight = weight.double()
    unity = [torch.ones(size, dtype=torch.float64) for size in weight.shape]
    return whole(weight, unity[1], unity[0], 0.0, sharing=sharing, dtype=dtype)
