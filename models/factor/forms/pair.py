"""What the forms with two factors share: a pair of nested matrices (see `metric`) as their calls take it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rightrank.models.factor.layer import Layer

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.factor.factors import Factors
    from rightrank.models.factor.metric import Pair


def in_calls(layer: Layer, pair: Pair) -> Factors:
    """A pair as the layer's factors."""
    from rightrank.models.factor.factors import Factors

    return Factors(in_sides(layer, pair.down, pair.up), pair.sigma, pair.moved)


def in_sides(layer: Layer, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    """Two matrices, a basis a row, by the sides of the layer's form."""
    from rightrank.models.factor.factors import in_call

    pairs = zip(layer.form.sides, (down, up), strict=True)
    return {side: in_call(layer, side, rows).contiguous() for side, rows in pairs}


def matrices(layer: Layer, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The inverse of `in_sides`."""
    from rightrank.models.factor.factors import by_basis

    down, up = (by_basis(layer, side, tensors[side]) for side in layer.form.sides)
    return down, up
