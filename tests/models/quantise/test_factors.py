"""Factors as levels: nested, and of one rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rightrank.models.emit.torchscript.deflate import Coded
from rightrank.models.factor.metric import spatial_matrix, spatial_product
from rightrank.models.quantise import metric
from rightrank.models.quantise.nested import nested
from rightrank.models.quantise.pair import by_columns, pair

from .test_feedback import covariance, drawn


def layer(outputs: int = 20, inputs: int = 60) -> tuple[Tensor, ...]:
    """A weight of falling worth, the metric around it, and its factors, the strongest basis first (see
    `factor.metric`)."""
    weight, before, after = drawn(outputs, inputs), covariance(inputs), covariance(outputs, seed=7)
    values, vectors = torch.linalg.eigh(after)
    root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
    worth, basis = torch.linalg.eigh(root @ weight @ before @ weight.T @ root)
    basis = basis.flip(1)
    return weight, before, after, basis.T @ root @ weight, basis.T @ inverse, worth.flip(0)


def lost(found: tuple[Tensor, Tensor], weight: Tensor, inputs: Tensor, outputs: Tensor) -> float:
    down, up = found
    return metric.loss(weight - up.T @ down, inputs, outputs)


@pytest.mark.parametrize("grid", [0.0, 0.3, 3.0])
def test_what_nested_levels_say_that_they_lose_is_true_at_every_rank(grid: float) -> None:
    weight, inputs, outputs, down, up, _ = layer()
    found = nested(down, up, inputs, outputs, grid)
    assert found.loss is not None
    for rank in range(1, len(down) + 1):
        assert float(found.loss[rank - 1]) == pytest.approx(
            lost(found.factors(rank), weight, inputs, outputs), rel=1e-6, abs=1e-6
        )


def test_fine_levels_lose_what_the_rank_loses() -> None:
    _, inputs, outputs, down, up, worth = layer()
    found = nested(down, up, inputs, outputs, 1e-3)
    tail = worth.sum() - worth.cumsum(0)
    assert found.loss is not None
    assert torch.allclose(found.loss[:10], tail[:10], rtol=0.02)


def test_coarse_levels_are_fewer_and_weak_bases_vanish() -> None:
    weight, inputs, outputs, down, up, worth = layer()
    grid = float(worth[10].sqrt()) / 2
    found = nested(down, up, inputs, outputs, grid)
    assert found.loss is not None
    strong, weak = (int(found.down[k].abs().max()) + int(found.up[k].abs().max()) for k in (0, -1))
    assert weak <= 2 < strong
    # More bases never do much harm, though what is rounded is far off.
    assert float(found.loss[-1]) <= 1.05 * float(found.loss.min())
    assert float(found.loss[-1]) < metric.loss(weight, inputs, outputs)


def test_prefixes_are_the_same_however_many_bases_are_made() -> None:
    _, inputs, outputs, down, up, _ = layer()
    whole, some = (nested(down, up, inputs, outputs, 0.5, most=most) for most in (None, 9))
    for name in ("down", "up", "of_bases"):
        assert torch.equal(getattr(whole, name)[:9], getattr(some, name))
    assert whole.loss is not None
    assert some.loss is not None
    assert torch.allclose(whole.loss[:9], some.loss)
    assert torch.equal(whole.of_outputs, some.of_outputs)


def test_numbers_of_one_output_share_a_scale() -> None:
    _, inputs, outputs, down, up, _ = layer(outputs=21)
    found = nested(down, up, inputs, outputs, 0.5, sharing=3)
    assert found.of_outputs.reshape(-1, 3).unique(dim=1).shape[1] == 1
    assert found.of_outputs.max() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scales_are_what_their_type_holds(dtype: torch.dtype) -> None:
    weight, inputs, outputs, down, up, _ = layer()
    for found in (
        nested(down, up, inputs, outputs, 0.5, dtype=dtype),
        pair(weight, down, up, inputs, outputs, 0.5, dtype=dtype),
    ):
        for scales in (found.of_bases, found.of_outputs):
            assert torch.equal(scales.to(dtype).double(), scales)
            assert (scales > 0).all()


def test_a_basis_of_zeros_stays_one() -> None:
    weight, inputs, outputs, down, up, _ = layer()
    down[4] = up[4] = 0
    found = nested(down, up, inputs, outputs, 0.5)
    assert not found.down[4].any()
    assert not found.up[4].any()
    assert found.loss is not None
    assert found.loss.isfinite().all()
    assert pair(weight, down, up, inputs, outputs, 0.5).factors()[1].isfinite().all()


@pytest.mark.parametrize("rank", [1, 6, 20])
@pytest.mark.parametrize("grid", [0.0, 0.5, 2.0])
def test_a_pair_loses_no_more_than_nested_levels(rank: int, grid: float) -> None:
    weight, inputs, outputs, down, up, _ = layer()
    free = pair(weight, down[:rank], up[:rank], inputs, outputs, grid)
    bound = nested(down, up, inputs, outputs, grid)
    nothing = 1e-4 * metric.loss(weight, inputs, outputs)
    found, most = (lost(each, weight, inputs, outputs) for each in (free.factors(), bound.factors(rank)))
    assert found <= 1.1 * most + nothing


def test_a_pair_solves_the_second_factor_for_the_rounded_first() -> None:
    """Given another second factor than the weight's, the outcome is as near to the weight."""
    weight, inputs, outputs, down, up, _ = layer()
    right, wrong = (pair(weight, down[:8], each, inputs, outputs, 0.3) for each in (up[:8], -up[:8]))
    assert torch.equal(right.up, wrong.up)
    assert lost(right.factors(), weight, inputs, outputs) < metric.loss(weight, inputs, outputs)


