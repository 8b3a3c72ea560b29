"""What a measure is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.measure.interval import Interval, skewed
from rightrank.models.measure.metrics import METRICS, Metric
from rightrank.models.measure.tally import Tally

MORE = "Give some hundred at best."


class Measure(ABC):
    """One number for how good outputs are: `tally` what is to be kept of each batch, join the tallies, and take
    `value` and `interval` of the whole.

    `outputs` are (n, …) with classes along `axis`; `truth` the targets (n, …), or of a measure against the original
    its `reference`. Where `weights` (n, …) has a number for each position, those at zero do not count.
    """

    # The least that its value can be, and of how many samples it can be taken.
    least, fewest = 0.0, 1

    def __init__(self, name: str) -> None:
        self.name = name

    def enough(self, n: int) -> None:
        """Raises DataError where so many samples are too few to be measured by."""
        if n < self.fewest:
            raise DataError(f"The metric {self.name} wants {self.fewest} samples or more, and there are {n}.", MORE)

    @property
    def metric(self) -> Metric:
        return METRICS[self.name]

    @abstractmethod
    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        """Raises DataError where a file with such outputs (b, …) cannot be measured by all targets (n, …)."""

    @abstractmethod
    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        """What is kept of a batch."""

    def beside(self, tally: Tally, theirs: Tensor) -> Tally:
        """The same, where it is known what the original `answers` for the batch."""
        return tally

    @abstractmethod
    def value(self, tally: Tally) -> float:
        """The measure of all samples of a tally."""

    @abstractmethod
    def influence(self, tally: Tally) -> Tensor:
        """How much each sample (n,) moves the value away from that of the world the samples are of, to first order:
        their sum is the value's error."""

    def interval(self, tally: Tally) -> Interval:
        """Of 95 %; (None, None) where the samples tell of no spread."""
        most = 1.0 if self.metric.higher else math.inf
        return skewed(self.value(tally), self.influence(tally), self.least, most)

    def most(self, outputs: Tensor, axis: int) -> int:
        """How many answers a sample with such outputs can have, where the value is the share of answers that are right:
        where `Metric.share` says so."""
        raise NotImplementedError(f"{self.name} is no share of right answers")

    def answers_of(self, tally: Tally) -> int:
        """How many answers such a value is the share of."""
        raise NotImplementedError(f"{self.name} is no share of right answers")

    def classes(self, tally: Tally) -> Tensor | None:
        """The measure of each class or label (C,), NaN where there is none of it; None where there are no classes."""
        return None

    def worst(self, tally: Tally) -> dict[str, Any] | None:
        """The class that comes off worst, and its value."""
        values = self.classes(tally)
        if values is None or len(values) < 2 or bool(values.isnan().all()):
            return None
        index = int(values.nan_to_num(nan=torch.inf).argmin())
        return {"index": index, "value": float(values[index])}

    def reference(self, outputs: Tensor, axis: int) -> Tensor:
        """What a measure against the original needs of its outputs: (n, …)."""
        raise NotImplementedError(f"{self.name} needs nothing of the original")

    def answers(self, outputs: Tensor, axis: int) -> Tensor:
        """What outputs answer, as integers (n, …), for those metrics that have answers."""
        raise NotImplementedError(f"{self.name} has no answers")

    def wanted(self, outputs: Tensor, truth: Tensor, axis: int) -> Tensor:
        """The targets as `changes` takes them."""
        raise NotImplementedError(f"{self.name} has no answers")

    def changes(self, mine: Tensor, theirs: Tensor, wanted: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """Of a file's answers and the original's, and of what is right if that is known, counts to be added up for
        `changed`."""
        raise NotImplementedError(f"{self.name} has no answers")

    def changed(self, counts: Tensor, targets: bool) -> dict[str, Any]:
        """How many answers there are, how many differ from the original's, and where there are targets how many were
        right and are wrong now (`lost`), or the other way (`gained`)."""
        n, differ, lost, gained = (int(count) for count in counts)
        of_targets = (lost, gained) if targets else (None, None)
        return {
            "answers": n,
            "differ": differ,
            "share": differ / max(n, 1),
            "lost": of_targets[0],
            "gained": of_targets[1],
        }

    def sound(self, outputs: Tensor, axis: int) -> Tensor:
        """Which samples (n,) have outputs that the measure can be taken of."""
        return outputs.reshape(len(outputs), -1).isfinite().all(1)


class Averaged:
    """The `value` and `influence` of a measure whose tally keeps of each sample a sum and a count."""

    def value(self, tally: Tally) -> float:
        total, count = tally.kept
        return float(total.sum() / count.sum())

    def influence(self, tally: Tally) -> Tensor:
        total, count = tally.kept
        return (total - self.value(tally) * count) / count.sum()


def counts_of(differ: Tensor, before: Tensor, now: Tensor, counted: Tensor) -> Tensor:
    """The counts of `changes`, from which answers differ, and which were and are right."""
    found: Sequence[Tensor] = (counted, differ & counted, before & ~now & counted, now & ~before & counted)
    return torch.stack([each.sum() for each in found])
