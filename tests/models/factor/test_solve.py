from __future__ import annotations

import pytest
import torch

from rightrank.models.factor.solve import solve


def test_it_is_the_damped_inverse() -> None:
    rows, right = torch.randn(9, 5).double(), torch.randn(5, 2).double()
    expected = torch.linalg.inv(rows.T @ rows + 0.3 * torch.eye(5)) @ right
    assert torch.allclose(solve(rows.T @ rows, right, 0.3), expected)


@pytest.mark.parametrize("ridge", [0.0, -1.0, 1e-12, torch.nan])
def test_a_singular_or_indefinite_one_is_damped_until_it_can_be_solved(ridge: float) -> None:
    for normal in (torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 0.0, -1e-3])), -1e-18 * torch.eye(3)):
        assert solve(normal.double(), torch.ones(3, 1).double(), ridge).isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_comes_to_an_end(bad: float) -> None:
    assert not solve(torch.full((3, 3), bad).double(), torch.ones(3, 1).double(), 0.1).isfinite().any()
