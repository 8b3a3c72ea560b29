from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.quantise.activations import Grid, best, even, grid


@pytest.mark.parametrize("low,high", [(0.0, 6.0), (0.5, 3.0), (-1.0, 2.0), (-4.0, -1.0), (-1e-3, 1e3), (0.0, 0.1)])
def test_a_grid_has_zero_and_reaches_from_end_to_end(low: float, high: float) -> None:
    scale, zero = grid(low, high)
    ends = [float(scale) * (level - int(zero)) for level in (0, 255)]
    assert ends[0] <= min(low, 0) + float(scale) and ends[1] >= max(high, 0) - float(scale)
    assert 0 <= zero <= 255 and (low < 0 or zero == 0)


def test_a_grid_from_zero_does_not_exceed_its_end() -> None:
    """Or a clip behind a layer would be more than the grid does."""
    for high in np.random.default_rng(0).uniform(0.1, 10, 1000).astype(np.float32):
        assert np.float32(255) * grid(0.0, float(high)).scale <= high


def test_values_that_are_all_zero_or_none_have_a_grid() -> None:
    assert grid(0.0, 0.0) == Grid(np.float32(1), np.uint8(0)) and even(0.0) == Grid(np.float32(1), np.uint8(128))
    assert grid(0.0, 1e-44).scale > 0 and even(1e-44).scale > 0 and even(2.54).scale == np.float32(0.02)


def test_few_values_far_out_are_cut_off_and_many_are_not() -> None:
    counts = np.zeros(2048)
    counts[:200] = 1e6
    counts[-1] = 1
    assert best(counts, 0.0, 10.0) < 0.5
    assert best(np.ones(2048), -1.0, 1.0) > 0.97
