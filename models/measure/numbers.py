"""Measures of outputs that are numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rightrank.models.errors import DataError
from rightrank.models.measure.classes import shown
from rightrank.models.measure.labels import like
from rightrank.models.measure.measure import Averaged, Measure
from rightrank.models.measure.tally import Tally


class Numbers(Measure):
    """Targets are the numbers that outputs should be."""

    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        if targets is None or not like(outputs, targets):
            have = "there are none" if targets is None else f"the targets are {shown(targets)}"
            raise DataError(
                f"The metric {self.name} takes targets of the outputs' shape {shown(outputs)}, and {have}.",
                "Give for each input the numbers that the output should be.",
            )


class Error(Averaged, Numbers):
    """The mean error, absolute (`mae`) or squared (`mse`)."""

    def __init__(self, name: str, power: int) -> None:
        super().__init__(name)
        self.power = power

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        errors = (outputs.double() - truth.reshape(outputs.shape).double()).abs() ** self.power
        flat = errors.reshape(len(errors), -1)
        return Tally.of(flat.sum(1), torch.full((len(flat),), flat.shape[1], dtype=torch.float64))


class Explained(Numbers):
    """R²: the share of the targets' variance that is explained, the mean over outputs (n, outputs); of outputs with
    more axes all numbers together."""

    least = -math.inf

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        truth = truth.reshape(outputs.shape)
        columns = outputs.shape[1] if outputs.ndim == 2 else 1
        rows = outputs.reshape(-1, columns).shape[0] // max(len(outputs), 1)
        kept = (outputs.double().reshape(-1, columns), truth.double().reshape(-1, columns))
        return Tally(len(outputs), torch.arange(len(outputs)).repeat_interleave(rows), kept)

    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        super().fit(outputs, targets, axis)
        assert targets is not None
        columns = targets.reshape(len(targets), -1) if targets.ndim <= 2 else targets.reshape(-1, 1)
        if bool((columns == columns[:1]).all(0).any()):
            raise DataError("An output's targets are all the same: r2 explains how they vary.", "Choose mse or mae.")

    def value(self, tally: Tally) -> float:
        outputs, truth = tally.kept
        return float((1 - (truth - outputs).square().sum(0) / (truth - truth.mean(0)).square().sum(0)).mean())

    def influence(self, tally: Tally) -> Tensor:
        outputs, truth = tally.kept
        errors, spread = (truth - outputs).square(), (truth - truth.mean(0)).square()
        share = errors.sum(0) / spread.sum(0)
        return tally.by_sample(((share * spread - errors) / spread.sum(0)).mean(1))
