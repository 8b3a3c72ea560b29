"""Factors: a layer's nested tensors, and what each basis is worth.

They are as the layer's calls take them, so that a cut is the leading part of each. Where one axis alone depends on the
rank, a factor is also a matrix of bases, one a row: that is what is decomposed and what learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rightrank.models.factor.layer import Layer


@dataclass(frozen=True)
class Factors:
    """`tensors` by side in the weight's dtype, at full rank; `sigma` (R,) in double, never rising: the singular
    values, or with a metric the roots of what the bases are worth in it.

    With data also, both (R×C_out) and in double: `shift`, row r-1 the mean of the rank-r layer's outputs minus the
    whole layer's, and `scale`, its variance over the whole layer's.
    """

    tensors: Mapping[str, Tensor]
    sigma: Tensor
    shift: Tensor | None = None
    scale: Tensor | None = None

    def keep(self, layer: Layer, rank: int) -> dict[str, Tensor]:
        """Those of a smaller rank."""
        return {side: leading(self.tensors[side], shape) for side, shape in layer.factor_shapes(rank).items()}


def leading(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The leading part of a tensor that has this shape."""
    return tensor[tuple(slice(size) for size in shape)].contiguous()


def axis_of_bases(layer: Layer, side: str) -> int | None:
    """The one axis of a factor along which its bases lie; None where there are several."""
    one, two = layer.factor_shapes(1)[side], layer.factor_shapes(2)[side]
    axes = [axis for axis, (less, more) in enumerate(zip(one, two, strict=True)) if less != more]
    return axes[0] if len(axes) == 1 else None


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
