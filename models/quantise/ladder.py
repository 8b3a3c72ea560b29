"""Which grids a network's numbers are kept at: each twice as coarse as the one before it, a bit a number less.

Each layer of a plan has its own, so that a finer ladder gains little: on ResNet-56 steps of 1.5 instead of 2.25 took 5
to 15 % off the expected loss, depending on the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# As coarse as that, six grids lead from hardly any loss to less than a bit for each number.
COUNT, FINEST, STEP = 6, 6.0, 2.0
ROUNDS = 30


def ladder(numbers: Sequence[Tensor], count: int = COUNT) -> tuple[float, ...]:
    """So many grids, at the finest of which, the first, all numbers together take `FINEST` bits each when rounded.
    `numbers` are each layer's in units of a grid of one: times the root of their price (see `steps`)."""
    flat = torch.cat([each.flatten() for each in numbers]).double().abs() if numbers else torch.zeros(0)
    flat = flat[flat.isfinite()]
    largest = float(flat.max()) if flat.numel() else 0.0
    if not largest > 0:
        return tuple(STEP**power for power in range(count))
    low, high = math.log(largest) - 40, math.log(largest) + 1
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if _bits(flat, math.exp(middle)) > FINEST else (low, middle)
    return tuple(math.exp(high) * STEP**power for power in range(count))


def _bits(sizes: Tensor, grid: float) -> float:
    """The entropy of the levels of numbers of these sizes and of either sign."""
    levels = (sizes / grid).clamp_max(1e15).round()
    _, counts = torch.unique(levels, return_counts=True)
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.log2()).sum()) + float((levels > 0).double().mean())
