from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, hamming_loss, roc_auc_score
from torch import Tensor

from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.tally import Tally

ACCURACY, AUC = MEASURES["accuracy"], MEASURES["auc"]


def drawn(n: int, labels: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    right = (torch.rand(n, labels, generator=g) < 0.3).long()
    return (torch.randn(n, labels, generator=g) + right - 0.5).round(decimals=1), right


def tally(name: str, scores: Tensor, targets: Tensor) -> Tally:
    parts = zip(scores.split(37), targets.split(37), strict=True)
    return Tally.join([MEASURES[name].tally(*pair, min(1, scores.ndim - 1)) for pair in parts])


def test_several_labels_are_as_scikit_learn_has_them() -> None:
    scores, right = drawn(300, 5)
    assert ACCURACY.value(tally("accuracy", scores, right)) == pytest.approx(
        1 - hamming_loss(right, scores > 0), rel=1e-14
    )
    found = tally("auc", scores, right)
    assert AUC.value(found) == pytest.approx(roc_auc_score(right, scores, average="macro"), rel=1e-14)
    each = roc_auc_score(right, scores, average=None)
    worst = AUC.worst(found)
    assert worst is not None and worst["index"] == each.argmin() and worst["value"] == pytest.approx(each.min())


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("targets_in_a_column", [True, False])
def test_one_logit_may_be_a_row_or_a_column(column: bool, targets_in_a_column: bool) -> None:
    scores, right = drawn(200, 1)
    expected = accuracy_score(right, scores > 0), roc_auc_score(right, scores)
    given = scores if column else scores[:, 0], right if targets_in_a_column else right[:, 0]
    assert ACCURACY.value(tally("accuracy", *given)) == expected[0]
    assert AUC.value(tally("auc", *given)) == pytest.approx(expected[1], rel=1e-14)


def test_scores_that_are_all_between_0_and_1_say_yes_above_a_half() -> None:
    scores, right = drawn(200, 3)
    likely = scores.double().sigmoid()
    assert ACCURACY.value(tally("accuracy", likely, right)) == ACCURACY.value(tally("accuracy", scores, right))


def test_whether_scores_are_probabilities_is_asked_of_all_of_them() -> None:
    """The first batch alone would look like it."""
    scores = torch.cat([torch.full((40, 1), 0.3), torch.full((40, 1), -3.0)])
    assert ACCURACY.value(tally("accuracy", scores, (scores > 0).long())) == 1


def test_what_is_ignored_does_not_count() -> None:
    scores, right = drawn(200, 2)
    holes = right.clone()
    holes[::3, 0] = -100
    there = holes[:, 0] >= 0
    expected = (roc_auc_score(right[there, 0], scores[there, 0]) + roc_auc_score(right[:, 1], scores[:, 1])) / 2
    assert AUC.value(tally("auc", scores, holes)) == pytest.approx(expected, rel=1e-14)
    hits = ((scores > 0) == (holes == 1)) & (holes >= 0)
    assert ACCURACY.value(tally("accuracy", scores, holes)) == pytest.approx(float(hits.sum() / (holes >= 0).sum()))


def test_a_score_that_is_not_finite_is_wrong() -> None:
    scores = torch.tensor([[torch.nan], [2.0], [-2.0]])
    for goal in (0, 1):
        assert ACCURACY.value(tally("accuracy", scores, torch.tensor([[goal], [1], [0]]))) == pytest.approx(2 / 3)


def test_the_deviation_of_an_area_is_delongs() -> None:
    """Against the formula written out: the variances of both kinds' placements by their numbers."""
    scores, right = drawn(60, 1)
    up, down = scores[right == 1], scores[right == 0]
    table = (up[:, None] > down).double() + 0.5 * (up[:, None] == down).double()
    expected = table.mean(1).var(correction=0) / len(up) + table.mean(0).var(correction=0) / len(down)
    assert float(AUC.influence(tally("auc", scores, right)).square().sum()) == pytest.approx(float(expected))


def test_answers_that_changed_are_counted_both_ways() -> None:
    now, before, wanted = (
        torch.tensor(each)[:, None, None] for each in ([1.5, -1, 2, -2], [1.5, 1, -2, -2], [1, 1, 1, 1])
    )
    answers = [ACCURACY.answers(each[:, 0], 1) for each in (now, before)]
    counts = ACCURACY.changes(*answers, wanted)
    assert ACCURACY.changed(counts, True) == {"answers": 4, "differ": 2, "share": 0.5, "lost": 1, "gained": 1}
