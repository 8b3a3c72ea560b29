"""The grid of 256 levels on which a network's values are rounded between calls, and where it best ends.

A value is `scale · (level − zero)`, levels from 0 to 255. Zero is always a level, since convolutions pad with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVELS = 255
# Ends that are tried, as shares of the range that was seen.
SHARES = np.linspace(0.2, 1.0, 81)
# Levels up to which magnitudes reach where both signs are alike.
HALF = 127


class Grid(NamedTuple):
    """A float32 `scale` above 0, and the level that is zero."""

    scale: np.float32
    zero: np.uint8


def grid(low: float, high: float) -> Grid:
    """That from `low` to `high`, as far as 0 lies outside that from or to 0. Where it begins at 0 it does not exceed
    `high`, so that to round is to clip."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = np.float32((high - low) / LEVELS)
    if not np.isfinite(scale) or scale < np.finfo(np.float32).tiny:
        return Grid(np.float32(1), np.uint8(0))
    while np.float32(LEVELS) * scale > np.float32(high - low):
        scale = np.nextafter(scale, np.float32(0))
    return Grid(scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, LEVELS)))


def even(most: float) -> Grid:
    """That of magnitudes up to `most`, both signs alike."""
    scale = np.float32(most / HALF)
    if not np.isfinite(scale) or scale < np.finfo(np.float32).tiny:
        scale = np.float32(1)
    return Grid(scale, np.uint8(HALF + 1))


def best(counts: NDArray[np.float64], low: float, high: float) -> float:
    """The share of a range from `low` ≤ 0 to `high` ≥ 0 that is the best grid: that by which rounding errs least in
    square, of values that are counted in bins of equal width over the range."""
    width = (high - low) / len(counts)
    centers = low + width * (np.arange(len(counts)) + 0.5)
    errors = []
    for share in SHARES:
        beyond = np.maximum(centers - share * high, 0) + np.maximum(share * low - centers, 0)
        step = share * (high - low) / LEVELS
        errors.append(float((counts * np.where(beyond > 0, beyond**2, step**2 / 12)).sum()))
    return float(SHARES[int(np.argmin(errors))])
