"""Error feedback: what rounding one column of a weight loses, the columns still to come make good (arXiv:2210.17323).

An error E (o, i) in a layer's weight costs `Σ_o g_o E_o C E_oᵀ`, where C is the covariance of the inputs and g_o what
an error in an output costs. Columns are rounded one after the other; each moves the columns after it so that, for the
error that it has made, the cost is least. What then cannot be made good any more is the input's variance *given* those
after it: the squares of a Cholesky factor's diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Added to a covariance, as a share of its mean diagonal: calibration inputs do not show all of it.
RIDGE = 1e-2
# So many columns at a time wait for each other; what those before them missed is a product of matrices, of so many rows
# at a time that they stay in the processor's cache.
BLOCK, ROWS = 128, 1 << 10
# Of so many inputs these products, and sums over as many, are in single precision: what that leaves out is far below
# what rounding does.
SINGLE = 1 << 9
# So many numbers at a time where nothing waits; and no more at once of one weight at several steps.
NUMBERS, TOGETHER = 1 << 22, 1 << 22
LARGEST = 127
# Each try has ten times the ridge of the one before.
TRIES = 20


@dataclass(frozen=True)
class Feedback:
    """`moves` (i, i), lower triangular with a diagonal of one: column j below its diagonal says by how much the columns
    after j are moved for what column j missed. `left` (i,): the variance of each input that later ones cannot make
    good. `ridge` was added to the covariance's diagonal; None where these are no covariance's. In double."""

    moves: Tensor
    left: Tensor
    ridge: float | None = None

    @cached_property
    def single(self) -> Tensor:
        """`moves` in single precision."""
        return self.moves.float()

    @staticmethod
    def of(covariance: Tensor) -> Feedback:
        """For inputs of this covariance (i, i); of one that is not finite, or all zeros, for any."""
        covariance = covariance.double()
        mean = float(covariance.diagonal().mean())
        ridge = RIDGE * mean
        for _ in range(TRIES if mean > 0 and bool(covariance.isfinite().all()) else 0):
            damped = covariance.clone()
            damped.diagonal().add_(ridge)
            root, failed = torch.linalg.cholesky_ex(damped)
            if not failed:
                upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(root), upper=True)
                if not failed:
                    diagonal = upper.diagonal()
                    return Feedback((upper / diagonal.unsqueeze(1)).T.contiguous(), diagonal**-2, ridge)
            ridge *= 10
        unity = torch.eye(len(covariance), dtype=torch.float64)
        return Feedback(unity, unity.diagonal())


class Settled(NamedTuple):
    """The levels (o, i), int8, of a weight, and what each of its columns `missed` when its turn came, (i, o), in
    double; None where nothing was made good."""

    levels: Tensor
    missed: Tensor | None = None


def rounded(weight: Tensor, steps: Tensor, feedback: Feedback | None = None) -> Tensor:
    """The levels (o, i), int8, of a weight (o, i) at `steps`, above zero, of each output, (o, 1), or of each number,
    (o, i); both in double. Levels beyond ±127 are cut there."""
    return settled(weight, steps, feedback).levels


def settled(weight: Tensor, steps: Tensor, feedback: Feedback | None = None) -> Settled:
    """The same, with what was missed."""
    if feedback is None:
        steps = steps.expand(weight.shape)
        levels = torch.empty(weight.shape, dtype=torch.int8)
        size = max(1, NUMBERS // max(weight.shape[1], 1))
        for some, at, made in zip(*(torch.split(each, size) for each in (weight, steps, levels)), strict=True):
            made.copy_((some / at).nan_to_num_().round_().clamp_(-LARGEST, LARGEST))
        return Settled(levels)
    levels, missed = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.T.shape, dtype=torch.float64)
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        made = _settled(weight[rows], steps[rows], feedback)
        levels[rows].copy_(made[0].nan_to_num_().T)
        missed[:, rows] = made[1]
    return Settled(levels, missed)


def _settled(weight: Tensor, steps: Tensor, feedback: Feedback) -> tuple[Tensor, Tensor]:
    """Levels and what was missed, of a few rows, by columns, each of which then lies together."""
    rest = weight.T.clone(memory_format=torch.contiguous_format)
    levels, missed = torch.empty_like(rest), torch.empty_like(rest)
    moves, wide = feedback.moves, len(rest) >= SINGLE
    # Small steps in numpy, which begins sooner.
    by_column = [each.numpy() for each in (rest, levels, missed)]
    step_of = steps.T.contiguous().expand(rest.shape).numpy()
    with np.errstate(all="ignore"):
        for start in range(0, len(rest), BLOCK):
            end = min(start + BLOCK, len(rest))
            for column in range(start, end):
                if column > start:
                    rest[column].addmv_(missed[start:column].T, moves[column, start:column], alpha=-1)
                number, level, off = (each[column] for each in by_column)
                step = step_of[column]
                np.rint(np.divide(number, step, out=level), out=level)
                np.minimum(np.maximum(level, -LARGEST, out=level), LARGEST, out=level)
                np.subtract(number, np.multiply(level, step, out=off), out=off)
            if end == len(rest):
                break
            if wide:
                rest[end:] -= feedback.single[end:, start:end] @ missed[start:end].float()
            else:
                rest[end:].addmm_(moves[end:, start:end], missed[start:end], alpha=-1)
    return levels, missed


def settled_at(weight: Tensor, several: Sequence[Tensor], feedback: Feedback | None = None) -> Iterator[Settled]:
    """The same at several `steps`, which of a small weight takes little longer than at one: what takes time is to go
    through columns."""
    if feedback is None or len(several) * weight.numel() > TOGETHER:
        for steps in several:
            yield settled(weight, steps, feedback)
        return
    rows, steps = weight.repeat(len(several), 1), torch.cat([each.expand(len(weight), -1) for each in several])
    made = settled(rows, steps, feedback)
    assert made.missed is not None
    yield from map(Settled, made.levels.chunk(len(several)), made.missed.chunk(len(several), 1))
