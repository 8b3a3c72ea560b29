"""Factors rounded, nothing made good: those of grouped convolutions, of which a basis is one in every group."""

from __future__ import annotations

import torch
from torch import Tensor

from rightrank.models.quantise.bases import Bases
from rightrank.models.quantise.feedback import rounded
from rightrank.models.quantise.nested import TINY, rows_steps, scales_of
from rightrank.models.quantise.steps import as_stored, held


def apart(
    down: Tensor,
    up: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    grid: float,
    *,
    groups: int,
    most: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Bases:
    """Levels at a grid of factors `down` (R, m) and `up` (R, n), whose rows hold a basis of each of `groups`, one after
    the other: of inputs with these variances (m,) and outputs in which an error costs so much, (n,)."""
    down, up, inputs, outputs = (each.double() for each in (down, up, inputs, outputs))
    of_groups = [(each * costs).reshape(len(each), groups, -1) for each, costs in ((down**2, inputs), (up**2, outputs))]
    passed, worth = (each.sum(2) for each in of_groups)
    energies = (passed * worth).sum(1)
    down, up, passed, worth = (each[:most] for each in (down, up, passed, worth))
    of_outputs = scales_of(outputs, 1, dtype)
    fine_in = grid / inputs.mean().clamp_min(TINY).sqrt()
    fine_out = grid / (outputs * of_outputs.square()).mean().clamp_min(TINY).sqrt()
    steps = rows_steps(down, fine_in, worth.mean(1))
    first = rounded(down, steps)
    up_steps = held(fine_out / passed.mean(1).clamp_min(TINY).sqrt(), up / of_outputs, torch.float64).unsqueeze(1)
    of_bases = as_stored((steps * up_steps).squeeze(1), dtype)
    up_steps = of_bases.unsqueeze(1) / steps
    second = rounded(up, up_steps * of_outputs)
    lost = _lost(down - first * steps, inputs, worth) + _lost(up - second * up_steps * of_outputs, outputs, passed)
    kept = energies[: len(down)]
    # What is left out, and of what is kept no more than all of it.
    losses = energies.sum() - kept.cumsum(0) + torch.minimum(lost, kept).cumsum(0)
    return Bases(first, second, of_bases, of_outputs, losses.clamp_min(0))


def _lost(error: Tensor, costs: Tensor, worth: Tensor) -> Tensor:
    """What errors in rows cost, in (R,), where in each group the other factor is worth so much, (R, g)."""
    return ((error**2 * costs).reshape(*worth.shape, -1).sum(2) * worth).sum(1)
