"""Factors of one rank as levels: what rounding the first loses, the second makes good.

`down` is rounded with its errors made good by what its inputs share; then `up` is solved anew, by least squares from
what the rounded `down` puts out to the whole weight's outputs, and rounded in its turn. In the spatial form (see
`factor.forms.spatial`) what `down` puts out is met by `width` columns of `up`'s kernel, so that an output reads so many
numbers of each basis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rightrank.models.factor.patches import columns_of
from rightrank.models.factor.solve import solve
from rightrank.models.quantise import metric
from rightrank.models.quantise.bases import Bases
from rightrank.models.quantise.feedback import Feedback, rounded
from rightrank.models.quantise.nested import TINY, rows_steps, scales_of
from rightrank.models.quantise.steps import as_stored, held

# A share of features that are all of one size, for those that say the same.
LIGHT = 1e-6


def pair(
    weight: Tensor,
    down: Tensor,
    up: Tensor,
    inputs: Tensor,
    outputs: Tensor,
    grid: float,
    *,
    width: int = 1,
    sharing: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Bases:
    """Levels at a grid for factors `down` (r, i/width) and `up` (r, o·width) of a weight (o, i), which need not be
    what they make: `up` comes as near to it as the rounded `down` allows.

    `inputs` (i, i) is the inputs' covariance, `outputs`, (o, o) or (o,), what an error in them costs. So many
    neighbouring outputs share a scale; scales are as `dtype` holds them.
    """
    weight, down, up, inputs, outputs = (each.double() for each in (weight, down, up, inputs, outputs))
    met, passing = by_columns(inputs, outputs, width)
    coming = Feedback.of(met)
    fine = grid / coming.left.mean().clamp_min(TINY).sqrt()
    first = rounded(down, rows_steps(down, fine, (metric.times(up, passing) * up).sum(1)), coming)
    energy = (metric.times(first.double(), met) * first).sum(1)
    # Features of one size, so that none is lost beside a stronger one.
    unit = torch.where(energy > 0, energy.clamp_min(TINY).rsqrt(), 1.0)
    features, seen = _features(first * unit.unsqueeze(1), inputs, width)
    second = solve(features, seen @ weight.T, LIGHT).T.reshape(len(weight), -1, width)
    made_good = Feedback.of(features)
    price = metric.alone(outputs)
    of_outputs = scales_of(price, sharing, dtype)
    fine = grid / ((price * of_outputs.square()).mean() * made_good.left.mean()).clamp_min(TINY).sqrt()
    relative = (second / of_outputs.reshape(-1, 1, 1)).movedim(1, 0).flatten(1)
    of_bases = as_stored(held(fine.expand(len(first)), relative, torch.float64) * unit, dtype)
    scales = of_outputs.unsqueeze(1) * (of_bases / unit).repeat_interleave(width)
    levels = rounded(second.flatten(1), scales, made_good).reshape(second.shape)
    return Bases(first, levels.movedim(1, 0).flatten(1).contiguous(), of_bases, of_outputs.repeat_interleave(width))


def by_columns(inputs: Tensor, outputs: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The metric of a weight (o, i) as that of its matrix (i/width, o·width): the covariance of the numbers in a column
    of the kernel, and what an error costs for each output at each column. As they are without columns."""
    if width == 1:
        return inputs, outputs
    columns = columns_of(inputs, inputs.new_zeros(len(inputs)), width)
    if outputs.ndim == 2:
        return columns.covariance, torch.kron(outputs, columns.across)
    return columns.covariance, torch.outer(outputs, columns.across.diagonal()).flatten()


def _features(down: Tensor, inputs: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Of what a `down` (r, i/width) puts out at each column of a kernel: the covariance (r·width, r·width), and that
    with the inputs (r·width, i)."""
    rank, count = down.shape
    seen = torch.einsum("kp,pxqy->kxqy", down, inputs.reshape(count, width, count, width))
    features = torch.einsum("kxqy,lq->kxly", seen, down).reshape(rank * width, -1)
    return features, seen.reshape(rank * width, -1)
