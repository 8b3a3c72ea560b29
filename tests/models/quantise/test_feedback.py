"""What rounding a column loses, the later ones make good."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rightrank.models.quantise import metric
from rightrank.models.quantise.feedback import RIDGE, Feedback, rounded
from tests.models.quantise.drawn import covariance, drawn


def test_without_feedback_levels_are_the_nearest() -> None:
    weight, steps = drawn(5, 7), torch.tensor([[0.1], [0.2], [0.3], [0.4], [0.5]], dtype=torch.float64)
    levels = rounded(weight, steps)
    assert levels.dtype == torch.int8
    assert ((weight - levels * steps).abs() <= steps / 2 + 1e-12).all()


@pytest.mark.parametrize("size", [1, 5, 64, 130])
def test_feedback_loses_less_than_rounding(size: int) -> None:
    inputs, weight, steps = covariance(size), drawn(20, size), torch.full((20, 1), 0.5, dtype=torch.float64)
    one = torch.ones(20, dtype=torch.float64)
    lost = [
        metric.loss(weight - rounded(weight, steps, each) * steps, inputs, one) for each in (None, Feedback.of(inputs))
    ]
    assert lost[1] < 0.7 * lost[0] if size > 1 else lost[1] == lost[0]


def test_what_is_left_is_what_rounding_with_feedback_costs() -> None:
    inputs, weight, step = covariance(100), drawn(200, 100), 0.1
    made_good = Feedback.of(inputs)
    error = weight - rounded(weight, torch.full((200, 1), step, dtype=torch.float64), made_good) * step
    damped = inputs + RIDGE * inputs.diagonal().mean() * torch.eye(100, dtype=torch.float64)
    lost = metric.loss(error, damped, torch.ones(200, dtype=torch.float64))
    assert lost == pytest.approx(200 * float(made_good.left.sum()) * step**2 / 12, rel=0.02)


def test_inputs_that_have_nothing_in_common_make_nothing_good() -> None:
    weight, steps = drawn(6, 9), torch.full((6, 1), 0.3, dtype=torch.float64)
    alone = Feedback.of(torch.diag(torch.arange(1.0, 10.0, dtype=torch.float64)))
    assert torch.equal(rounded(weight, steps, alone), rounded(weight, steps))


def test_every_number_may_have_a_step_of_its_own() -> None:
    weight, steps = drawn(3, 70), drawn(3, 70, seed=4).abs() + 0.1
    levels = rounded(weight, steps, Feedback.of(covariance(70)))
    # Of the first column nothing has been moved yet.
    assert torch.equal(levels[:, 0], rounded(weight, steps)[:, 0])
    assert not torch.equal(levels, rounded(weight, steps))


def test_levels_end_at_127() -> None:
    weight = torch.tensor([[500.0, -500.0, 127.4]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    for each in (None, Feedback.of(torch.eye(3, dtype=torch.float64))):
        assert rounded(weight, one, each).tolist() == [[127, -127, 127]]


@pytest.mark.parametrize(
    "inputs", [torch.zeros(4, 4), torch.full((4, 4), torch.nan), torch.ones(4, 4), -torch.eye(4)], ids=str
)
def test_a_covariance_that_says_nothing_still_gives_levels(inputs: Tensor) -> None:
    made_good = Feedback.of(inputs.double())
    assert made_good.left.isfinite().all()
    assert (made_good.left > 0).all()
    levels = rounded(drawn(2, 4), torch.full((2, 1), 0.1, dtype=torch.float64), made_good)
    assert levels.abs().max() > 0


def test_numbers_that_are_none_become_levels_within_range() -> None:
    weight = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.0]], dtype=torch.float64)
    for each in (None, Feedback.of(covariance(4))):
        assert rounded(weight, torch.ones(1, 1, dtype=torch.float64), each).abs().max() <= 127


def test_the_same_numbers_give_the_same_levels() -> None:
    weight, steps, inputs = drawn(9, 80), torch.full((9, 1), 0.2, dtype=torch.float64), covariance(80)
    first, again = (rounded(weight, steps, Feedback.of(inputs)) for _ in range(2))
    assert torch.equal(first, again)
