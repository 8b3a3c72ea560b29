from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.emit.encoding.packing import PACKINGS, packings


@pytest.mark.parametrize("number", range(len(PACKINGS)))
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 31])
def test_levels_come_back(number: int, width: int) -> None:
    packing = PACKINGS[number]
    levels = np.random.default_rng(width).integers(-packing.most, packing.most + 1, (7, width)).astype(np.int8)
    packed = packing.pack(levels)
    assert packed.shape == (7, packing.width(width)) and packed.dtype == np.uint8
    assert (packing.unpack(packed, width) == levels).all()


def test_only_those_that_hold_the_largest_level_can_be_taken() -> None:
    assert [packings(np.array([[most, -1]], dtype=np.int8)) for most in (1, 2, 7, 8, 127)] == [
        [0, 1, 2, 3],
        [0, 1, 2],
        [0, 1],
        [0],
        [0],
    ]
    assert packings(np.array([[-127]], dtype=np.int8)) == [0] and packings(np.zeros((0, 4), dtype=np.int8))[-1] == 3


def test_what_one_byte_can_be_fits() -> None:
    assert all(packing.base**packing.together <= 256 for packing in PACKINGS)
