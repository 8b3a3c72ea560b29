"""Which grids a network's numbers are kept at."""

from __future__ import annotations

import math

import pytest
import torch

from rightrank.models.quantise.ladder import FINEST, STEP, ladder
from tests.models.quantise.drawn import drawn


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_the_finest_grid_takes_its_bits_and_each_other_one_a_bit_less(scale: float) -> None:
    numbers = [scale * drawn(100, 200), scale * drawn(40, 100, seed=1)]
    grids = ladder(numbers)
    assert [b / a for a, b in zip(grids, grids[1:], strict=False)] == pytest.approx([STEP] * 5)
    flat = torch.cat([each.flatten() for each in numbers])
    for power, grid in enumerate(grids[:4]):
        shares = (flat / grid).round().unique(return_counts=True)[1].double() / flat.numel()
        assert float(-(shares * shares.log2()).sum()) == pytest.approx(FINEST - power, abs=0.05)


@pytest.mark.parametrize("numbers", [[], [torch.zeros(3, 4)], [torch.full((2, 2), torch.nan)]], ids=str)
def test_of_nothing_there_are_grids_too(numbers: list[torch.Tensor]) -> None:
    grids = ladder(numbers)
    assert len(grids) == 6
    assert all(math.isfinite(each) and each > 0 for each in grids)
