from __future__ import annotations

import pytest
import torch

from rightrank.models.measure.interval import Z, by_odds, deviation, of_share, skewed, wilson


def test_without_skewness_an_interval_is_the_normal_one() -> None:
    influence = torch.linspace(-1, 1, 101, dtype=torch.float64) / 101
    low, high = skewed(5, influence)
    assert (low, high) == pytest.approx((5 - Z * deviation(influence), 5 + Z * deviation(influence)))


def test_an_interval_reaches_further_to_the_side_of_the_rare_large_errors() -> None:
    errors = torch.tensor([0.0] * 95 + [10.0] * 5, dtype=torch.float64)
    low, high = skewed(0.5, (errors - 0.5) / 100)
    assert low is not None and high is not None and high - 0.5 > 1.3 * (0.5 - low) > 0


def test_an_interval_stays_where_values_can_be() -> None:
    errors = torch.tensor([0.0] * 9 + [1.0], dtype=torch.float64)
    assert skewed(0.1, (errors - 0.1) / 10, 0.0, 0.2) == (0.0, 0.2)
    low, high = by_odds(0.98, (errors - 0.1) / 10)
    assert low is not None and high is not None and 0 < low < 0.98 < high < 1


def test_answers_that_come_alone_are_as_many_as_there_are_samples() -> None:
    right = torch.tensor([1.0] * 30 + [0.0] * 70, dtype=torch.float64)
    assert of_share(0.3, (right - 0.3) / 100) == pytest.approx(wilson(0.3, 100), rel=1e-9)


def test_one_sample_tells_of_no_spread() -> None:
    assert skewed(3, torch.zeros(1, dtype=torch.float64)) == (None, None)
