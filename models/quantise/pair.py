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
from rightrank.models.quantise import metric, steps
from rightrank.models.quantise.bases import Bases
from rightrank.models.quantise.feedback import Feedback, rounded
from rightrank.models.quantise.nested import TINY, rows_steps

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
    limits = torch.finfo(dtype)
    of_bases = torch.where(energy > 0, energy.clamp_min(TINY).rsqrt(), 1.0)
    of_bases = of_bases.clamp(limits.tiny, limits.max).to(dtype).double()
    features, seen = _features(first * of_bases.unsqueeze(1), inputs, width)
    # (o, r·width): all features are of one size, so that none is lost beside a stronger one.
    second = solve(features, seen @ weight.T, LIGHT).T
    made_good = Feedback.of(features)
    scales = steps.of_outputs(second, metric.alone(outputs), made_good.left, grid, sharing, dtype)
    levels = rounded(second, scales.unsqueeze(1), made_good)
    by_basis = levels.reshape(len(weight), -1, width).movedim(1, 0).flatten(1)
    return Bases(first, by_basis.contiguous(), of_bases, scales.repeat_interleave(width))


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
