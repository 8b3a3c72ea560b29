"""What a layer may be, each a number of bytes and what it loses: those that are worth their bytes, and what they buy.

An option may be the whole layer at some grid of levels, or a rank at one. Of a layer only those on the lower convex
hull are worth their bytes; between two of them lies what a byte buys.

Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Options:
    """What one layer can be: `bytes` (k,) and the `loss` (k,) of each, in one unit for all layers."""

    bytes: NDArray[np.float64]
    loss: NDArray[np.float64]

    @cached_property
    def hull(self) -> NDArray[np.int64]:
        """Which are on the lower convex hull: more bytes, less loss, and less gained for each byte than before. The
        first has the fewest bytes, the last the least loss; of equals the first option counts."""
        order = np.lexsort((np.arange(len(self.bytes)), self.loss, self.bytes))
        kept: list[int] = []
        for index in order.tolist():
            if kept and not self.loss[index] < self.loss[kept[-1]]:
                continue
            while kept and (self.bytes[index] == self.bytes[kept[-1]] or self._bends(kept, index)):
                kept.pop()
            kept.append(index)
        return np.array(kept, dtype=np.int64)

    def _bends(self, kept: Sequence[int], index: int) -> bool:
        """Whether the last of those `kept` is not below the line from the one before it to another."""
        if len(kept) < 2:
            return False
        first, last = kept[-2:]
        return bool(self._gain(first, last) <= self._gain(last, index))

    def _gain(self, less: int, more: int) -> float:
        """What each byte gains from one option to a larger one."""
        return float((self.loss[less] - self.loss[more]) / (self.bytes[more] - self.bytes[less]))

    @cached_property
    def gains(self) -> NDArray[np.float64]:
        """What each byte gains from each of the hull to the next, falling."""
        spent, lost = np.diff(self.bytes[self.hull]), -np.diff(self.loss[self.hull])
        return np.minimum.accumulate(lost / spent) if len(spent) else np.zeros(0)
