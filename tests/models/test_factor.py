from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import factor
from models.factor import Factors
from models.statistics import Moments

SHAPES = [(6, 4), (4, 6), (5, 5), (8, 3, 3, 3), (3, 8, 1, 5)]


def rebuilt(factors: Factors, rank: int, shape: tuple[int, ...]) -> torch.Tensor:
    return (factors.up[:rank].double().T @ factors.down[:rank].double()).reshape(shape)


def moments_of(outputs: torch.Tensor, gradients: torch.Tensor) -> Moments:
    mean = outputs.mean(0)
    return Moments(mean, outputs.T @ outputs / len(outputs) - torch.outer(mean, mean), gradients.T @ gradients)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_singular_values_are_those_of_lapack(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    expected = torch.linalg.svdvals(weight.flatten(1).double())
    assert torch.allclose(factor.decompose(weight).sigma, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_bases_together_are_the_weight(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    factors = factor.decompose(weight)
    assert torch.allclose(rebuilt(factors, len(factors.down), shape).float(), weight, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_the_error_of_a_prefix_is_that_of_proposition_2_1(rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight, x = torch.randn(6, 9), torch.randn(9).double()
    factors = factor.decompose(weight)
    error = (weight.double() @ x - rebuilt(factors, rank, (6, 9)) @ x).square().sum()
    _, sigma, inputs = torch.linalg.svd(weight.double(), full_matrices=False)
    expected = (sigma[rank:] ** 2 * (inputs[rank:] @ x) ** 2).sum()
    assert torch.allclose(error, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradient", [True, False])
def test_all_bases_in_a_metric_are_the_weight_even_if_the_data_leave_directions_out(
    shape: tuple[int, ...], gradient: bool
) -> None:
    torch.manual_seed(1)
    weight = torch.randn(shape)
    inputs = torch.randn(50, weight.flatten(1).shape[1]).double()
    inputs[:, :2] = 0
    outputs = inputs @ weight.flatten(1).double().T
    factors = factor.decompose_in_metric(weight, moments_of(outputs, torch.randn(50, len(weight)).double()), gradient)
    assert torch.allclose(rebuilt(factors, len(factors.down), shape).float(), weight, atol=1e-3)


def test_a_prefix_in_the_metric_of_the_gradients_beats_the_svd_in_that_metric() -> None:
    torch.manual_seed(2)
    weight = torch.randn(8, 12)
    inputs = torch.randn(400, 12).double() * torch.logspace(0, 2, 12).double()
    outputs = inputs @ weight.double().T
    outputs = outputs - outputs.mean(0)
    gradients = torch.randn(400, 8).double() * torch.logspace(0, 1, 8).double()
    moments = moments_of(outputs, gradients)

    def harm(factors: Factors, rank: int) -> float:
        kept = rebuilt(factors, rank, (8, 12)) @ torch.linalg.pinv(weight.double())
        change = (torch.eye(8).double() - kept) @ outputs.T
        return float(torch.trace(change.T @ moments.gradient @ change))

    ours, svd = factor.decompose_in_metric(weight, moments), factor.decompose(weight)
    for rank in range(1, 8):
        assert harm(ours, rank) <= harm(svd, rank) * 1.001


def test_the_shift_and_scale_of_a_cut_are_those_that_the_data_show() -> None:
    torch.manual_seed(3)
    weight = torch.randn(8, 12)
    inputs = torch.randn(4000, 12).double() + 1
    outputs = inputs @ weight.double().T
    factors = factor.decompose_in_metric(weight, moments_of(outputs, torch.randn(100, 8).double()))
    assert factors.shift is not None and factors.scale is not None
    for rank in (1, 3, 8):
        cut = inputs @ rebuilt(factors, rank, (8, 12)).T
        assert torch.allclose(factors.shift[rank - 1], cut.mean(0) - outputs.mean(0), atol=1e-3)
        assert torch.allclose(factors.scale[rank - 1], cut.var(0) / outputs.var(0), atol=1e-2)
