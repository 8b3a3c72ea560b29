"""How many bits levels take: several packed in a byte where they are few, and a Huffman code over the bytes.

A Huffman code spends a bit at least on each symbol. Levels of ±L are therefore packed, `k` in a symbol of (2L+1)^k,
where that fits a byte: of levels that are mostly zero five take little more than their entropy.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 5
SYMBOLS = 256
# What a symbol's code length takes in a table, and the table's start, in bits: about what deflate needs.
OF_SYMBOL, OF_TABLE = 4, 200


@dataclass(frozen=True)
class Packing:
    """`together` levels in one symbol, each one of `base` values from −(base−1)/2 on, the first the least digit."""

    together: int
    base: int

    def pack(self, levels: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Rows (R, c) of levels as rows of symbols (R, ⌈c/together⌉); what is missing in the last is zeros."""
        largest = self.base // 2
        digits = np.pad(levels.astype(np.int64), ((0, 0), (0, -levels.shape[1] % self.together))) + largest
        weights = self.base ** np.arange(self.together)
        return (digits.reshape(len(levels), -1, self.together) @ weights).astype(np.uint8)

    def unpack(self, symbols: NDArray[np.uint8], columns: int) -> NDArray[np.int8]:
        """The inverse of `pack`, for rows of so many levels."""
        digits = symbols[..., None].astype(np.int64) // self.base ** np.arange(self.together) % self.base
        return (digits.reshape(len(symbols), -1)[:, :columns] - self.base // 2).astype(np.int8)


def packing(levels: NDArray[np.int8]) -> Packing:
    """The packing in which rows of levels take fewest bits, their table's counted; fewer together where alike."""
    base = 2 * int(np.abs(levels.astype(np.int16)).max(initial=0)) + 1
    base = max(base, 3)
    several = [Packing(k, base) for k in range(1, MOST + 1) if base**k <= SYMBOLS]
    return min(several, key=lambda each: float(bits(levels, each).sum()))


def bits(levels: NDArray[np.int8], packed: Packing) -> NDArray[np.float64]:
    """The bits (R,) that each row of levels (R, c) takes by the best Huffman code over all rows; of the code's table
    each row has its share."""
    if not levels.size:
        return np.zeros(len(levels))
    symbols = packed.pack(levels)
    lengths = huffman(np.bincount(symbols.ravel(), minlength=SYMBOLS))
    table = OF_TABLE + OF_SYMBOL * int((lengths > 0).sum())
    taken: NDArray[np.float64] = lengths[symbols].sum(1).astype(np.float64)
    return taken + table / len(levels)


def huffman(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The code lengths of symbols that occur so often; 0 for those that do not, 1 for one that is alone."""
    lengths = np.zeros(len(counts), dtype=np.int64)
    heap: list[tuple[int, int, tuple[int, ...]]]
    heap = [(int(count), symbol, (symbol,)) for symbol, count in enumerate(counts.tolist()) if count]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (one, first, few), (two, _, more) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[[*few, *more]] += 1
        heapq.heappush(heap, (one + two, first, (*few, *more)))
    return lengths
