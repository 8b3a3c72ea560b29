"""Factors as nested levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rightrank.models.emit.torchscript.deflate import Coded
from rightrank.models.quantise import metric
from rightrank.models.quantise.nested import nested
from rightrank.models.quantise.pair import pair
from tests.models.quantise.drawn import decomposed, lost


@pytest.mark.parametrize("grid", [0.0, 0.3, 3.0])
def test_what_nested_levels_say_that_they_lose_is_true_at_every_rank(grid: float) -> None:
    weight, inputs, outputs, down, up, _ = decomposed()
    found = nested(down, up, inputs, outputs, grid)
    assert found.loss is not None
    for rank in range(1, len(down) + 1):
        assert float(found.loss[rank - 1]) == pytest.approx(
            lost(found.factors(rank), weight, inputs, outputs), rel=1e-6, abs=1e-6
        )


def test_fine_levels_lose_what_the_rank_loses() -> None:
    _, inputs, outputs, down, up, worth = decomposed()
    found = nested(down, up, inputs, outputs, 1e-3)
    tail = worth.sum() - worth.cumsum(0)
    assert found.loss is not None
    assert torch.allclose(found.loss[:10], tail[:10], rtol=0.02)


def test_coarse_levels_are_fewer_and_weak_bases_vanish() -> None:
    weight, inputs, outputs, down, up, worth = decomposed()
    grid = float(worth[10].sqrt()) / 2
    found = nested(down, up, inputs, outputs, grid)
    assert found.loss is not None
    strong, weak = (int(found.down[k].abs().max()) + int(found.up[k].abs().max()) for k in (0, -1))
    assert weak <= 2 < strong
    # More bases never do much harm, though what is rounded is far off.
    assert float(found.loss[-1]) <= 1.05 * float(found.loss.min())
    assert float(found.loss[-1]) < metric.loss(weight, inputs, outputs)


def test_prefixes_are_the_same_however_many_bases_are_made() -> None:
    _, inputs, outputs, down, up, _ = decomposed()
    whole, some = (nested(down, up, inputs, outputs, 0.5, most=most) for most in (None, 9))
    for name in ("down", "up", "of_bases"):
        assert torch.equal(getattr(whole, name)[:9], getattr(some, name))
    assert whole.loss is not None
    assert some.loss is not None
    assert torch.allclose(whole.loss[:9], some.loss)
    assert torch.equal(whole.of_outputs, some.of_outputs)


def test_numbers_of_one_output_share_a_scale() -> None:
    _, inputs, outputs, down, up, _ = decomposed(outputs=21)
    found = nested(down, up, inputs, outputs, 0.5, sharing=3)
    assert found.of_outputs.reshape(-1, 3).unique(dim=1).shape[1] == 1
    assert found.of_outputs.max() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scales_are_what_their_type_holds(dtype: torch.dtype) -> None:
    weight, inputs, outputs, down, up, _ = decomposed()
    for found in (
        nested(down, up, inputs, outputs, 0.5, dtype=dtype),
        pair(weight, down, up, inputs, outputs, 0.5, dtype=dtype),
    ):
        for scales in (found.of_bases, found.of_outputs):
            assert torch.equal(scales.to(dtype).double(), scales)
            assert (scales > 0).all()


def test_a_basis_of_zeros_stays_one() -> None:
    weight, inputs, outputs, down, up, _ = decomposed()
    down[4] = up[4] = 0
    found = nested(down, up, inputs, outputs, 0.5)
    assert not found.down[4].any()
    assert not found.up[4].any()
    assert found.loss is not None
    assert found.loss.isfinite().all()
    assert pair(weight, down, up, inputs, outputs, 0.5).factors()[1].isfinite().all()


def test_at_the_same_bits_strong_bases_have_more_of_them() -> None:
    _, inputs, outputs, down, up, worth = decomposed(outputs=40, inputs=300)
    found = nested(down, up, inputs, outputs, float(worth[20].sqrt()) / 20)
    levels = found.down.numpy()
    taken = np.diff(Coded.of(levels.view(np.uint8)).ends)
    assert taken[:5].mean() > taken[-5:].mean() + 50
    assert np.isfinite(taken).all()


def test_a_vector_is_a_metric_too() -> None:
    weight, inputs, outputs, down, up, _ = decomposed()
    found = nested(down, up, inputs, outputs.diagonal(), 0.3)
    assert found.loss is not None
    assert float(found.loss[-1]) == pytest.approx(lost(found.factors(), weight, inputs, outputs.diagonal()))
