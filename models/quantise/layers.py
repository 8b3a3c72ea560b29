"""A layer as levels: whole, or as factors, in whichever form it has.

A layer's weight is here a regression's matrix (o, i), from i inputs to o outputs, and `normal` (i, i) the covariance of
these inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rightrank.models.factor.factors import axis_of_bases, by_basis, in_call
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer
from rightrank.models.quantise.bases import Bases
from rightrank.models.quantise.pair import pair
from rightrank.models.quantise.scaled import Scaled
from rightrank.models.quantise.whole import rounded_at, whole_at

DOWN, UP = "down", "up"


def whole_of(
    layer: Layer,
    matrix: Tensor,
    normal: Tensor,
    gradients: Gradients | None,
    grid: float,
    alike: bool = False,
) -> Scaled:
    """The weight at a grid; where no `gradients` say what an error costs, in eight bits. With `alike` all outputs have
    one scale."""
    sharing = layer.outputs if alike else 1
    if gradients is None:
        made = rounded_at(matrix, sharing=sharing)
    else:
        (made,) = whole_at(matrix, normal, _prices(gradients, matrix), [grid], sharing=sharing)
    scales = made.scales.reshape(-1, *(1,) * (len(layer.shape) - 1))
    return Scaled(made.levels.reshape(layer.shape).contiguous(), scales)


def pair_of(
    layer: Layer,
    matrix: Tensor,
    factors: Mapping[str, Tensor],
    normal: Tensor,
    gradients: Gradients,
    grid: float,
    alike: bool = False,
) -> dict[str, Scaled]:
    """Factors of one rank at a grid, by side: `factors` say where `down` looks; `up` is solved anew, to come as near to
    the matrix as it can."""
    down, up = (by_basis(layer, side, factors[side]).double() for side in (DOWN, UP))
    # How many numbers of each basis an output reads.
    width = layer.shape[3] if layer.form.name == "spatial" else 1
    sharing, outputs = layer.outputs if alike else 1, _prices(gradients, matrix)
    return _in_call(layer, pair(matrix, down, up, normal, outputs, grid, width=width, sharing=sharing))


def _prices(gradients: Gradients, matrix: Tensor) -> Tensor:
    """What an error in the outputs costs: as a matrix (o, o) where it is known so, else the same for all, (o,)."""
    if gradients.side == "outputs" and len(gradients.square) == len(matrix):
        return gradients.square.double()
    known = gradients.far if gradients.side == "inputs" else float(gradients.square.diagonal().mean())
    return torch.full((len(matrix),), known, dtype=torch.float64)


def _in_call(layer: Layer, found: Bases) -> dict[str, Scaled]:
    """Levels of factors by side, as their calls take them."""
    one = in_call(layer, UP, found.of_outputs.unsqueeze(0))
    # Of an output's numbers, which have one scale, the first.
    one = one[(slice(None), slice(None), *(slice(1),) * (one.ndim - 2))]
    down = in_call(layer, DOWN, found.down).contiguous()
    axis = axis_of_bases(layer, DOWN)
    of_bases = found.of_bases.reshape([-1 if dim == axis else 1 for dim in range(down.ndim)])
    return {DOWN: Scaled(down, of_bases), UP: Scaled(in_call(layer, UP, found.up).contiguous(), one)}
