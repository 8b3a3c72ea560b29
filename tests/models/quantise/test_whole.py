"""A weight as levels at a grid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rightrank.models.quantise import metric
from rightrank.models.quantise.feedback import RIDGE
from rightrank.models.quantise.whole import rounded_at, whole
from tests.models.quantise.drawn import covariance, drawn


def layer(outputs: int = 24, inputs: int = 90) -> tuple[Tensor, Tensor, Tensor]:
    """A weight, what its inputs are and what an error in its outputs costs, which differs fivefold."""
    gradient = torch.diag(torch.logspace(-0.7, 0, outputs, dtype=torch.float64))
    return drawn(outputs, inputs), covariance(inputs), gradient


@pytest.mark.parametrize("grid", [0.2, 0.3, 0.5])
def test_a_grid_says_what_is_lost_whatever_the_layer(grid: float) -> None:
    weight, inputs, gradient = layer()
    damped = inputs + RIDGE * inputs.diagonal().mean() * torch.eye(len(inputs), dtype=torch.float64)
    for before, after in ((1.0, 1.0), (9.0, 1.0), (1.0, 0.1)):
        found = whole(weight, before * inputs, after * gradient, grid)
        lost = metric.loss(weight - found.weight(), before * damped, after * gradient)
        assert (found.scales > 1.01 * weight.abs().amax(1) / 127).all()
        assert lost == pytest.approx(weight.numel() * grid**2 / 12, rel=0.1)


def test_a_vector_is_a_metric_without_anything_in_common() -> None:
    weight, inputs, gradient = layer()
    same = whole(weight, torch.diag(inputs.diagonal()), gradient, 0.5)
    assert torch.equal(whole(weight, same_ridge(inputs.diagonal()), gradient.diagonal(), 0.5).levels, same.levels)


def same_ridge(diagonal: Tensor) -> Tensor:
    return diagonal + 1e-2 * diagonal.mean()


def test_neighbouring_outputs_can_share_a_scale() -> None:
    weight, inputs, gradient = layer()
    found = whole(weight, inputs, gradient, 0.3, sharing=4)
    assert (found.scales.reshape(-1, 4) == found.scales[::4, None]).all()
    assert found.scales.unique().numel() == 6
    assert found.levels.abs().max() <= 127


def test_eight_bits_hold_the_largest_number_of_each_output() -> None:
    weight = drawn(6, 9)
    weight[3] = 0
    found = rounded_at(weight)
    assert found.levels.abs().amax(1).tolist() == [127, 127, 127, 0, 127, 127]
    assert ((weight - found.weight()).abs() <= found.scales[:, None] / 2 * (1 + 1e-9)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scales_are_what_their_type_holds(dtype: torch.dtype) -> None:
    weight, inputs, gradient = layer()
    weight[0] *= 1e-6
    for found in (whole(weight, inputs, gradient, 0.2, dtype=dtype), rounded_at(weight, dtype=dtype)):
        assert torch.equal(found.scales.to(dtype).double(), found.scales)
        assert (found.scales > 0).all()
        assert found.levels.abs().max() <= 127


def test_an_output_that_never_matters_is_not_coarser_than_its_share() -> None:
    weight, inputs, gradient = layer()
    gradient[0, 0] = 0
    found = whole(weight, inputs, gradient, 1.0)
    assert found.scales[0] <= 11 * found.scales[1:].mean()
    assert whole(weight, inputs, 0 * gradient, 1.0).scales.isfinite().all()


def test_costs_of_an_error() -> None:
    error, inputs, gradient = drawn(4, 5), covariance(5), covariance(4)
    expected = float((gradient @ error @ inputs @ error.T).trace())
    assert metric.loss(error, inputs, gradient) == pytest.approx(expected)
    plain = metric.loss(error, inputs.diagonal(), gradient.diagonal())
    assert plain == pytest.approx(metric.loss(error, torch.diag(inputs.diagonal()), torch.diag(gradient.diagonal())))
