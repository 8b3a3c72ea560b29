from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.emit import coded as module
from rightrank.models.emit.coded import block_bytes, coded
from rightrank.models.emit.encoding.packing import packings


def test_of_few_levels_that_packing_is_taken_in_which_they_take_least() -> None:
    levels = np.random.default_rng(0).integers(-3, 4, (64, 32)).astype(np.int8)
    scales = np.ones(64)
    for share in (0.05, 1.0):
        rows = round(share * 64)
        sizes = {each: block_bytes([coded({"": (levels, scales)}, each)[""]], rows) for each in packings(levels)}
        found = coded({"": (levels, scales)}, share=share)[""]
        assert block_bytes([found], rows) == min(sizes.values())
    assert len(sizes) > 1


def test_all_sides_are_packed_alike_and_none_beyond_its_levels() -> None:
    few, many = np.ones((4, 6), dtype=np.int8), np.full((4, 6), 100, dtype=np.int8)
    found = coded({"down": (few, np.ones(4)), "up": (many, np.ones(4))})
    assert {int(each.end[2]) for each in found.values()} == {0}


def test_of_many_levels_as_many_as_can_be_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.random.default_rng(0).integers(-1, 2, (2, 8)).astype(np.int8)
    monkeypatch.setattr(module, "FEW", 15)
    assert int(coded({"": (levels, np.ones(2))})[""].end[2]) == max(packings(levels))
