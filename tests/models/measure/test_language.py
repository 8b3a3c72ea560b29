from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn import functional

from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.tally import Tally

PERPLEXITY, DIVERGENCE = MEASURES["perplexity"], MEASURES["divergence"]


def test_perplexity_is_the_exponential_of_scikit_learns_loss() -> None:
    torch.manual_seed(0)
    scores, right = torch.randn(30, 9, 12, dtype=torch.float64), torch.randint(12, (30, 9))
    found = Tally.join([PERPLEXITY.tally(*pair, 2) for pair in zip(scores.split(8), right.split(8), strict=True)])
    expected = math.exp(log_loss(right.flatten(), scores.softmax(-1).reshape(-1, 12), labels=range(12)))
    assert PERPLEXITY.value(found) == pytest.approx(expected, rel=1e-12)
    likely = PERPLEXITY.tally(scores.softmax(-1), right, 2)
    assert PERPLEXITY.value(likely) == pytest.approx(expected, rel=1e-12)


def test_a_uniform_guess_is_as_perplexed_as_there_are_tokens_whatever_is_ignored() -> None:
    right = torch.full((4, 5), -100)
    right[1:, 2] = 1
    assert PERPLEXITY.value(PERPLEXITY.tally(torch.zeros(4, 5, 7), right, 2)) == pytest.approx(7)


def test_texts_of_any_length_are_told_of_together_by_token() -> None:
    torch.manual_seed(0)
    scores, right = torch.randn(6, 8, 5), torch.randint(5, (6, 8))
    short = PERPLEXITY.tally(scores[:3, :4], right[:3, :4], 2)
    rest = right.clone()
    rest[:3, 4:] = -100
    joined = Tally.join([short, PERPLEXITY.tally(scores[3:], right[3:], 2)])
    assert PERPLEXITY.value(joined) == pytest.approx(PERPLEXITY.value(PERPLEXITY.tally(scores, rest, 2)))


def test_divergence_is_torchs_by_token_and_none_from_itself() -> None:
    torch.manual_seed(0)
    mine, theirs = torch.randn(6, 8, 5), torch.randn(6, 8, 5)
    found = DIVERGENCE.tally(mine, DIVERGENCE.reference(theirs, 2), 2)
    logs = [each.double().log_softmax(-1).reshape(-1, 5) for each in (mine, theirs)]
    expected = functional.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")
    assert DIVERGENCE.value(found) == pytest.approx(float(expected), rel=1e-12)
    same = DIVERGENCE.tally(theirs, DIVERGENCE.reference(theirs, 2), 2)
    assert DIVERGENCE.value(same) == 0


def test_padding_is_no_part_of_a_divergence() -> None:
    torch.manual_seed(0)
    mine, theirs, mask = torch.randn(2, 4, 5), torch.randn(2, 4, 5), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    found = DIVERGENCE.tally(mine, DIVERGENCE.reference(theirs, 2), 2, mask)
    mine[mask == 0] = 100 * torch.randn(3, 5)
    again = DIVERGENCE.tally(mine, DIVERGENCE.reference(theirs, 2), 2, mask)
    assert DIVERGENCE.value(found) == DIVERGENCE.value(again)
