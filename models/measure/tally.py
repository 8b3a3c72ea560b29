"""What is kept of samples while a file runs: enough for a measure, its interval, and its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tally:
    """`n` samples, and in `kept` tensors of m rows each, of which each belongs to one sample: `sample` (m,) says to
    which. A sample may have any number of rows: one, or one for each class or position that it has."""

    n: int
    sample: Tensor
    kept: tuple[Tensor, ...]

    @staticmethod
    def of(*kept: Tensor) -> Tally:
        """A row for each sample."""
        return Tally(len(kept[0]), torch.arange(len(kept[0])), kept)

    @staticmethod
    def join(parts: Sequence[Tally]) -> Tally:
        """Several as one, samples in order. What was kept of each has to agree in all but rows."""
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.n)
        sample = torch.cat([part.sample + start for part, start in zip(parts, starts, strict=False)])
        columns = zip(*(part.kept for part in parts), strict=True)
        return Tally(starts[-1], sample, tuple(torch.cat(each) for each in columns))

    def take(self, samples: Tensor) -> Tally:
        """These of its samples (k,), which may be some of them several times."""
        ordered = bool((self.sample[1:] >= self.sample[:-1]).all())
        order = torch.arange(len(self.sample)) if ordered else self.sample.argsort(stable=True)
        lengths = torch.bincount(self.sample, minlength=self.n)
        starts, counts = (lengths.cumsum(0) - lengths)[samples], lengths[samples]
        sample = torch.arange(len(samples)).repeat_interleave(counts)
        within = torch.arange(len(sample)) - (counts.cumsum(0) - counts)[sample]
        rows = order[starts[sample] + within]
        return Tally(len(samples), sample, tuple(each[rows] for each in self.kept))

    def by_sample(self, rows: Tensor) -> Tensor:
        """Of numbers for the rows (m,) their sums for the samples (n,)."""
        return torch.zeros(self.n, dtype=torch.float64).index_add_(0, self.sample, rows.double())


def by_group(groups: Tensor, rows: Tensor, count: int) -> Tensor:
    """Of numbers for rows (m,) their sums (count,) by the group that each row is of."""
    return torch.zeros(count, dtype=torch.float64).index_add_(0, groups, rows.double())