def test_factors_of_a_kernel_with_columns() -> None:
    shape = (6, 4, 3, 3)
    weight, outputs = drawn(*shape), covariance(6, seed=9)
    inputs = torch.kron(covariance(12), covariance(3, seed=5))
    u, s, v = torch.linalg.svd(spatial_matrix(weight), full_matrices=False)
    down, up = u.T[:10], (s[:, None] * v)[:10]
    made = pair(weight.flatten(1), down, up, inputs, outputs, 0.02, width=3)
    assert made.of_outputs.reshape(6, 3).unique(dim=1).shape[1] == 1
    product = spatial_product(*made.factors(), shape).flatten(1)
    first = spatial_product(down, up, shape).flatten(1)
    error = metric.loss(weight.flatten(1) - product, inputs, outputs)
    assert error < 0.8 * metric.loss(weight.flatten(1) - first, inputs, outputs)
    met, passing = by_columns(inputs, outputs, 3)
    found = nested(u.T, s[:, None] * v, met, passing, 0.02, sharing=3)
    assert found.loss is not None
    whole = spatial_product(*found.factors(), shape).flatten(1)
    assert metric.loss(weight.flatten(1) - whole, inputs, outputs) < 0.1 * metric.loss(
        weight.flatten(1), inputs, outputs
    )


def test_at_the_same_bits_strong_bases_have_more_of_them() -> None:
    _, inputs, outputs, down, up, worth = layer(outputs=40, inputs=300)
    found = nested(down, up, inputs, outputs, float(worth[20].sqrt()) / 20)
    levels = found.down.numpy()
    taken = np.diff(Coded.of(levels.view(np.uint8)).ends)
    assert taken[:5].mean() > taken[-5:].mean() + 50
    assert np.isfinite(taken).all()


def test_a_vector_is_a_metric_too() -> None:
    weight, inputs, outputs, down, up, _ = layer()
    found = nested(down, up, inputs, outputs.diagonal(), 0.3)
    assert found.loss is not None
    assert float(found.loss[-1]) == pytest.approx(lost(found.factors(), weight, inputs, outputs.diagonal()))
