"""A master's levels: what each weight and each factor is at each grid, chosen and coded at ingest."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.packing import PACKINGS, packings
from rightrank.models.emit.torchscript.deflate import Coded
from rightrank.models.master.levels import Levels


def coded(several: Mapping[str, tuple[NDArray[np.int8], NDArray[np.floating[Any]]]]) -> dict[str, Levels]:
    """Levels (R, m) with their scales, by side, coded by that packing, the same for all, that takes least."""
    usable = set.intersection(*(set(packings(levels)) for levels, _ in several.values()))
    best: dict[str, Levels] | None = None
    for packing in sorted(usable):
        found = {side: _coded(levels, scale, packing) for side, (levels, scale) in several.items()}
        if best is None or _bits(found) < _bits(best):
            best = found
    assert best is not None
    return best


def _coded(levels: NDArray[np.int8], scale: NDArray[np.floating[Any]], packing: int) -> Levels:
    rows = PACKINGS[packing].pack(levels)
    made = Coded.of(rows)
    crcs = [0]
    for row in rows:
        crcs.append(zlib.crc32(row.tobytes(), crcs[-1]))
    end = np.array([made.end.value, made.end.count, packing], dtype=np.int64)
    return Levels(made.stream, made.ends, np.array(crcs, dtype=np.int64), end, scale.astype(np.float32))


def _bits(several: Mapping[str, Levels]) -> int:
    return sum(int(levels.ends[-1]) for levels in several.values())


def sizes(several: Sequence[Levels], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bytes that the blocks of a layer's levels take at so many rows of each."""
    from rightrank.models.emit.torchscript.deflate import sized

    return np.asarray(sum(sized(each.ends[count], int(each.end[1])) for each in several))
