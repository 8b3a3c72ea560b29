"""Measures of outputs that each say yes or no: one logit, or several labels at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.measure.classes import shown
from rightrank.models.measure.interval import Interval, by_odds, of_share, wilson
from rightrank.models.measure.measure import Measure, counts_of
from rightrank.models.measure.tally import Tally, by_group
from rightrank.models.program.shapes import IGNORED, squeezed

# What one score says: below zero, zero, up to a half, up to one, above one, or nothing since it is not finite. Which of
# these are a yes follows from all of them, a file's and the original's: scores that all lie in [0, 1] are
# probabilities, and say yes above a half.
BELOW, ZERO, LESS, MORE, ABOVE, NOTHING = range(6)


class Labels(Measure):
    """Targets are 0 or 1 for each output."""

    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        if targets is None or not like(outputs, targets):
            raise DataError(
                f"The metric {self.name} takes a 0 or 1 for each of the model's outputs {shown(outputs)}"
                + ("." if targets is None else f", and the targets are {shown(targets)}."),
                "Give `targets` of the outputs' shape.",
            )
        if not binary(targets):
            raise DataError(
                f"The metric {self.name} takes targets that are 0 or 1, and these are not.",
                f"Give 0 for no, 1 for yes, and {IGNORED} for what is to be left out.",
            )

    def answers(self, outputs: Tensor, axis: int) -> Tensor:
        return codes_of(by_label(outputs, axis))

    def wanted(self, outputs: Tensor, truth: Tensor, axis: int) -> Tensor:
        return by_label(truth.reshape(outputs.shape), axis)

    def changes(self, mine: Tensor, theirs: Tensor, wanted: Tensor | None, weights: Tensor | None = None) -> Tensor:
        return changes_of_sides(mine, theirs, wanted)

    def changed(self, counts: Tensor, targets: bool) -> dict[str, Any]:
        return super().changed(sides_of(counts), targets)


class Accuracy(Labels):
    """The share of outputs whose yes or no is right."""

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        codes, wanted = self.answers(outputs, axis), self.wanted(outputs, truth, axis)
        here, goal = wanted != IGNORED, wanted == 1
        as_logits, as_probabilities = (said & (up == goal) & here for up, said in both(codes))
        return tally_of_sides(as_logits, as_probabilities, here, outside(codes))

    def beside(self, tally: Tally, theirs: Tensor) -> Tally:
        """The scores of a cut may all lie in [0, 1], though they are logits as the original's are."""
        *kept, out = tally.kept
        return replace(tally, kept=(*kept, torch.maximum(out, outside(theirs).expand_as(out))))

    def value(self, tally: Tally) -> float:
        right, count = _right(tally)
        return float(right.sum() / count.sum())

    def influence(self, tally: Tally) -> Tensor:
        right, count = _right(tally)
        return tally.by_sample(right - self.value(tally) * count) / count.sum()

    def most(self, outputs: Tensor, axis: int) -> int:
        return by_label(outputs, axis)[0].numel()

    def answers_of(self, tally: Tally) -> int:
        return int(_right(tally)[1].sum())

    def interval(self, tally: Tally) -> Interval:
        value, each = self.value(tally), tally.by_sample(_right(tally)[1])
        return wilson(value, tally.n) if bool((each == 1).all()) else of_share(value, self.influence(tally))

    def classes(self, tally: Tally) -> Tensor:
        label = tally.kept[0]
        right, count = _right(tally)
        labels = int(label.max()) + 1
        return by_group(label, right, labels) / by_group(label, count, labels)


class Auc(Labels):
    """The area under the curve of true against false positives: how often a yes scores higher than a no. Of several
    labels the mean over those that have both."""

    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        super().fit(outputs, targets, axis)
        assert targets is not None
        wanted = by_label(targets.reshape(len(targets), *outputs.shape[1:]), axis).flatten(0, 1)
        if not bool(((wanted == 1).any(0) & (wanted == 0).any(0)).any()):
            raise DataError("The metric auc needs targets that are 0 and such that are 1.", "Give samples of both.")

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        scores, wanted = by_label(outputs, axis), by_label(truth.reshape(outputs.shape), axis)
        n, places, labels = scores.shape
        sample = torch.arange(n).repeat_interleave(places)
        return Tally(n, sample, (scores.reshape(-1, labels), wanted.reshape(-1, labels)))

    def value(self, tally: Tally) -> float:
        return float(self.classes(tally).nanmean())

    def classes(self, tally: Tally) -> Tensor:
        scores, wanted = tally.kept
        return torch.tensor([area(*pair)[0] for pair in zip(scores.T, wanted.T, strict=True)], dtype=torch.float64)

    def influence(self, tally: Tally) -> Tensor:
        """DeLong's: how far a yes is above the noes, and a no below the yeses, on average, from the mean of that."""
        scores, wanted = tally.kept
        found, there = torch.zeros(tally.n, dtype=torch.float64), 0
        for pair in zip(scores.T, wanted.T, strict=True):
            value, rows = area(*pair)
            if value == value:
                found, there = found + tally.by_sample(rows), there + 1
        return found / max(there, 1)

    def interval(self, tally: Tally) -> Interval:
        return by_odds(self.value(tally), self.influence(tally))


