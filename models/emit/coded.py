"""Levels, packed and coded, as a store and a file have them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.packing import PACKINGS, packings
from rightrank.models.emit.torchscript.deflate import Coded, sized
from rightrank.models.master.levels import Levels

# Of no more levels all packings are tried.
FEW = 1 << 16


def coded(
    several: Mapping[str, tuple[NDArray[np.int8], NDArray[Any]]], packing: int | None = None, share: float = 1.0
) -> dict[str, Levels]:
    """Levels (R, m) with their scales, by side, coded in that packing, the same for all, in which a `share` of their
    rows takes least, or in the one that is given."""
    if packing is None:
        possible = set.intersection(*(set(packings(levels)) for levels, _ in several.values()))
        # More together never takes more than a few bytes, which of few levels are many.
        if sum(levels.size for levels, _ in several.values()) > FEW:
            possible = {max(possible)}
        made = [coded(several, each) for each in sorted(possible, reverse=True)]
        return min(made, key=lambda each: _bytes(each, share))
    return {side: _coded(levels, scale, packing) for side, (levels, scale) in several.items()}


def _bytes(several: Mapping[str, Levels], share: float) -> int:
    """What so much of the rows of each takes."""
    return sum(block_bytes([each], max(1, round(share * (len(each.ends) - 1)))) for each in several.values())


def _coded(levels: NDArray[np.int8], scale: NDArray[Any], packing: int) -> Levels:
    rows = PACKINGS[packing].pack(levels)
    made = Coded.of(rows)
    crcs = [0]
    for row in rows:
        crcs.append(zlib.crc32(row.tobytes(), crcs[-1]))
    end = np.array([made.end.value, made.end.count, packing], dtype=np.int64)
    return Levels(made.stream, made.ends, np.array(crcs, dtype=np.int64), end, scale.astype(np.float32))


def block_bytes(several: Sequence[Levels], rows: int) -> int:
    """The bytes that so many rows of each take in a file."""
    return sum(int(sized(int(each.ends[rows]), int(each.end[1]))) for each in several)
