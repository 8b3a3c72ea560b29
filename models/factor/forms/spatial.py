"""The spatial form (arXiv:1405.3866): a convolution of k_h×1, then one of 1×k_w."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rightrank.models.factor.forms.pair import in_calls, in_sides, matrices
from rightrank.models.factor.layer import Form, Gatherer, Layer, Shape, factor_value, inner_value
from rightrank.models.program.calls import Call, Convolution, layer_call
from rightrank.models.program.graph import Node, Ref

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.factor.factors import Factors
    from rightrank.models.factor.moments import Moments
    from rightrank.models.factor.patches import Columns, ColumnSums

# The work of a decomposition grows with the cube of this.
WIDE = 6144
# The first factor of a k_h×1 convolution has all the columns of its input, so with a stride the two may have more MACs
# than the whole at the same number of parameters: half as many more with a stride of two.
DEAR = 1.5


class Spatial(Form):
    """The matrix (C_in·k_h, C_out·k_w), as `down` (R, C_in, k_h, 1) and `up` (C_out, R, 1, k_w): for kernels with rows
    and columns, of layers that are not too `WIDE` to decompose so, and that it does not make `DEAR` in MACs."""

    name = "spatial"
    sides = ("down", "up")
    by_outputs = True

    def fits(self, call: Call, shape: Shape) -> str:
        if not isinstance(call, Convolution) or len(shape) != 4 or min(shape[2:]) < 2:
            return "its kernel has not both rows and columns"
        if call.transposed or call.groups > 1:
            return "transposed and grouped convolutions have no such form"
        outputs, inputs, height, width = shape
        return "its matrix is too large to decompose" if max(inputs * height, outputs * width) > WIDE else ""

    def pays(self, layer: Layer) -> bool:
        return not layer.break_even or int(layer.macs_by_rank[layer.break_even - 1]) <= DEAR * layer.macs

    def positions(self, given: Shape, made: Shape, call: Call) -> tuple[int, ...]:
        return made[0] * made[2] * given[3], math.prod(made) // max(made[1], 1)

    def shapes(self, layer: Layer, rank: Any) -> tuple[tuple[Any, ...], ...]:
        outputs, inputs, height, width = layer.shape
        return (rank, inputs, height, 1), (outputs, rank, 1, width)

    def calls(self, layer: Layer, node: Node) -> tuple[Node, ...]:
        call, inner = layer_call(node), inner_value(node)
        down, up = (factor_value(layer, side) for side in self.sides)
        assert isinstance(call, Convolution)
        (high, wide), (top, side), (apart, along) = call.geometry
        op = "aten.conv2d.default"
        first = Node(inner, op, (call.input, down, None, (high, 1), (top, 0), (apart, 1), 1), (), (inner,))
        second = (Ref(inner), up, call.bias, (1, wide), (0, side), (1, along))
        return first, dataclasses.replace(node, op=op, args=second)

    def gatherer(self, layer: Layer) -> Gatherer:
        from rightrank.models.factor.patches import ColumnSums

        return _OfCalls(ColumnSums(layer.shape))

    def factors(self, layer: Layer, weight: Tensor, moments: Moments | None, gradient: bool = True) -> Factors:
        from rightrank.models.factor.metric import decompose, decompose_columns, spatial_matrix

        if moments is None:
            return in_calls(layer, decompose(spatial_matrix(weight).T))
        return in_calls(layer, decompose_columns(weight, moments, moments.seen[self.name]))

    def fit(
        self, layer: Layer, weight: Tensor, rank: int, normal: Tensor, mean: Tensor, moments: Moments
    ) -> dict[str, Tensor]:
        from rightrank.models.factor.metric import decompose_columns, fit_columns
        from rightrank.models.factor.patches import columns_of

        start = decompose_columns(weight, moments, columns_of(normal, mean, layer.shape[3]), most=rank)
        return in_sides(layer, *fit_columns(weight, normal, moments.gradient, start.down, start.up))

    def product(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
        from rightrank.models.factor.metric import spatial_product

        return spatial_product(*matrices(layer, tensors), layer.shape)


class _OfCalls:
    """Sums over columns of the kernel, from calls."""

    def __init__(self, sums: ColumnSums) -> None:
        self._sums = sums

    def add(self, data: Tensor, call: Call, outputs: Sequence[int]) -> None:
        assert isinstance(call, Convolution)
        high, wide = outputs
        self._sums.add(data, call.geometry, (high, wide))

    def result(self) -> Columns:
        return self._sums.columns()

    def sound(self, result: Columns) -> bool:
        return bool(result.covariance.isfinite().all() and result.mean.isfinite().all())
