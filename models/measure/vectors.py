"""Measures of outputs that are vectors whose directions say what is alike: embeddings, against the original's."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.errors import DataError
from rightrank.models.measure.interval import Interval
from rightrank.models.measure.measure import Averaged, Measure
from rightrank.models.measure.tally import Tally
from rightrank.models.program.shapes import counted, positions

NEAREST = 10
# Rows of the table of all similarities that are in memory at once.
CHUNK = 256


class Vectors(Measure):
    """Outputs have directions."""

    def fit(self, outputs: Tensor, targets: Tensor | None, axis: int) -> None:
        if outputs.ndim < 2 or outputs.shape[axis] < 2:
            raise DataError(
                f"The metric {self.name} is of vectors, and the model gives one number.", "Choose agreement or mse."
            )

    def reference(self, outputs: Tensor, axis: int) -> Tensor:
        return outputs if outputs.is_floating_point() else outputs.float()


class Cosine(Averaged, Vectors):
    """The mean cosine between a file's vectors and the original's: of one for each sample, or for each token."""

    least = -1.0

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        mine, theirs = (positions(each, axis).double() for each in (outputs, truth))
        alike = functional.cosine_similarity(mine, theirs, dim=-1).nan_to_num(nan=0.0)
        here = counted(weights, *alike.shape)
        return Tally.of(alike.masked_fill(~here, 0).sum(1), here.sum(1).double())


class Retrieval(Vectors):
    """Of the ten samples whose vectors are nearest to a sample's, the share that is the same by a file's vectors and by
    the original's; the mean over all samples of a set."""

    def tally(self, outputs: Tensor, truth: Tensor, axis: int, weights: Tensor | None = None) -> Tally:
        return Tally.of(*(unit(each) for each in (outputs, truth)))

    # Of fewer, the nearest to each are all the others.
    fewest = NEAREST + 2

    def value(self, tally: Tally) -> float:
        self.enough(tally.n)
        mine, theirs = (nearest(each, NEAREST) for each in tally.kept)
        return float(common(mine, theirs).sum().double() / mine.numel())

    def interval(self, tally: Tally) -> Interval:
        return super().interval(tally) if tally.n > NEAREST + 2 else (None, None)

    def influence(self, tally: Tally) -> Tensor:
        """What would change without each sample: for the others the next takes its place where it was among them.

        That is the jackknife, which counts twice what two samples do together (Efron and Stein, Ann. Statist. 9, 1981),
        and here it is always two: one is among the other's nearest or is not. So its variance is halved.
        """
        n = tally.n
        mine, theirs = (nearest(each, NEAREST + 1) for each in tally.kept)
        a, b = mine[:, :NEAREST], theirs[:, :NEAREST]
        shared = common(a, b)
        total = shared.sum()
        change = torch.zeros(n, dtype=torch.float64)
        for lists, other in ((mine, theirs), (theirs, mine)):
            for place in range(NEAREST):
                gone = lists[:, place]
                there = (other[:, :NEAREST] == gone[:, None]).any(1)
                if other is mine:
                    new_a, new_b, once = without(other, gone), without(lists, gone), ~there
                else:
                    new_a, new_b, once = without(lists, gone), without(other, gone), torch.ones_like(there)
                change.index_add_(0, gone[once], (common(new_a, new_b) - shared)[once].double())
        left_out = (total - shared + change) / ((n - 1) * NEAREST)
        return (left_out.mean() - left_out) * (n - 1) / n / math.sqrt(2)


def unit(vectors: Tensor) -> Tensor:
    """All that there is of each sample, as one vector of length 1; zero where that is not finite."""
    flat = vectors.reshape(len(vectors), -1).double()
    return functional.normalize(flat.nan_to_num(0, 0, 0), dim=1)


def nearest(vectors: Tensor, count: int) -> Tensor:
    """Which others (n, count) are nearest to each of n vectors, the nearest first."""
    found = []
    for start in range(0, len(vectors), CHUNK):
        alike = vectors[start : start + CHUNK] @ vectors.T
        alike[torch.arange(len(alike)), torch.arange(start, start + len(alike))] = -torch.inf
        found.append(alike.topk(min(count, len(vectors) - 1)).indices)
    return torch.cat(found)


def common(a: Tensor, b: Tensor) -> Tensor:
    """How many each row of a (n, k) has in common with that of b."""
    return (a[:, :, None] == b[:, None, :]).any(2).sum(1)


def without(lists: Tensor, gone: Tensor) -> Tensor:
    """The first ten of each row of lists (n, 11) when one has gone."""
    hit = lists == gone[:, None]
    hit[:, -1] |= ~hit.any(1)
    return lists[~hit].reshape(len(lists), -1)
