"""What an error in a layer costs."""

from __future__ import annotations

import math

import pytest
import torch

from rightrank.models.quantise import metric


@pytest.mark.parametrize("matrices", [False, True])
def test_it_is_its_square_in_the_metric_on_both_sides(matrices: bool) -> None:
    error = torch.randn(5, 7, dtype=torch.float64)
    inputs, outputs = (torch.rand(size, dtype=torch.float64) for size in (7, 5))
    wanted = float((outputs.unsqueeze(1) * error.square() * inputs).sum())
    given = (inputs.diag(), outputs.diag()) if matrices else (inputs, outputs)
    assert metric.loss(error, *given) == pytest.approx(wanted)


@pytest.mark.parametrize("matrices", [False, True])
def test_of_what_is_no_number_it_is_worse_than_any(matrices: bool) -> None:
    """And of what rounding puts below nothing it is nothing."""
    error = torch.full((3, 3), math.nan, dtype=torch.float64)
    unit = torch.eye(3, dtype=torch.float64) if matrices else torch.ones(3, dtype=torch.float64)
    assert metric.loss(error, unit, unit) == math.inf
    assert metric.loss(torch.ones(3, 3, dtype=torch.float64), -unit, unit) == 0
