"""How a file's bytes are divided over layers that have options: each a number of bytes, and what it loses.

An option may be the whole layer at some grid of levels, or a rank at one. Of a layer only those on the lower convex
hull are worth their bytes; between two of them lies what a byte buys. The path takes from all layers whatever buys most
next, so that plans for more bytes never have less of anything, and each of its plans is the best there is at its bytes.

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


@dataclass(frozen=True)
class Mix:
    """`start` (n,): the option that each layer begins with, its smallest; then at each step layer `owners[s]` goes on
    to option `taken[s]`. `bytes` and `loss` (s + 1,) are all layers' together, at the start and after each step."""

    start: NDArray[np.int64]
    owners: NDArray[np.int64]
    taken: NDArray[np.int64]
    bytes: NDArray[np.float64]
    loss: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.bytes)

    def chosen(self, count: int) -> NDArray[np.int64]:
        """The option of every layer (n,) after so many steps."""
        found = self.start.copy()
        # Of several values for one place the last stays.
        found[self.owners[:count]] = self.taken[:count]
        return found

    def largest(self, limit: float) -> int | None:
        """After how many steps the file is the largest within so many bytes; None where even the start is not."""
        count = int(np.searchsorted(self.bytes, limit, side="right")) - 1
        return None if count < 0 else count


def allocate(layers: Sequence[Options]) -> Mix:
    """The one path along which all mixes of the layers' options lie."""
    start = np.array([each.hull[0] for each in layers], dtype=np.int64)
    several = [each.gains for each in layers]
    gains = np.concatenate([np.zeros(0), *several])
    order = np.argsort(-gains, kind="stable")
    owners = np.repeat(np.arange(len(layers)), [len(each) for each in several])[order]
    taken = np.concatenate([np.zeros(0, dtype=np.int64), *(each.hull[1:] for each in layers)])[order]
    spent = np.concatenate([np.zeros(0), *(np.diff(each.bytes[each.hull]) for each in layers)])[order]
    lost = np.concatenate([np.zeros(0), *(np.diff(each.loss[each.hull]) for each in layers)])[order]
    first = (
        sum(float(each.bytes[each.hull[0]]) for each in layers),
        sum(float(each.loss[each.hull[0]]) for each in layers),
    )
    totals = (np.cumsum(np.concatenate([[begin], more])) for begin, more in zip(first, (spent, lost), strict=True))
    return Mix(start, owners.astype(np.int64), taken, *totals)
