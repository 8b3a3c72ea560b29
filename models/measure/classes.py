"""Measures of outputs that are scores of classes: for each sample, or for each of its pixels or tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.measure.interval import Interval, of_share, skewed, wilson
from rightrank.models.measure.measure import Measure, counts_of
from rightrank.models.measure.tally import Tally, by_group
from rightrank.models.program.shapes import IGNORED, counted, positions, squeezed, without

# The answer of outputs that are not finite: no class at all.
NONE = -1


class Classes(Measure):
    """Counts for each sample and class: how often it is given and right, given, and wanted."""

    width = 1

    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        if targets is not None:
            check_classes(self.name, outputs, targets, axis)

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        given = self.answers(outputs, axis)
        wanted = self.wanted(outputs, truth, axis)
        here = counted(weights, *wanted.shape) & (wanted != IGNORED)
        right = (given == wanted[..., None]).any(-1)
        best = torch.where(right, wanted, given[..., 0])
        sample = torch.arange(len(wanted))[:, None].expand_as(wanted)
        classes = max(int(best.max()), int(wanted.max())) + 1
        # A row for each sample and class that it has: of pixels there are far more.
        rows, where = torch.unique(
            torch.cat([(sample * classes + each)[here & (each >= 0)] for each in (wanted, best)]), return_inverse=True
        )
        first = int((here & (wanted >= 0)).sum())
        actual = by_group(where[:first], torch.ones(first), len(rows))
        predicted = by_group(where[first:], torch.ones(len(where) - first), len(rows))
        hits = by_group(where[:first], right[here & (wanted >= 0)], len(rows))
        return Tally(len(wanted), rows // classes, (rows % classes, hits, predicted, actual))

    def wanted(self, outputs: Tensor, truth: Tensor, axis: int) -> Tensor:
        return truth.reshape(len(truth), -1).long()

    def answers(self, outputs: Tensor, axis: int) -> Tensor:
        found = positions(outputs, axis)
        best = (
            found.argmax(-1, keepdim=True) if self.width == 1 else found.topk(min(self.width, found.shape[-1])).indices
        )
        return best.masked_fill(~found.amax(-1, keepdim=True).isfinite(), NONE)

    def sound(self, outputs: Tensor, axis: int) -> Tensor:
        return positions(outputs, axis).amax(-1).isfinite().all(1)

    def changes(self, mine: Tensor, theirs: Tensor, wanted: Tensor | None, weights: Tensor | None = None) -> Tensor:
        here = counted(weights, *mine.shape[:2])
        differ = (mine.sort(-1).values != theirs.sort(-1).values).any(-1)
        if wanted is None:
            return counts_of(differ, differ, differ, here)
        before, now = ((wanted[..., None] == each).any(-1) for each in (theirs, mine))
        return counts_of(differ, before, now, here & (wanted != IGNORED))


class Share(Classes):
    """The share of answers that are right: `top1`, or with a width of 5 among the five best."""

    def __init__(self, name: str, width: int = 1) -> None:
        super().__init__(name)
        self.width = width

    def value(self, tally: Tally) -> float:
        _, hits, _, actual = tally.kept
        return float(hits.sum() / actual.sum())

    def influence(self, tally: Tally) -> Tensor:
        _, hits, _, actual = tally.kept
        return tally.by_sample(hits - self.value(tally) * actual) / actual.sum()

    def most(self, outputs: Tensor, axis: int) -> int:
        return positions(outputs, axis).shape[1]

    def answers_of(self, tally: Tally) -> int:
        return int(tally.kept[3].sum())

    def interval(self, tally: Tally) -> Interval:
        value, each = self.value(tally), tally.by_sample(tally.kept[3])
        return wilson(value, tally.n) if bool((each == 1).all()) else of_share(value, self.influence(tally))

    def classes(self, tally: Tally) -> Tensor:
        """Recall."""
        group, hits, _, actual = tally.kept
        count = int(group.max()) + 1
        return by_group(group, hits, count) / by_group(group, actual, count)


class Overlap(Classes):
    """The mean over classes of what prediction and truth have in common, as a share of both: `miou`, intersection over
    union, and `f1`, twice the intersection over the sum. Classes that are neither given nor wanted do not count."""

    def __init__(self, name: str, union: bool) -> None:
        super().__init__(name)
        self.union = union

    def value(self, tally: Tally) -> float:
        return float(self.classes(tally).nanmean())

    def classes(self, tally: Tally) -> Tensor:
        common, both = self._sums(tally)
        return common / both

    def influence(self, tally: Tally) -> Tensor:
        group, _, _, _ = tally.kept
        common, both = self._sums(tally)
        values, there = common / both, int((both > 0).sum())
        mine = self._rows(tally)
        return tally.by_sample((mine[0] - values[group] * mine[1]) / both[group]) / there

    def interval(self, tally: Tally) -> Interval:
        """Around the value less its bias: what classes of few samples have in common varies with how many there are."""
        value, influence = self.value(tally), self.influence(tally)
        if not bool(influence.any()):
            return wilson(value, tally.n)
        group, (common, both) = tally.kept[0], self._sums(tally)
        mine = self._rows(tally)
        off = by_group(group, mine[1] * (common / both)[group] * mine[1] - mine[1] * mine[0], len(both)) / both**2
        return skewed(value - float(off.nanmean()), influence, 0.0, 1.0)

    def _rows(self, tally: Tally) -> tuple[Tensor, Tensor]:
        _, hits, predicted, actual = tally.kept
        return (hits, predicted + actual - hits) if self.union else (2 * hits, predicted + actual)

    def _sums(self, tally: Tally) -> tuple[Tensor, Tensor]:
        group, count = tally.kept[0], int(tally.kept[0].max()) + 1
        common, both = (by_group(group, each, count) for each in self._rows(tally))
        return common, both


def check_classes(name: str, outputs: Tensor, targets: Tensor, axis: int) -> None:
    """Raises DataError where targets (n, …) are no class indices for outputs (b, …)."""
    have, want = tuple(targets.shape[1:]), without(outputs.shape, axis)[1:]
    if outputs.ndim < 2 or outputs.shape[axis] < 2:
        raise DataError(
            f"Classes cannot be told from the model's output: it is {shown(outputs)}, without an axis of 2 classes or "
            f"more, and {name} needs one.",
            "Choose accuracy or auc for one score or several labels, mse, mae or r2 for `targets` that are numbers, or "
            "leave the evaluation data out.",
        )
    if targets.is_floating_point():
        raise DataError(
            f"The metric {name} takes class indices, and the targets are floats.",
            "Give them as integers: one class index for each input, pixel or token.",
        )
    if squeezed(targets.shape)[1:] != squeezed((1, *want))[1:]:
        looks = have[:1] == want[-1:] and len(have) == len(want)
        raise DataError(
            f"The targets are {shown(targets)}; {name} takes ({', '.join(('n', *map(str, want)))}): a class index "
            f"for each place of the model's output {shown(outputs)}.",
            "Give one class index for each input, pixel or token, in the outputs' order of axes"
            + (" (these look transposed)." if looks else "."),
        )
    there = targets[targets != IGNORED]
    if not there.numel():
        raise DataError(f"All targets are {IGNORED}, which is left out.", "Give the class indices.")
    low, high, classes = int(there.min()), int(there.max()), outputs.shape[axis]
    if low < 0 or high >= classes:
        from_one = low == 1 and high == classes
        raise DataError(
            f"Targets run from {low} to {high}, the model has {classes} classes.",
            f"Give class indices from 0 to {classes - 1}"
            + (": these seem to count from 1." if from_one else f", and {IGNORED} for what is to be left out."),
        )


def shown(tensor: Tensor) -> str:
    """A shape with the batch's size left open."""
    return "(" + ", ".join(("n", *map(str, tensor.shape[1:]))) + ("," if tensor.ndim == 1 else "") + ")"
