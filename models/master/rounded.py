"""A master's weights and factors as levels of eight bits (see `emit.encoding.nested`), in a file beside it.

Of each entry that the master has of a weight of float32, or of a factor of it, there are the levels, those of a factor
basis after basis; what a level stands for, for each slice along the entry's first axis; and the CRC-32 of the levels up
to each basis, of a whole weight up to its end.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rightrank.models.master.tensorfile import TensorFile

ROUNDED = "int8.safetensors"
PARTS = ("levels", "scale", "crcs")


class Rounded(NamedTuple):
    """`levels` (R, …), int8, with the axis of bases first; of a whole weight as it is, after an axis of one. `scale`,
    float32, and `crcs` (R + 1,)."""

    levels: NDArray[np.int8]
    scale: NDArray[np.float32]
    crcs: NDArray[np.int64]

    @staticmethod
    def of(file: TensorFile, source: str) -> Rounded:
        levels, scale, crcs = (
            file.array(f"{part}/{source}", width) for part, width in zip(PARTS, (1, 4, 8), strict=True)
        )
        return Rounded(levels.view(np.int8), scale.view(np.float32), crcs.view(np.int64))

    @staticmethod
    def made(levels: NDArray[np.int8], scale: NDArray[np.float32], axis: int | None) -> Rounded:
        """Levels whose bases lie along an axis; None of a whole weight."""
        rows = np.ascontiguousarray(levels[None] if axis is None else np.moveaxis(levels, axis, 0))
        crcs = [0]
        for row in rows:
            crcs.append(zlib.crc32(row, crcs[-1]))
        return Rounded(rows, scale.reshape(-1), np.array(crcs, dtype=np.int64))

    def entries(self, source: str) -> dict[str, NDArray[Any]]:
        """As they are stored."""
        arrays: tuple[NDArray[Any], ...] = tuple(self)
        return {f"{part}/{source}": array for part, array in zip(PARTS, arrays, strict=True)}


def there(file: TensorFile, source: str) -> bool:
    """Whether a file has an entry's levels."""
    return f"{PARTS[0]}/{source}" in file
