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
    variance = float(influence.square().sum())
    answers = share * (1 - share) / variance if variance > 0 else float(len(influence))
    return wilson(share, answers)


def skewed(value: float, influence: Tensor, least: float = -math.inf, most: float = math.inf) -> Interval:
    """Of a value on whose error each sample has the given influence (n,), as far as it is between `least` and `most`.

    By a normal distribution, and Hall's cubic transformation (J. R. Statist. Soc. B 54, 1992) for what the influences'
    skewness makes of it: a few samples with large errors are as often missing as they are there, and without it the
    interval is too short on their side. As good here as resampling, without its work and its chance.
    """
    n, error = len(influence), deviation(influence)
    if n < 2:
        return None, None
    if not error > 0:
        return (value, value) if error == 0 else (None, None)
    apart = influence - influence.mean()
    skewness = float(apart.pow(3).mean()) / float(apart.square().mean()) ** 1.5 / math.sqrt(n)
    ends = (value - error * _untransformed(z, skewness) for z in (Z, -Z))
    low, high = (min(max(end, least), most) for end in ends)
    return low, high


def by_odds(value: float, influence: Tensor) -> Interval:
    """Of a value between 0 and 1, normal in the logarithm of its odds."""
    if not 0 < value < 1:
        return wilson(value, float(len(influence)))
    odds, error = math.log(value / (1 - value)), deviation(influence) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(odds + end * error))) for end in (-Z, Z))
    return low, high


def _untransformed(z: float, skewness: float) -> float:
    """Which studentised error Hall's transformation takes to z; `skewness` is that of samples by the root of n."""
    if abs(skewness) < 1e-6:
        return z
    inner = 1 + skewness * (z - skewness / 6)
    return 3 / skewness * (math.copysign(abs(inner) ** (1 / 3), inner) - 1)


def deviation(influence: Tensor) -> float:
    """The standard error of a value: samples have their influence on its error independently, and their mean none."""
    n = len(influence)
    return math.sqrt(float((influence - influence.mean()).square().sum()) * n / max(n - 1, 1))
