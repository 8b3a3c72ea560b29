"""The CRC-32 of bytes that follow each other, from those of its pieces: a cut need not look at what it copies.

Polynomials over GF(2) modulo that of ZIP, the coefficient of the highest power in the lowest bit. The remainder of a
whole is the sum of each piece's, shifted by as many bytes as follow it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL, ONE, BYTE = 0xEDB88320, 1 << 31, 1 << 23
# The number of bytes that follow has at most so many bits.
WIDTH = 34


def combined(crcs: Sequence[int], sizes: Sequence[int]) -> int:
    """That of pieces with these CRCs, of so many bytes each."""
    if not len(crcs):
        return 0
    after = np.cumsum(np.asarray(sizes, dtype=np.uint64)[::-1])[::-1] - np.asarray(sizes, dtype=np.uint64)
    shifted = _times(np.asarray(crcs, dtype=np.uint64), _powers(after))
    return int(np.bitwise_xor.reduce(shifted))


def _times(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Products, number by number."""
    one = one.copy()
    found = np.zeros_like(one)
    for place in range(31, -1, -1):
        found ^= np.where(other >> np.uint64(place) & np.uint64(1), one, np.uint64(0))
        one = one >> np.uint64(1) ^ np.where(one & np.uint64(1), np.uint64(POLYNOMIAL), np.uint64(0))
    return found


def _powers(counts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """x to the power of 8 times each count."""
    found = np.full_like(counts, ONE)
    for place, power in enumerate(_SQUARES):
        bits = counts >> np.uint64(place)
        if not bits.any():
            break
        chosen = np.where(bits & np.uint64(1), power, np.uint64(ONE))
        found = _times(found, chosen)
    return found


def _squares() -> NDArray[np.uint64]:
    found = [np.array([BYTE], dtype=np.uint64)]
    while len(found) < WIDTH:
        found.append(_times(found[-1], found[-1]))
    return np.concatenate(found)


_SQUARES = _squares()
