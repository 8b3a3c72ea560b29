"""The CRC-32 of bytes that follow each other, from those of its pieces: a cut need not look at what it copies.

Polynomials over GF(2) modulo that of ZIP, the coefficient of the highest power in the lowest bit. The remainder of a
whole is that of what came before, shifted by as many bytes as follow it, and that of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

POLYNOMIAL, ONE, BYTE = 0xEDB88320, 1 << 31, 1 << 23


def combined(crcs: Sequence[int], sizes: Sequence[int]) -> int:
    """That of pieces with these CRCs, of so many bytes each."""
    found = 0
    for crc, size in zip(crcs, sizes, strict=True):
        found = _times(found, _power(size)) ^ crc
    return found


def _times(one: int, other: int) -> int:
    """A product."""
    found = 0
    for place in range(31, -1, -1):
        if other >> place & 1:
            found ^= one
        one = one >> 1 ^ (POLYNOMIAL if one & 1 else 0)
    return found


# A file's pieces have the sizes of its layers' ranks, which come again.
@lru_cache(1 << 16)
def _power(count: int) -> int:
    """x to the power of 8 times a count."""
    found, place = ONE, 0
    while count >> place:
        if count >> place & 1:
            found = _times(found, _square(place))
        place += 1
    return found


@lru_cache(64)
def _square(place: int) -> int:
    """x to the power of 8 times two to the power of `place`."""
    return BYTE if not place else _times(_square(place - 1), _square(place - 1))
