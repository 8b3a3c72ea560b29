"""A layer as levels: whole, or as factors, in whichever form it has.

A layer's weight is here a regression's matrix (g, o, i), from i inputs to o outputs in each of its groups, and `normal`
(g, i, i) the covariance of these inputs. Of a transposed convolution, `turned`, an input makes a patch of outputs, so
that neighbouring ones are of one channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rightrank.models.factor.factors import axis_of_bases, by_basis, in_call
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer
from rightrank.models.quantise import metric
from rightrank.models.quantise.apart import apart
from rightrank.models.quantise.bases import Bases
from rightrank.models.quantise.pair import pair
from rightrank.models.quantise.scaled import Scaled
from rightrank.models.quantise.whole import Whole, rounded_at, whole_at

DOWN, UP = "down", "up"


def whole_of(
    layer: Layer,
    matrix: Tensor,
    normal: Tensor,
    gradients: Gradients | None,
    grids: Sequence[float],
    turned: bool = False,
    dtype: torch.dtype = torch.float32,
    alike: bool = False,
) -> list[Scaled]:
    """The weight at each of some grids; where no `gradients` say what an error costs, rounded to eight bits at all.
    With `alike` all outputs have one scale, which those of several groups, or of patches, cannot."""
    sharing = layer.outputs if alike else _sharing(layer, turned)
    if gradients is None:
        rounded = [rounded_at(matrix.flatten(0, 1), sharing=sharing, dtype=dtype)]
        return [_as_weight(layer, rounded, sharing, turned)] * len(grids)
    several: list[list[Whole]] = [[] for _ in grids]
    for each, inputs, outputs in zip(matrix, normal, _prices(gradients, matrix), strict=True):
        made = whole_at(each, inputs, outputs, grids, sharing=sharing, dtype=dtype)
        for found, groups in zip(made, several, strict=True):
            groups.append(found)
    return [_as_weight(layer, groups, sharing, turned) for groups in several]


def _as_weight(layer: Layer, groups: Sequence[Whole], sharing: int, turned: bool) -> Scaled:
    """The rows of each group as the layer's weight."""
    levels, scales = (torch.cat([getattr(each, name) for each in groups]) for name in ("levels", "scales"))
    if turned:
        levels, scales = levels.T, scales[::sharing].unsqueeze(0)
    shape = (*scales.shape, *(1,) * (len(layer.shape) - scales.ndim))
    return Scaled(levels.reshape(layer.shape).contiguous(), scales.reshape(shape))


def pair_of(
    layer: Layer,
    matrix: Tensor,
    factors: Mapping[str, Tensor],
    normal: Tensor,
    gradients: Gradients,
    grid: float,
    turned: bool = False,
    dtype: torch.dtype = torch.float32,
    alike: bool = False,
) -> dict[str, Scaled]:
    """Factors of one rank at a grid, by side: `factors` say where `down` looks; `up` is solved anew, to come as near to
    the matrix as it can."""
    down, up = (by_basis(layer, side, factors[side]).double() for side in (DOWN, UP))
    if len(matrix) > 1:
        return _in_call(layer, _grouped(down, up, normal, gradients, matrix, grid, dtype))
    outputs = _prices(gradients, matrix)[0]
    width, sharing = _width(layer), layer.outputs if alike else _sharing(layer, turned)
    found = pair(matrix[0], down, up, normal[0], outputs, grid, width=width, sharing=sharing, dtype=dtype)
    return _in_call(layer, found)


def loss_of(error: Tensor, normal: Tensor, gradients: Gradients) -> float:
    """What an error (g, o, i) in a matrix costs, in the unit in which bases are worth something."""
    pairs = zip(error.double(), normal.double(), _prices(gradients, error), strict=True)
    return sum(metric.loss(each, inputs, outputs) for each, inputs, outputs in pairs)


def _prices(gradients: Gradients, matrix: Tensor) -> tuple[Tensor, ...]:
    """What an error in the outputs costs, for each group: as a matrix where it is known so, else the same for all."""
    groups, outputs, _ = matrix.shape
    if gradients.side == "outputs" and len(gradients.square) == groups * outputs:
        starts = range(0, groups * outputs, outputs)
        return tuple(gradients.square[s : s + outputs, s : s + outputs].double() for s in starts)
    known = gradients.far if gradients.side == "inputs" else float(gradients.square.diagonal().mean())
    return (torch.full((outputs,), known, dtype=torch.float64),) * groups


def _grouped(
    down: Tensor,
    up: Tensor,
    normal: Tensor,
    gradients: Gradients,
    matrix: Tensor,
    grid: float,
    dtype: torch.dtype,
) -> Bases:
    inputs = normal.diagonal(dim1=1, dim2=2).flatten().double()
    outputs = torch.cat([metric.alone(each) for each in _prices(gradients, matrix)])
    return apart(down, up, inputs, outputs, grid, groups=len(matrix), dtype=dtype)


def _in_call(layer: Layer, found: Bases) -> dict[str, Scaled]:
    """Levels of factors by side, as their calls take them."""
    one = in_call(layer, UP, found.of_outputs.unsqueeze(0))
    # Of an output's numbers, which have one scale, the first.
    one = one[(slice(None), slice(None), *(slice(1),) * (one.ndim - 2))]
    down = in_call(layer, DOWN, found.down).contiguous()
    axis = axis_of_bases(layer, DOWN)
    of_bases = found.of_bases.reshape([-1 if dim == axis else 1 for dim in range(down.ndim)])
    return {DOWN: Scaled(down, of_bases), UP: Scaled(in_call(layer, UP, found.up).contiguous(), one)}


def _width(layer: Layer) -> int:
    """How many numbers of each basis an output reads."""
    return layer.shape[3] if layer.form.name == "spatial" else 1


def _sharing(layer: Layer, turned: bool) -> int:
    """How many neighbouring rows of a matrix are of one channel."""
    return math.prod(layer.shape[2:]) if turned else 1
