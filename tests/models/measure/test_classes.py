from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score, top_k_accuracy_score
from torch import Tensor

from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.tally import Tally


def drawn(n: int, classes: int, *places: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores (n, classes, …) that are often right, and class indices (n, …)."""
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (n, *places), generator=g)
    scores = torch.randn(n, classes, *places, generator=g)
    return scores.scatter_add_(1, targets[:, None], torch.ones(n, 1, *places)), targets


def tally(name: str, scores: Tensor, targets: Tensor, axis: int = 1) -> Tally:
    """In batches, as a file is run."""
    parts = zip(scores.split(37), targets.split(37), strict=True)
    return Tally.join([MEASURES[name].tally(*pair, axis) for pair in parts])


def value(name: str, scores: Tensor, targets: Tensor, axis: int = 1) -> float:
    return MEASURES[name].value(tally(name, scores, targets, axis))


@pytest.mark.parametrize("places", [(), (7,), (4, 5)])
def test_values_are_scikit_learns(places: tuple[int, ...]) -> None:
    scores, targets = drawn(200, 6, *places)
    right, given_ = targets.flatten(), scores.argmax(1).flatten()
    assert value("top1", scores, targets) == accuracy_score(right, given_)
    assert value("f1", scores, targets) == pytest.approx(f1_score(right, given_, average="macro"), rel=1e-14)
    assert value("miou", scores, targets) == pytest.approx(jaccard_score(right, given_, average="macro"), rel=1e-14)
    flat = scores.movedim(1, -1).reshape(-1, 6)
    assert value("top5", scores, targets) == pytest.approx(
        top_k_accuracy_score(right, flat, k=5, labels=range(6)), rel=1e-14
    )


def test_a_taggers_classes_are_last() -> None:
    scores, targets = drawn(50, 6, 8)
    assert value("f1", scores.movedim(1, 2), targets, axis=2) == value("f1", scores, targets)


def test_what_is_ignored_does_not_count() -> None:
    scores, targets = drawn(90, 5, 8)
    holes = targets.clone()
    holes[::3, ::2] = -100
    kept = holes.flatten() != -100
    flat, right = scores.movedim(1, -1).reshape(-1, 5)[kept], holes.flatten()[kept]
    for name in ("top1", "top5", "miou", "f1"):
        assert value(name, scores, holes) == pytest.approx(value(name, flat, right), rel=1e-14)


def test_classes_that_occur_nowhere_are_no_part_of_a_mean() -> None:
    """Class 3 is neither wanted nor given."""
    scores, targets = torch.eye(4)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2])
    assert value("miou", scores, targets) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert value("f1", scores, targets) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)


def test_scores_that_are_not_finite_are_wrong_and_given_to_no_class() -> None:
    scores = torch.eye(3)
    scores[0, 0] = torch.nan
    assert value("top1", scores, torch.arange(3)) == pytest.approx(2 / 3)
    assert value("f1", scores, torch.arange(3)) == pytest.approx(2 / 3)


def test_the_worst_class_is_that_of_the_lowest_recall_or_of_the_measure() -> None:
    scores, targets = drawn(300, 6)
    recall = recall_score(targets, scores.argmax(1), average=None)
    assert MEASURES["top1"].worst(tally("top1", scores, targets)) == {"index": recall.argmin(), "value": recall.min()}
    each = jaccard_score(targets, scores.argmax(1), average=None)
    worst = MEASURES["miou"].worst(tally("miou", scores, targets))
    assert worst is not None and worst["index"] == each.argmin() and worst["value"] == pytest.approx(each.min())


def test_pixels_of_few_images_tell_less_than_as_many_of_many() -> None:
    """All pixels of an image are right, or all are wrong."""
    right = torch.arange(40) % 2
    alone = tally("top1", torch.eye(2)[right], torch.zeros(40, dtype=torch.int64))
    together = tally("top1", torch.eye(2)[right, :, None].expand(40, 2, 50), torch.zeros(40, 50, dtype=torch.int64))
    measure = MEASURES["top1"]
    assert measure.value(alone) == measure.value(together)
    assert measure.interval(alone) == pytest.approx(measure.interval(together))


def test_answers_that_changed_are_counted_both_ways() -> None:
    measure, wanted = MEASURES["top1"], torch.tensor([[0], [1], [2], [0]])
    now, before = (torch.eye(3)[rows] for rows in ([0, 0, 2, 1], [0, 1, 1, 2]))
    counts = measure.changes(measure.answers(now, 1), measure.answers(before, 1), wanted)
    told = {"answers": 4, "differ": 3, "share": 0.75, "lost": 1, "gained": 1}
    assert measure.changed(counts, True) == told
    assert measure.changed(counts, False) == told | {"lost": None, "gained": None}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60), st.sampled_from(["top1", "miou", "f1"]))
def test_intervals_hold_the_value_or_are_within_what_is_possible(seed: int, n: int, name: str) -> None:
    measure, found = MEASURES[name], tally(name, *drawn(n, 4, seed=seed))
    low, high = measure.interval(found)
    assert low is not None and high is not None and 0 <= low <= high <= 1
    assert float(measure.influence(found).sum()) == pytest.approx(0, abs=1e-9)
