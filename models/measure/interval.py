"""Intervals of 95 % for what was measured on a sample of the world."""

from __future__ import annotations

import math
from typing import TypeAlias

from torch import Tensor

Z = 1.959963984540054
# The lower and the upper end; None where the samples tell of no spread.
Interval: TypeAlias = tuple[float | None, float | None]


def wilson(share: float, n: float) -> Interval:
    """Wilson's interval for a share of `n` independent answers."""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def of_share(share: float, influence: Tensor) -> Interval:
    """Of a share of answers of which each sample may have several: Wilson's, for as many independent answers as would
    vary as much. Where every sample has one answer these are the samples."""
    error = deviation(influence)
    answers = share * (1 - share) / error**2 if error > 0 else float(len(influence))
    return wilson(share, answers)


def normal(value: float, influence: Tensor) -> Interval:
    """Of a value on whose error each sample has the given influence (n,)."""
    if len(influence) < 2:
        return None, None
    half = Z * deviation(influence)
    return value - half, value + half


def deviation(influence: Tensor) -> float:
    """The standard error of a value: samples have their influence on its error independently, and their mean none."""
    n = len(influence)
    return math.sqrt(float((influence - influence.mean()).square().sum()) * n / max(n - 1, 1))
