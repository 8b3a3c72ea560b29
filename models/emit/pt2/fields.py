"""Texts of which some numbers depend on a layer's rank, and which are as long at every rank.

Such a number is filled up with blanks, which JSON allows before it, and arithmetic within a string too. So the size of
a file is known without its text.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# A number, or one for each rank from 1 on.
Number: TypeAlias = "int | NDArray[np.int64]"

_MARK = re.compile("\1([0-9]+)\1")


class Fields:
    """The numbers of one layer's texts. Within a text each stands as a mark."""

    def __init__(self) -> None:
        self._numbers: list[tuple[NDArray[np.int64], int]] = []

    def mark(self, number: Number) -> str:
        """What stands for a number within a text."""
        if isinstance(number, int):
            return str(number)
        self._numbers.append((number, len(str(number.max()))))
        return f"\1{len(self._numbers) - 1}\1"

    def fill(self, text: str, rank: int) -> str:
        """The text at a rank."""
        return _MARK.sub(lambda found: self._at(int(found[1]), rank), text)

    def _at(self, place: int, rank: int) -> str:
        numbers, width = self._numbers[place]
        return f"{numbers[rank - 1]:>{width}}"