def area(scores: Tensor, wanted: Tensor) -> tuple[float, Tensor]:
    """The area of one label's scores (m,) with targets (m,), NaN where there are not both, and each row's influence."""
    up, down = (wanted == 1).nonzero()[:, 0], (wanted == 0).nonzero()[:, 0]
    rows = torch.zeros(len(scores), dtype=torch.float64)
    if not len(up) or not len(down):
        return float("nan"), rows
    scores = scores.nan_to_num(nan=-torch.inf)
    above, below = placed(scores[up], scores[down]), 1 - placed(scores[down], scores[up])
    value = float(above.mean())
    rows[up] = (above - value) / len(up)
    rows[down] = (below - value) / len(down)
    return value, rows


def placed(scores: Tensor, among: Tensor) -> Tensor:
    """Which share of `among` (m,) is below each of `scores`, equal ones by half."""
    ordered = among.sort().values
    ends = [torch.searchsorted(ordered, scores.contiguous(), right=right) for right in (False, True)]
    return (ends[0] + ends[1]).double() / (2 * len(among))


def codes_of(scores: Tensor) -> Tensor:
    """What scores say, of their shape."""
    codes = torch.full(scores.shape, BELOW, dtype=torch.uint8)
    for code, those in ((ZERO, scores == 0), (LESS, scores > 0), (MORE, scores > 0.5), (ABOVE, scores > 1)):
        codes[those] = code
    codes[~scores.isfinite()] = NOTHING
    return codes


def both(codes: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Which answers are a yes, and which say anything at all: as logits, and as probabilities."""
    said = codes != NOTHING
    return ((codes > ZERO) & said, said), ((codes > LESS) & said, said)


def outside(codes: Tensor) -> Tensor:
    """1 where any of the answers is of a score that is no probability, else 0."""
    return ((codes == BELOW) | (codes == ABOVE)).any().long()


def tally_of_sides(as_logits: Tensor, as_probabilities: Tensor, here: Tensor, out: Tensor) -> Tally:
    """A row for each sample and label, of which answers (n, P, labels) are right if the scores are logits, or if they
    are probabilities, and which count."""
    n, _, labels = here.shape
    sample = torch.arange(n)[:, None].expand(n, labels)
    label = torch.arange(labels).expand(n, labels)
    kept = (label, as_logits.sum(1), as_probabilities.sum(1), here.sum(1), out.expand(n, labels))
    return Tally(n, sample.reshape(-1), tuple(each.reshape(-1) for each in kept))


def changes_of_sides(mine: Tensor, theirs: Tensor, wanted: Tensor | None, counted: Tensor | None = None) -> Tensor:
    """`Measure.changes` (3, 4) for scores' answers: if they are logits, if they are probabilities, and whether they
    are none."""
    here = torch.ones_like(mine, dtype=torch.bool) if wanted is None else wanted != IGNORED
    here = here if counted is None else here & counted
    found = []
    for (now, said), (before, had) in zip(both(mine), both(theirs), strict=True):
        differ = (now != before) | (said != had)
        if wanted is None:
            found.append(counts_of(differ, differ, differ, here))
        else:
            found.append(counts_of(differ, had & (before == (wanted == 1)), said & (now == (wanted == 1)), here))
    return torch.stack([*found, (outside(mine) + outside(theirs)).expand(4)])


def sides_of(counts: Tensor) -> Tensor:
    """Which of `changes_of_sides`, added up, is so."""
    return counts[0] if counts[2, 0] else counts[1]


def by_label(outputs: Tensor, axis: int) -> Tensor:
    """(n, P, labels) of outputs (n, …); with one axis there is one label."""
    if outputs.ndim == 1:
        return outputs.reshape(-1, 1, 1)
    return outputs.movedim(axis, -1).reshape(len(outputs), -1, outputs.shape[axis])


def like(outputs: Tensor, targets: Tensor) -> bool:
    """Whether there is a target for each output."""
    return squeezed((1, *outputs.shape[1:])) == squeezed((1, *targets.shape[1:]))


def binary(targets: Tensor) -> bool:
    """Whether all targets that count are 0 or 1."""
    return bool(((targets == 0) | (targets == 1) | (targets == IGNORED)).all())


def _right(tally: Tally) -> tuple[Tensor, Tensor]:
    """How many of each row's answers are right, and how many there are."""
    _, above_zero, above_half, count, out = tally.kept
    return (above_zero if bool(out.any()) else above_half).double(), count.double()
