"""How often a file answers as the original does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.measure.classes import Share, shown
from rightrank.models.measure.interval import Interval
from rightrank.models.measure.labels import (
    Accuracy,
    both,
    changes_of_sides,
    codes_of,
    outside,
    sides_of,
    tally_of_sides,
)
from rightrank.models.measure.measure import Measure
from rightrank.models.measure.tally import Tally
from rightrank.models.program.shapes import counted, positions

CLASSES, SIDES = Share("agreement"), Accuracy("agreement")


class Agreement(Measure):
    """The share of answers that are the original's. The answer of several numbers is the largest's place, that of one
    the side of zero that it is on, or of a half where all of them are probabilities."""

    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        if not outputs.numel():
            raise DataError(
                f"Answers cannot be told from the model's output: it is {shown(outputs)}, which holds nothing.",
                "Export the model with another first output, or leave the evaluation data out.",
            )

    def reference(self, outputs: Tensor, axis: int) -> Tensor:
        return self.answers(outputs, axis)

    def answers(self, outputs: Tensor, axis: int) -> Tensor:
        found = positions(outputs, axis)
        return codes_of(found) if found.shape[-1] == 1 else CLASSES.answers(outputs, axis)

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        if positions(outputs, axis).shape[-1] > 1:
            return CLASSES.tally(outputs, truth, axis, weights)
        mine = self.answers(outputs, axis)
        here = counted(weights, *mine.shape[:2])[..., None]
        pairs = zip(both(mine), both(truth), strict=True)
        as_logits, as_probabilities = (here & said & had & (up == goal) for (up, said), (goal, had) in pairs)
        return tally_of_sides(as_logits, as_probabilities, here, torch.maximum(outside(mine), outside(truth)))

    def value(self, tally: Tally) -> float:
        return _kind(tally).value(tally)

    def influence(self, tally: Tally) -> Tensor:
        return _kind(tally).influence(tally)

    def interval(self, tally: Tally) -> Interval:
        return _kind(tally).interval(tally)

    def most(self, outputs: Tensor, axis: int) -> int:
        return CLASSES.most(outputs, axis)

    def answers_of(self, tally: Tally) -> int:
        return _kind(tally).answers_of(tally)

    def classes(self, tally: Tally) -> Tensor | None:
        return _kind(tally).classes(tally)

    def changes(self, mine: Tensor, theirs: Tensor, wanted: Tensor | None, weights: Tensor | None = None) -> Tensor:
        if mine.dtype == torch.uint8:
            return changes_of_sides(mine, theirs, None, counted(weights, *mine.shape[:2])[..., None])
        return CLASSES.changes(mine, theirs, None, weights)

    def changed(self, counts: Tensor, targets: bool) -> dict[str, Any]:
        return super().changed(sides_of(counts) if counts.ndim == 2 else counts, False)

    def sound(self, outputs: Tensor, axis: int) -> Tensor:
        return CLASSES.sound(outputs, axis)


def _kind(tally: Tally) -> Share | Accuracy:
    """Tallies of sides and of classes differ by what is kept."""
    return SIDES if len(tally.kept) == 5 else CLASSES
