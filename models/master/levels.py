"""Levels: a master's numbers as small whole numbers, coded once at ingest (see `quantise` and `emit`).

In `LEVELS`, for each entry that the master has of a layer's weight, or of one of its factors, and for each `grid` of
them: the coded bits, where each row ends in them, the CRC-32 of the bytes up to there, how they end (the word, its
length, and how levels are packed into bytes), and for each slice along the tensor's first axis what a level stands for.
A row is a basis, or of a whole weight an output. What a plan has of its own (see `improve`) is under the grid `OWN` of
its file of changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rightrank.models.master.tensorfile import TensorFile

LEVELS, OWN = "levels.safetensors", "own"
# The grid of weights that are never cut.
FIXED = "fixed"
PARTS = ("stream", "ends", "crcs", "end", "scale")


def name(grid: str, part: str, source: str) -> str:
    """An entry of `LEVELS`."""
    return f"{grid}/{part}/{source}"


class Levels(NamedTuple):
    """Those of one tensor at one grid: `stream` uint8, `ends` (R + 1,) in bits, `crcs` (R + 1,), `end` (the word that
    ends them, its length, the number of the packing), and `scale`, float32, one for each slice along the first axis at
    full rank."""

    stream: NDArray[np.uint8]
    ends: NDArray[np.int64]
    crcs: NDArray[np.int64]
    end: NDArray[np.int64]
    scale: NDArray[np.float32]

    @staticmethod
    def of(file: TensorFile, grid: str, source: str) -> Levels:
        types: Mapping[str, type] = dict(zip(PARTS, (np.uint8, np.int64, np.int64, np.int64, np.float32), strict=True))
        arrays: list[NDArray[Any]] = [
            file.array(name(grid, part, source), np.dtype(kind).itemsize).view(kind) for part, kind in types.items()
        ]
        return Levels(*arrays)

    def entries(self, grid: str, source: str) -> dict[str, NDArray[Any]]:
        """As they are stored."""
        arrays: tuple[NDArray[Any], ...] = tuple(self)
        return {name(grid, part, source): array for part, array in zip(PARTS, arrays, strict=True)}


def there(file: TensorFile, grid: str, source: str) -> bool:
    """Whether a file has a tensor's levels at a grid."""
    return name(grid, PARTS[0], source) in file
