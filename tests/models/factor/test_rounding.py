from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rightrank.models.factor import rounding
from rightrank.models.factor.metric import svd
from rightrank.models.factor.rounding import settled

HALVES = [torch.bfloat16, torch.float16]


def factors(m: int = 40, n: int = 32, fall: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of a weight, and a covariance of its inputs that falls off with the power `fall`."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64))
    spread = (basis * torch.arange(1, m + 1, dtype=torch.float64) ** -fall) @ basis.T
    root = torch.linalg.cholesky(spread)
    weight = torch.randn(n, m, generator=generator, dtype=torch.float64)
    pair = svd(weight @ root)
    down = torch.linalg.solve_triangular(root.T, pair.down.T, upper=True).T
    return down, pair.up, spread


def missed(down: Tensor, up: Tensor, first: Tensor, second: Tensor, spread: Tensor, rank: int) -> float:
    """What the leading bases of stored factors miss of the product of those given."""
    error = down.T @ up - first[:rank].double().T @ second[:rank].double()
    return float((error * (spread @ error)).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_whole_precision_both_are_as_they_were(dtype: torch.dtype) -> None:
    down, up, spread = factors()
    first, second = settled(down, up, spread, dtype)
    assert torch.equal(first, down.to(dtype)) and torch.equal(second, up.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("known", [True, False])
def test_every_row_is_the_nearest_that_the_type_has_to_what_is_left_of_the_bases_up_to_it(
    dtype: torch.dtype, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a plain walk over what is left, which the blocks are only a quicker way of doing."""
    monkeypatch.setattr(rounding, "LIGHT", 0.0)
    monkeypatch.setattr(rounding, "BLOCK", 7)
    down, up, spread = factors()
    spread = spread if known else torch.eye(len(spread), dtype=torch.float64)
    first, second = settled(down, up, spread if known else None, dtype)
    assert torch.equal(first, down.to(dtype)) and first.dtype == second.dtype == dtype
    left = torch.zeros(down.shape[1], up.shape[1], dtype=torch.float64)
    for exact, other, row, found in zip(down, up, first.double(), second, strict=True):
        left = left + exact[:, None] * other
        best = row @ spread @ left / (row @ spread @ row)
        torch.testing.assert_close(found.double(), best.to(dtype).double(), rtol=torch.finfo(dtype).eps, atol=0)
        left = left - row[:, None] * found.double()


@pytest.mark.parametrize("dtype", HALVES)
def test_the_factors_of_a_rank_are_the_leading_rows_of_those_of_all(dtype: torch.dtype) -> None:
    down, up, spread = factors(90, 70)
    first, second = settled(down, up, spread, dtype)
    few = settled(down[:20], up[:20], spread, dtype)
    assert torch.equal(few[0], first[:20]) and torch.equal(few[1], second[:20])


def test_less_is_lost_than_by_rounding_both() -> None:
    down, up, spread = factors(128, 64, fall=4.0)
    dtype = torch.bfloat16
    exact, plain, found = (
        torch.tensor([missed(down, up, *pair, spread, rank) for rank in range(1, len(up) + 1)], dtype=torch.float64)
        for pair in ((down, up), (down.to(dtype), up.to(dtype)), settled(down, up, spread, dtype))
    )
    # The rounding of `up` itself stays, and falls out a little differently.
    assert bool((found <= plain * 1.02).all())
    assert float((found - exact).sum()) < 0.85 * float((plain - exact).sum())


@pytest.mark.parametrize("dtype", HALVES)
def test_directions_that_inputs_never_show_stay_as_they_are(dtype: torch.dtype) -> None:
    down, up, _ = factors()
    spread = torch.zeros(down.shape[1], down.shape[1], dtype=torch.float64)
    spread[0, 0] = 1
    down[:, 0] = 0
    assert torch.equal(settled(down, up, spread, dtype)[1], up.to(dtype))
    assert torch.equal(settled(down, up, torch.zeros_like(spread), dtype)[1], up.to(dtype))


def test_a_row_that_rounds_to_nothing_or_would_leave_the_range_stays_as_it_is() -> None:
    """Of `down`, one number is no half at all, and one two thirds of what it was: `up` is to be half as large again."""
    smallest = 2.0**-24
    down = torch.diag(torch.tensor([smallest / 4, 1.49 * smallest, 1.0, 0.0], dtype=torch.float64))
    up = torch.tensor([[1.0], [60000.0], [2.0], [3.0]], dtype=torch.float64)
    first, second = settled(down, up, None, torch.float16)
    assert first.diagonal().tolist() == [0, smallest, 1, 0]
    assert torch.equal(second, up.half())
    up[1] = 30000.0
    assert float(settled(down, up, None, torch.float16)[1][1]) == pytest.approx(1.49 * 30000, rel=1e-3)
