"""Error feedback: what rounding one column of a weight loses, the columns still to come make good (arXiv:2210.17323).

An error E (o, i) in a layer's weight costs `Σ_o g_o E_o C E_oᵀ`, where C is the covariance of the inputs and g_o what
an error in an output costs. Columns are rounded one after the other; each moves the columns after it so that, for the
error that it has made, the cost is least. What then cannot be made good any more is the input's variance *given* those
after it: the squares of a Cholesky factor's diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Added to a covariance, as a share of its mean diagonal: calibration inputs do not show all of it.
RIDGE = 1e-2
# So many columns at a time wait for each other; what those before them lost is a product of matrices.
BLOCK = 64
# So many numbers at a time where nothing waits; and no more at once of one weight at several steps.
NUMBERS, TOGETHER = 1 << 22, 1 << 26
LARGEST = 127
# Each try has ten times the ridge of the one before.
TRIES = 20


@dataclass(frozen=True)
class Feedback:
    """`moves` (i, i), upper triangular: row j over its diagonal says by how much the columns after j are moved for what
    column j lost. `left` (i,): the variance of each input that later ones cannot make good. In double."""

    moves: Tensor
    left: Tensor

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
                    return Feedback(upper, upper.diagonal() ** -2)
            ridge *= 10
        unity = torch.eye(len(covariance), dtype=torch.float64)
        return Feedback(unity, unity.diagonal())


def rounded(weight: Tensor, steps: Tensor, feedback: Feedback | None = None) -> Tensor:
    """The levels (o, i), int8, of a weight (o, i) at `steps`, above zero, of each output, (o, 1), or of each number,
    (o, i); both in double. Levels beyond ±127 are cut there."""
    steps = steps.expand(weight.shape)
    if feedback is None:
        levels = torch.empty(weight.shape, dtype=torch.int8)
        size = max(1, NUMBERS // max(weight.shape[1], 1))
        for some, at, made in zip(*(torch.split(each, size) for each in (weight, steps, levels)), strict=True):
            made.copy_((some / at).nan_to_num_().round_().clamp_(-LARGEST, LARGEST))
        return levels
    # By columns, each of which then lies together.
    rest, steps, moves = weight.T.clone(), steps.T.contiguous(), feedback.moves
    levels = torch.empty_like(rest)
    for start in range(0, len(rest), BLOCK):
        end = min(start + BLOCK, len(rest))
        lost = torch.empty(end - start, rest.shape[1], dtype=torch.float64)
        for column in range(start, end):
            torch.round(rest[column] / steps[column], out=levels[column]).clamp_(-LARGEST, LARGEST)
            lost[column - start] = (rest[column] - levels[column] * steps[column]) / moves[column, column]
            rest[column + 1 : end].addr_(moves[column, column + 1 : end], lost[column - start], alpha=-1)
        rest[end:] -= moves[start:end, end:].T @ lost
    return levels.nan_to_num().T.to(torch.int8).contiguous()


def rounded_at(weight: Tensor, several: Sequence[Tensor], feedback: Feedback | None = None) -> Iterator[Tensor]:
    """The same at several `steps`, which takes little longer than at one: what takes time is to go through columns."""
    if feedback is None or len(several) * weight.numel() > TOGETHER:
        for steps in several:
            yield rounded(weight, steps, feedback)
        return
    rows, steps = weight.repeat(len(several), 1), torch.cat([each.expand(len(weight), -1) for each in several])
    yield from rounded(rows, steps, feedback).chunk(len(several))
