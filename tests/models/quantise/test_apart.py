"""Factors of groups as levels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rightrank.models.quantise.apart import apart
from tests.models.quantise.drawn import drawn

GROUPS, OUTPUTS, INPUTS = 3, 6, 20


def decomposed() -> tuple[Tensor, Tensor, Tensor]:
    """Weights (g, o, i), and by basis the factors of all groups side by side."""
    weights = torch.stack([drawn(OUTPUTS, INPUTS, seed=group) for group in range(GROUPS)])
    u, s, v = torch.linalg.svd(weights, full_matrices=False)
    down, up = (each.movedim(0, 1).flatten(1) for each in (s.sqrt().unsqueeze(2) * v, s.sqrt().unsqueeze(2) * u.mT))
    return weights, down, up


def product(down: Tensor, up: Tensor) -> Tensor:
    first, second = (each.reshape(len(each), GROUPS, -1).movedim(1, 0) for each in (down, up))
    return second.mT @ first


@pytest.mark.parametrize("grid", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_they_lose_about_what_they_say(grid: float, rank: int) -> None:
    weights, down, up = decomposed()
    ones = torch.ones(GROUPS * INPUTS, dtype=torch.float64), torch.ones(GROUPS * OUTPUTS, dtype=torch.float64)
    found = apart(down, up, *ones, grid, groups=GROUPS)
    assert found.loss is not None
    true = float((weights - product(*found.factors(rank))).square().sum())
    assert true == pytest.approx(float(found.loss[rank - 1]), rel=0.15, abs=1e-3)


def test_a_prefix_is_what_fewer_bases_give() -> None:
    _, down, up = decomposed()
    ones = torch.ones(GROUPS * INPUTS, dtype=torch.float64), torch.ones(GROUPS * OUTPUTS, dtype=torch.float64)
    whole, some = (apart(down, up, *ones, 0.3, groups=GROUPS, most=most) for most in (None, 2))
    for name in ("down", "up", "of_bases", "loss"):
        assert torch.equal(getattr(whole, name)[:2], getattr(some, name))


def test_what_costs_more_is_finer() -> None:
    weights, down, up = decomposed()
    inputs = torch.ones(GROUPS * INPUTS, dtype=torch.float64)
    price = torch.linspace(0.1, 10, GROUPS * OUTPUTS, dtype=torch.float64)
    found = apart(down, up, inputs, price, 0.5, groups=GROUPS)
    error = (weights - product(*found.factors())).square().sum(2).flatten()
    assert error[-6:].mean() < error[:6].mean()
    assert found.of_outputs[0] > 5 * found.of_outputs[-1]
