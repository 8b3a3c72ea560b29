"""Levels: a master's numbers as small whole numbers, coded once at ingest (see `quantise` and `emit`).

In `LEVELS`, for each entry that the master has of a layer's weight, or of one of its factors, and for each `grid` of
them: the coded bits, where each basis ends in them, the CRC-32 of the levels up to there, the word that ends them, and
for each slice along the tensor's first axis what a level stands for. Levels lie basis after basis; those of a whole
weight are one basis. What a plan has of its own (see `improve`) is under the grid `OWN` of its file of changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rightrank.models.master.tensorfile import TensorFile

OWN = "own"
PARTS = ("stream", "ends", "crcs", "end", "scale")


def name(grid: str, part: str, source: str) -> str:
    """An entry of `LEVELS`."""
    return f"{grid}/{part}/{source}"


class Levels(NamedTuple):
    """Those of one tensor at one grid: `stream` uint8, `ends` (R + 1,) in bits, `crcs` (R + 1,), the word that `end`s
    them with its length, and `scale`, float32, one for each slice along the first axis at full rank."""

    stream: NDArray[np.uint8]
    ends: NDArray[np.int64]
    crcs: NDArray[np.int64]
    end: tuple[int, int]
    scale: NDArray[np.float32]

    @staticmethod
    def of(file: TensorFile, grid: str, source: str) -> Levels:
        found: list[NDArray[Any]] = [
            file.array(name(grid, part, source), width) for part, width in zip(PARTS, (1, 8, 8, 8, 4), strict=True)
        ]
        stream, ends, crcs, end, scale = found
        word = end.view(np.int64).tolist()
        return Levels(stream, ends.view(np.int64), crcs.view(np.int64), (word[0], word[1]), scale.view(np.float32))


def there(file: TensorFile, grid: str, source: str) -> bool:
    """Whether a file has a tensor's levels at a grid."""
    return name(grid, PARTS[0], source) in file
