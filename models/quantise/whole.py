"""A weight that stays whole, as levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rightrank.models.quantise import metric, steps
from rightrank.models.quantise.feedback import Feedback, settled_at


@dataclass(frozen=True)
class Whole:
    """`levels` (o, i), int8, and a scale for each output, `scales` (o,), in double as they are stored; and their `loss`
    in the metric that they were made in."""

    levels: Tensor
    scales: Tensor
    loss: float

    def weight(self) -> Tensor:
        """The numbers (o, i), in double."""
        return self.levels * self.scales.unsqueeze(1)


def whole(weight: Tensor, inputs: Tensor, outputs: Tensor, grid: float, **options: Any) -> Whole:
    """The same as `whole_at`, at one grid."""
    return next(whole_at(weight, inputs, outputs, (grid,), **options))


def whole_at(
    weight: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    grids: Sequence[float],
    *,
    made_good: Feedback | None = None,
    sharing: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Whole]:
    """A weight (o, i) at each of some grids (see `steps`), its errors made good in the metric of its `inputs`, (i, i)
    or (i,), and `outputs`, (o, o) or (o,) (see `metric`). So many neighbouring outputs share a scale, and scales are as
    `dtype` holds them. `made_good` is the inputs' feedback, where it is known already."""
    weight, inputs, outputs = (each.double() for each in (weight, inputs, outputs))
    made_good = made_good or metric.feedback(inputs)
    left, price = metric.left(inputs, made_good), metric.alone(outputs)
    several = [steps.of_outputs(weight, price, left, grid, sharing, dtype) for grid in grids]
    made = settled_at(weight, [scales.unsqueeze(1) for scales in several], made_good)
    for scales, (levels, missed) in zip(several, made, strict=True):
        error = weight - levels * scales.unsqueeze(1)
        if made_good is None or missed is None:
            lost = metric.loss(error, inputs, outputs)
        else:
            lost = metric.of_rounding(error, missed, made_good, inputs, outputs)
        yield Whole(levels, scales, lost)


def rounded_at(weight: Tensor, grid: float = 0.0, *, sharing: int = 1, dtype: torch.dtype = torch.float32) -> Whole:
    """A weight (o, i) at a grid, where an error in each number costs the same and nothing makes it good; without one
    rounded to ±127 levels, for the few, tender ones."""
    weight = weight.double()
    outputs, inputs = (torch.ones(size, dtype=torch.float64) for size in weight.shape)
    return whole(weight, inputs, outputs, grid, sharing=sharing, dtype=dtype)
