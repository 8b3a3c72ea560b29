"""Factors of one rank as levels."""

from __future__ import annotations

import pytest
import torch

from rightrank.models.factor.metric import spatial_matrix, spatial_product
from rightrank.models.quantise import metric
from rightrank.models.quantise.nested import nested
from rightrank.models.quantise.pair import by_columns, pair
from tests.models.quantise.drawn import covariance, decomposed, drawn, lost


@pytest.mark.parametrize("rank", [1, 6, 20])
@pytest.mark.parametrize("grid", [0.0, 0.5, 2.0])
def test_a_pair_loses_no_more_than_nested_levels(rank: int, grid: float) -> None:
    weight, inputs, outputs, down, up, _ = decomposed()
    free = pair(weight, down[:rank], up[:rank], inputs, outputs, grid)
    bound = nested(down, up, inputs, outputs, grid)
    nothing = 1e-4 * metric.loss(weight, inputs, outputs)
    found, most = (lost(each, weight, inputs, outputs) for each in (free.factors(), bound.factors(rank)))
    assert found <= 1.1 * most + nothing


def test_a_pair_solves_the_second_factor_for_the_rounded_first() -> None:
    """Given another second factor than the weight's, the outcome is as near to the weight."""
    weight, inputs, outputs, down, up, _ = decomposed()
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
