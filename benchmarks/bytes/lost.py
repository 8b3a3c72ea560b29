"""How many points of accuracy a file loses against the original on the same samples, with an interval of 95 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rightrank.models.measure.interval import Z


@dataclass(frozen=True)
class Lost:
    """In points, 100 for everything; negative where a file is right more often than the original."""

    points: float
    low: float
    high: float


def lost(mine: Tensor, original: Tensor, targets: Tensor) -> Lost:
    """Of answers (n,) against the original's (n,).

    Only samples that one of them has right, and the other not, tell of a difference, so it is far better known than
    either accuracy. The interval is Agresti and Min's (Statistics in Medicine 24, 2005): half a sample more in each of
    the four cells, which holds where nothing differs at all.
    """
    worse = int(((original == targets) & (mine != targets)).sum())
    better = int(((original != targets) & (mine == targets)).sum())
    count = len(targets) + 2
    centre = (worse - better) / count
    half = Z * math.sqrt((worse + better + 1) / count - centre**2) / math.sqrt(count)
    return Lost(100 * (worse - better) / len(targets), 100 * (centre - half), 100 * (centre + half))


def mean(several: Sequence[Lost]) -> Lost:
    """Of independent networks."""
    count = len(several)
    points = sum(each.points for each in several) / count
    below = math.sqrt(sum((each.points - each.low) ** 2 for each in several)) / count
    above = math.sqrt(sum((each.high - each.points) ** 2 for each in several)) / count
    return Lost(points, points - below, points + above)
