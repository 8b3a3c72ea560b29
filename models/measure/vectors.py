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
# How many places before and after the last of the nearest tell how often that is shared.
AROUND = 5
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
        """By the pairs of samples that the value is made of, each counted once.

        A list of ten ends at its last: a sample that comes nearer takes the last one's place, and where that was shared
        it is lost. So to first order (Bahadur, Ann. Math. Statist. 37, 1966, of quantiles; the distance of the last is
        one) the value differs from the world's by the sum over all j and i, of n samples, less its mean, of

            ψ_ji / 10n,   ψ_ji = [i on both lists of j] - q [i on its one list] - q [i on its other list],

        where lists end at the distances within which the whole world would have ten, and q is how often the last of one
        list is on the other as well. That is a sum over pairs of what they do, S_ij = ψ_ij + ψ_ji; s_i be the sum of
        those that i is in. It varies by what samples do each alone and by what two do only together (Hoeffding, Ann.
        Math. Statist. 19, 1948), and of the squares of all s_i the mean has the second twice, once for each of the two
        (as the jackknife has, Efron and Stein, Ann. Statist. 9, 1981). Less the squares of all S_ij it has it once.
        With n(n - 1) / (n - 2)(n - 3) that is the variance, without bias, where pairs do nothing on average, as nearly
        holds here.

        The jackknife itself would not do: what takes the place of a sample that is left out depends on many others, and
        what so many do together it counts as often as they are.
        """
        n, (mine, theirs) = tally.n, (nearest(each, NEAREST + AROUND) for each in tally.kept)
        first, second, amount = pairs(mine[:, :NEAREST], theirs[:, :NEAREST], last_shared(mine, theirs))
        sums = torch.zeros(n, dtype=torch.float64)
        sums.index_add_(0, first, amount).index_add_(0, second, amount)
        sums -= sums.mean()
        squares, twice = float(sums.square().sum()), float(amount.square().sum())
        if not squares > 0:
            return sums
        # Pairs are at most half of it, but by chance.
        variance = max(squares - twice, squares / 2) * n * (n - 1) / ((n - 2) * (n - 3))
        # `deviation` has a factor of its own, for samples that count alone.
        return sums * math.sqrt(variance * (n - 1) / n / squares) / (n * NEAREST)


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


def last_shared(a: Tensor, b: Tensor) -> float:
    """How often the last of the nearest by a (n, k), or by b, is among the nearest by the other as well: the mean over
    some places before and after the last, since one place alone says little."""
    around = min(a.shape[1] - NEAREST, AROUND)
    fewer, more = (common(a[:, :count], b[:, :count]) for count in (NEAREST - around, NEAREST + around))
    return float((more - fewer).double().mean()) / (4 * around)


def pairs(a: Tensor, b: Tensor, shared: float) -> tuple[Tensor, Tensor, Tensor]:
    """Every two samples (m,), (m,) of which one is on the other's list a or b (n, k), and what they do to how many all
    lists share (m,): 1 for each sample that is on both lists of the other, less `shared` for each list that one is on.
    """
    n, k = a.shape
    on_both = (a[:, :, None] == b[:, None, :]).any(2).double()
    whose = torch.arange(n).repeat_interleave(k).repeat(2)
    found = torch.cat([a.flatten(), b.flatten()])
    amounts = torch.cat([on_both.flatten() - shared, torch.full((n * k,), -shared, dtype=torch.float64)])
    keys, of = torch.unique(torch.minimum(whose, found) * n + torch.maximum(whose, found), return_inverse=True)
    return keys // n, keys % n, torch.zeros(len(keys), dtype=torch.float64).index_add_(0, of, amounts)
