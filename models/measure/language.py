"""Measures of outputs that are scores of the next token, or of any class at each position."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.measure.classes import Classes
from rightrank.models.measure.interval import Interval, skewed
from rightrank.models.measure.tally import Tally
from rightrank.models.program.shapes import IGNORED, counted, positions

TINY = 1e-30


class Mean(Classes):
    """The mean of something for each position."""

    def value(self, tally: Tally) -> float:
        total, count = tally.kept
        return float(total.sum() / count.sum())

    def influence(self, tally: Tally) -> Tensor:
        total, count = tally.kept
        return (total - Mean.value(self, tally) * count) / count.sum()


class Perplexity(Mean):
    """The exponential of the mean negative logarithm of the right token's probability."""

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        logs, wanted = log_probabilities(outputs, axis), truth.reshape(len(truth), -1)
        here = counted(weights, *wanted.shape) & (wanted != IGNORED)
        lost = -logs.gather(-1, wanted.clamp_min(0)[..., None])[..., 0]
        return Tally.of(lost.masked_fill(~here, 0).sum(1), here.sum(1).double())

    def value(self, tally: Tally) -> float:
        mean = super().value(tally)
        return math.exp(mean) if mean < 700 else math.inf

    def influence(self, tally: Tally) -> Tensor:
        return super().influence(tally) * self.value(tally)

    def interval(self, tally: Tally) -> Interval:
        mean = Mean.value(self, tally)
        low, high = skewed(mean, Mean.influence(self, tally))
        return (None, None) if low is None or high is None else (math.exp(low), math.exp(min(high, 700)))


class Divergence(Mean):
    """The mean divergence of the original's probabilities from the file's (Kullback and Leibler), in nats."""

    def reference(self, outputs: Tensor, axis: int) -> Tensor:
        return positions(outputs, axis)

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        theirs, mine = log_probabilities(truth, -1), log_probabilities(outputs, axis)
        apart = torch.where(theirs.isfinite(), theirs.exp() * (theirs - mine), 0.0).sum(-1)
        here = counted(weights, *apart.shape)
        return Tally.of(apart.masked_fill(~here, 0).sum(1), here.sum(1).double())


def log_probabilities(outputs: Tensor, axis: int) -> Tensor:
    """(n, P, C) in double precision. Outputs are logits, or where they sum to 1 the probabilities themselves."""
    found = positions(outputs, axis).double()
    if bool((found >= 0).all()) and bool(((found.sum(-1) - 1).abs() < 1e-3).all()):
        return found.clamp_min(TINY).log()
    return functional.log_softmax(found, -1)
