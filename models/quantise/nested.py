"""Factors as nested levels: every prefix of the bases is good by itself.

Bases are taken one after the other, a few at a time. A row of `down` is rounded; for the rounded one its row of `up` is
solved anew, by least squares against what the rounded bases before it have left of the layer; then that is rounded. So
what rounding loses, later bases make good, and nothing depends on a later one.

An error in a row of `down` costs what the row of `up` is worth, and the other way round, so that at one grid for all
(see `steps`) a basis that is worth σ² has levels in proportion to σ on both sides, and one below the grid vanishes by
itself. Of the product only the scales' product counts: `down` has one a basis, `up` one an output, of which none
depends on the rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rightrank.models.quantise import metric
from rightrank.models.quantise.bases import Bases
from rightrank.models.quantise.feedback import SINGLE, Feedback, rounded, settled_at
from rightrank.models.quantise.steps import floored, held

# So many bases at a time are rounded after they were all solved: rows of `down` have next to nothing in common, so that
# what rounding one of `up` loses is none of the others' matter.
TOGETHER = 16
TINY = 1e-300


def nested(
    down: Tensor,
    up: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    grid: float,
    *,
    sharing: int = 1,
    most: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Bases:
    """Levels of the factors `down` (R, m) and `up` (R, n) of a layer, strongest basis first, at a grid; of the `most`
    strongest alone, where that is given. They are to be those of the metric (see `factor.metric`), in which no two
    bases have anything in common: what does would be left to none of them.

    `inputs`, (m, m) or (m,), and `outputs`, (n, n) or (n,), are the metric of their product: an error E (n, m) in it
    costs `tr(outputs·E·inputs·Eᵀ)`. So many neighbouring numbers of a row of `up` share a scale; scales are as `dtype`
    holds them.
    """
    return nested_at(down, up, inputs, outputs, (grid,), sharing=sharing, most=most, dtype=dtype)[0]


def nested_at(
    down: Tensor,
    up: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    grids: Sequence[float],
    *,
    coming: Feedback | None = None,
    sharing: int = 1,
    most: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Bases]:
    """The same at several grids, step by step together, which takes little longer. `coming` is the inputs' feedback,
    where it is known already."""
    down, up, inputs, outputs = (each.double() for each in (down, up, inputs, outputs))
    whole = up.T @ down
    down, up = down[:most], up[:most]
    coming, going = coming or metric.feedback(inputs), metric.feedback(outputs)
    of_outputs = scales_of(metric.left(outputs, going), sharing, dtype)
    fine_in = 1 / metric.left(inputs, coming).mean().clamp_min(TINY).sqrt()
    fine_out = 1 / (metric.left(outputs, going) * of_outputs.square()).mean().clamp_min(TINY).sqrt()
    worth = (metric.times(up, outputs) * up).sum(1)
    steps = [rows_steps(down, grid * fine_in, worth) for grid in grids]
    firsts = torch.stack([each.levels for each in settled_at(down, steps, coming)])
    passing = _Passing.of(firsts, whole, inputs)
    lost = max(0.0, float((passing.seen.double() * metric.times(whole.T, outputs)).sum()))
    fines = torch.tensor(grids, dtype=torch.float64) * fine_out
    return _seconds(firsts, passing, lost, outputs, going, fines, of_outputs, dtype)


class _Passing(NamedTuple):
    """What rows of `down` (R, m), rounded, have in common in the metric of their inputs, at each of G grids: with each
    other, `inner` (G, R, R), and with the layer, `cross` (G, R, n); of which `seen` (m, n) is in that metric."""

    inner: Tensor
    cross: Tensor
    seen: Tensor

    @staticmethod
    def of(firsts: Tensor, whole: Tensor, inputs: Tensor) -> _Passing:
        """For levels (G, R, m) and the layer (n, m)."""
        dtype = torch.float32 if whole.shape[1] >= SINGLE else torch.float64
        # Of size one, that no square of it is beyond single precision.
        size = float(metric.alone(inputs).mean().clamp_min(TINY))
        within = (inputs / size).to(dtype)
        seen = metric.times(whole.to(dtype), within).T
        rows = [each.to(dtype) for each in firsts]
        inner = torch.stack([(metric.times(each, within) @ each.T).double() * size for each in rows])
        cross = torch.stack([(each @ seen).double() * size for each in rows])
        return _Passing(inner, cross, seen * size)


def _seconds(
    firsts: Tensor,
    passing: _Passing,
    lost: float,
    outputs: Tensor,
    going: Feedback | None,
    fines: Tensor,
    of_outputs: Tensor,
    dtype: torch.dtype,
) -> list[Bases]:
    """`up` for rows of `down` that are rounded, of a layer that is worth `lost`."""
    grids, count, _ = firsts.shape
    seconds = torch.zeros(grids, count, len(of_outputs), dtype=torch.int8)
    made = torch.zeros(seconds.shape, dtype=torch.float64)
    of_bases, losses = (torch.empty(grids, count, dtype=torch.float64) for _ in range(2))
    left = torch.full((grids, 1), lost, dtype=torch.float64)
    for start in range(0, count, TOGETHER):
        rows = slice(start, start + TOGETHER)
        inner = passing.inner[:, rows, rows]
        # What the layer has beside the bases before these.
        cross = passing.cross[:, rows] - passing.inner[:, rows, :start] @ made[:, :start]
        energy = inner.diagonal(dim1=1, dim2=2)
        # A row of nothing but zeros has no `up`: nothing over one.
        ones = torch.diag_embed((energy <= 0).double())
        wanted = torch.linalg.solve_triangular(inner.tril() + ones, cross, upper=False)
        finest = (fines.unsqueeze(1) / energy.clamp_min(TINY).sqrt()).flatten()
        scales = held(finest, (wanted / of_outputs).flatten(0, 1), dtype)
        of_bases[:, rows] = scales.reshape(energy.shape)
        by_number = scales.unsqueeze(1) * of_outputs
        levels = rounded(wanted.flatten(0, 1), by_number, going)
        seconds[:, rows] = levels.reshape(wanted.shape)
        some = made[:, rows] = (levels * by_number).reshape(wanted.shape)
        passed = metric.times(some, outputs)
        pairs = inner * (passed @ some.mT)
        # What each takes off the loss: with itself once and with those before it twice.
        gained = 2 * (cross * passed).sum(2) - 2 * pairs.tril(-1).sum(2) - pairs.diagonal(dim1=1, dim2=2)
        losses[:, rows] = left - gained.cumsum(1)
        left = left - gained.sum(1, keepdim=True)
    several = zip(firsts, seconds, of_bases, losses.clamp_min(0), strict=True)
    return [Bases(first, second, scales, of_outputs, lost) for first, second, scales, lost in several]


def rows_steps(down: Tensor, fine: Tensor, worth: Tensor) -> Tensor:
    """The steps (R, 1) of `down`'s rows, whose scales are not stored: finest is `fine` for a row of `up` that is worth
    one, in (R,); a row that is worth nothing is all zeros."""
    wanted = torch.where(worth > 0, fine / worth.clamp_min(TINY).sqrt(), torch.finfo(torch.float64).max)
    return held(wanted, down, torch.float64).unsqueeze(1)


def scales_of(left: Tensor, sharing: int, dtype: torch.dtype) -> Tensor:
    """The scales (n,) of outputs where an error in each number costs `left` (n,); the largest is one."""
    price = floored(left.reshape(-1, sharing).mean(1))
    return (price.min() / price).sqrt().to(dtype).double().repeat_interleave(sharing)
