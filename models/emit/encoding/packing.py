"""Several small levels in one byte.

A prefix code takes a bit for a symbol at the least. Levels of which most are zero take less where several are one
symbol: `together` of them, each between -most and most, as the digits of a byte to the base 2·most + 1, the first the
lowest. A row is filled up with zeros, so that each row is by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Packing(NamedTuple):
    together: int
    most: int

    @property
    def base(self) -> int:
        return 2 * self.most + 1

    def width(self, numbers: int) -> int:
        """How many bytes a row of so many levels takes."""
        return -(-numbers // self.together)

    def pack(self, levels: NDArray[np.int8]) -> NDArray[np.uint8]:
        """Levels (R, m) as bytes (R, ⌈m/count⌉)."""
        rows, numbers = levels.shape
        digits = np.full((rows, self.width(numbers) * self.together), self.most, dtype=np.uint8)
        # Of bytes all sums are modulo 256, and none of these reaches that.
        digits[:, :numbers] += levels.view(np.uint8)
        packed = np.zeros((rows, self.width(numbers)), dtype=np.uint8)
        for place in reversed(range(self.together)):
            packed = packed * np.uint8(self.base) + digits[:, place :: self.together]
        return packed

    def unpack(self, packed: NDArray[np.uint8], numbers: int) -> NDArray[np.int8]:
        """The inverse of `pack`, of rows of so many levels."""
        digits = np.arange(256)[:, None] // self.base ** np.arange(self.together) % self.base
        of_byte = (digits - self.most).astype(np.int8)
        return of_byte[packed].reshape(len(packed), -1)[:, :numbers]


# By number, which files and stores name: never another.
PACKINGS = (Packing(1, 127), Packing(2, 7), Packing(3, 2), Packing(5, 1))
# A level a byte: how all lie that are never cut, since what the code says of these is the same in every file.
SINGLE = 0


def packings(levels: NDArray[np.int8]) -> list[int]:
    """Those that can hold such levels."""
    most = int(np.abs(levels.astype(np.int16)).max(initial=0))
    return [number for number, packing in enumerate(PACKINGS) if packing.most >= most]
