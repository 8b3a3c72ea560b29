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

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rightrank.models.quantise import metric
from rightrank.models.quantise.bases import Bases
from rightrank.models.quantise.feedback import Feedback, rounded, rounded_at
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
    return next(nested_at(down, up, inputs, outputs, (grid,), sharing=sharing, most=most, dtype=dtype))


def nested_at(
    down: Tensor,
    up: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    grids: Sequence[float],
    *,
    sharing: int = 1,
    most: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Bases]:
    """The same at several grids, which takes little longer for `down`."""
    down, up, inputs, outputs = (each.double() for each in (down, up, inputs, outputs))
    whole = up.T @ down
    down, up = down[:most], up[:most]
    coming, going = metric.feedback(inputs), metric.feedback(outputs)
    of_outputs = scales_of(metric.left(outputs, going), sharing, dtype)
    fine_in = 1 / metric.left(inputs, coming).mean().clamp_min(TINY).sqrt()
    fine_out = 1 / (metric.left(outputs, going) * of_outputs.square()).mean().clamp_min(TINY).sqrt()
    worth = (metric.times(up, outputs) * up).sum(1)
    firsts = rounded_at(down, [rows_steps(down, grid * fine_in, worth) for grid in grids], coming)
    lost = metric.loss(whole, inputs, outputs)
    for grid, first in zip(grids, firsts, strict=True):
        yield _seconds(first, whole.clone(), lost, inputs, outputs, going, grid * fine_out, of_outputs, dtype)


def _seconds(
    first: Tensor,
    rest: Tensor,
    lost: float,
    inputs: Tensor,
    outputs: Tensor,
    going: Feedback | None,
    fine: Tensor,
    of_outputs: Tensor,
    dtype: torch.dtype,
) -> Bases:
    """`up` for rows of `down` that are rounded, of a layer `rest` (n, m) that is worth `lost`."""
    second = torch.zeros(len(first), len(of_outputs), dtype=torch.int8)
    of_bases, losses = (torch.empty(len(first), dtype=torch.float64) for _ in range(2))
    for start in range(0, len(first), TOGETHER):
        rows = slice(start, start + TOGETHER)
        taken = first[rows].double()
        seen = metric.times(taken, inputs)
        inner, cross = seen @ taken.T, seen @ rest.T
        energy = inner.diagonal()
        # A row of nothing but zeros has no `up`: nothing over one.
        wanted = torch.linalg.solve_triangular(inner.tril() + torch.diag((energy <= 0).double()), cross, upper=False)
        of_bases[rows] = held(fine / energy.clamp_min(TINY).sqrt(), wanted / of_outputs, dtype)
        scales = of_bases[rows].unsqueeze(1) * of_outputs
        second[rows] = rounded(wanted, scales, going)
        made = second[rows] * scales
        passed = metric.times(made, outputs)
        pairs = inner * (passed @ made.T)
        # What each takes off the loss: with itself once and with those before it twice.
        gained = 2 * (cross * passed).sum(1) - 2 * pairs.tril(-1).sum(1) - pairs.diagonal()
        losses[rows] = lost - gained.cumsum(0)
        lost -= float(gained.sum())
        rest -= made.T @ taken
    return Bases(first, second, of_bases, of_outputs, losses.clamp_min(0))


def rows_steps(down: Tensor, fine: Tensor, worth: Tensor) -> Tensor:
    """The steps (R, 1) of `down`'s rows, whose scales are not stored: finest is `fine` for a row of `up` that is worth
    one, in (R,); a row that is worth nothing is all zeros."""
    wanted = torch.where(worth > 0, fine / worth.clamp_min(TINY).sqrt(), torch.finfo(torch.float64).max)
    return held(wanted, down, torch.float64).unsqueeze(1)


def scales_of(left: Tensor, sharing: int, dtype: torch.dtype) -> Tensor:
    """The scales (n,) of outputs where an error in each number costs `left` (n,); the largest is one."""
    price = floored(left.reshape(-1, sharing).mean(1))
    return (price.min() / price).sqrt().to(dtype).double().repeat_interleave(sharing)
