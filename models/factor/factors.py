"""Factors: a layer's nested tensors, and what each basis is worth.

They are as the layer's calls take them, so that a cut is the leading part of each. Where one axis alone depends on the
rank, a factor is also a matrix of bases, one a row: that is what is decomposed and what learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rightrank.models.factor.layer import Layer


@dataclass(frozen=True)
class Moved:
    """How a layer of rank r moves the mean and the variance of its outputs, in double. `of_bases` gives what each basis
    adds to either, both (R, C_out): as much as the weight, and so not before it is asked for."""

    of_bases: Callable[[], tuple[Tensor, Tensor]]

    @cached_property
    def shift(self) -> Tensor:
        """(R, C_out), row r-1 the mean of the rank-r layer's outputs minus the whole layer's."""
        means = torch.cumsum(self.of_bases()[0], 0)
        return means - means[-1]

    @cached_property
    def scale(self) -> Tensor:
        """(R, C_out), row r-1 their variance over the whole layer's."""
        variances = torch.cumsum(self.of_bases()[1], 0)
        return torch.where(variances[-1] > 0, variances / variances[-1].clamp_min(1e-300), 1.0)


@dataclass(frozen=True)
class Factors:
    """`tensors` by side in the weight's dtype, at full rank; `sigma` (R,) in double, never rising: the singular
    values, or with a metric the roots of what the bases are worth in it.

    With data also how a cut has `moved` the outputs.
    """

    tensors: Mapping[str, Tensor]
    sigma: Tensor
    moved: Moved | None = None

    def keep(self, layer: Layer, rank: int) -> dict[str, Tensor]:
        """Those of a smaller rank."""
        return {side: leading(self.tensors[side], shape) for side, shape in layer.factor_shapes(rank).items()}


def leading(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The leading part of a tensor that has this shape."""
    return tensor[tuple(slice(size) for size in shape)].contiguous()


def axis_of_bases(layer: Layer, side: str) -> int | None:
    """The one axis of a factor along which its bases lie; None where there are several."""
    return layer.axis_of_bases(side)


def by_basis(layer: Layer, side: str, factor: Tensor) -> Tensor:
    """A factor as a matrix, a basis a row; as it is where it has no such rows."""
    axis = axis_of_bases(layer, side)
    return factor if axis is None else factor.movedim(axis, 0).flatten(1).contiguous()


def in_call(layer: Layer, side: str, rows: Tensor) -> Tensor:
    """The inverse of `by_basis`."""
    axis = axis_of_bases(layer, side)
    if axis is None:
        return rows
    shape = list(layer.factor_shapes(len(rows))[side])
    return rows.reshape(len(rows), *shape[:axis], *shape[axis + 1 :]).movedim(0, axis)
