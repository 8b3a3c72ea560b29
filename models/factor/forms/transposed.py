"""The channel form of a transposed convolution: one of 1×1 to r channels, then a transposed one like the whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rightrank.models.factor.forms.pair import in_calls, in_sides, matrices
from rightrank.models.factor.layer import Form, Gatherer, Layer, Shape, factor_value, inner_value
from rightrank.models.program.calls import Call, Convolution, layer_call, transposed
from rightrank.models.program.graph import Node, Ref

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.factor.factors import Factors
    from rightrank.models.factor.metric import Pair
    from rightrank.models.factor.moments import Moments


class Transposed(Form):
    """The matrix (C_in, C_out·k) of a weight whose first axis is that of the inputs, as `down` (R, C_in, 1, 1) and `up`
    (R, C_out, k_h, k_w).

    It is seen from the inputs (see `moments`), of which there is a row for each position, and so is its refit, where
    patches of the outputs do not overlap.
    """

    name = "transposed"
    sides = ("down", "up")
    by_outputs = True  # along the first axis, which is the inputs' here

    def fits(self, call: Call, shape: Shape) -> str:
        if not transposed(call):
            return "it is no transposed convolution"
        assert isinstance(call, Convolution)
        return "transposed convolutions with groups are kept as they are" if call.groups > 1 else ""

    def positions(self, given: Shape, made: Shape, call: Call) -> tuple[int, ...]:
        places = math.prod(given) // max(given[1], 1)
        return places, places

    def shapes(self, layer: Layer, rank: Any) -> tuple[tuple[Any, ...], ...]:
        return (rank, layer.shape[0], *(1 for _ in layer.shape[2:])), (rank, *layer.shape[1:])

    def calls(self, layer: Layer, node: Node) -> tuple[Node, ...]:
        call, inner = layer_call(node), inner_value(node)
        down, up = (factor_value(layer, side) for side in self.sides)
        assert isinstance(call, Convolution)
        ones, zeros = ((each,) * len(call.stride) for each in (1, 0))
        op = f"aten.conv{len(ones)}d.default"
        first = Node(inner, op, (call.input, down, None, ones, zeros, ones, 1), (), (inner,))
        second = (Ref(inner), up, call.bias, *call.geometry, True, call.output_padding, 1)
        return first, dataclasses.replace(node, args=second)

    def gatherer(self, layer: Layer) -> Gatherer:
        return _Taps(layer.shape)

    def factors(self, layer: Layer, weight: Tensor, moments: Moments | None, gradient: bool = True) -> Factors:
        from rightrank.models.factor.factors import Moved
        from rightrank.models.factor.metric import decompose

        if moments is None:
            return in_calls(layer, decompose(weight.flatten(1).T))
        pair = _from_inputs(weight, moments, gradient)
        seen: Tensor = moments.seen[self.name]

        def of_bases() -> tuple[Tensor, Tensor]:
            """The means are exact. Variances are those of single taps: what several of them add to one output is
            taken to have nothing to do with each other."""
            down, up = pair.down.double(), pair.up.double().reshape(len(pair.up), layer.shape[1], -1)
            means = (up * (down @ seen).unsqueeze(1)).sum(2)
            spread = ((down @ moments.covariance) * down).sum(1)
            return means, up.square().sum(2) * spread.unsqueeze(1)

        return in_calls(layer, dataclasses.replace(pair, moved=Moved(of_bases)))

    def fit(
        self, layer: Layer, weight: Tensor, rank: int, normal: Tensor, mean: Tensor, moments: Moments
    ) -> dict[str, Tensor]:
        return in_sides(layer, *_from_inputs(weight, moments).keep(rank))

    def product(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
        down, up = matrices(layer, tensors)
        return (down.T @ up).reshape(layer.shape)


def _from_inputs(weight: Tensor, moments: Moments, gradient: bool = True) -> Pair:
    """`down` (R, C_in) and `up` (R, C_out·k): a linear layer's of as many outputs as a patch has numbers."""
    from rightrank.models.factor.metric import decompose_in_metric

    return decompose_in_metric(weight.flatten(1).T, dataclasses.replace(moments, axis=1), gradient)


class _Taps:
    """The sum of the inputs that each tap of the kernel brings to an output, as a share of all outputs: (C_in, k) in
    double. By it a layer's factors tell the mean of its outputs, with borders and what padding takes off them."""

    def __init__(self, shape: Shape) -> None:
        """Of a weight of this shape, (C_in, C_out, …)."""
        import torch

        self._kernel = shape[2:]
        self._total = torch.zeros(shape[0], math.prod(self._kernel), dtype=torch.float64)
        self._outputs = 0

    def add(self, data: Tensor, call: Call, outputs: Sequence[int]) -> None:
        import numpy as np

        from rightrank.models.factor.patches import finite, single

        assert isinstance(call, Convolution)
        data = finite(single(data))
        summed = data.sum(0).double()
        for tap, places in enumerate(np.ndindex(*self._kernel)):
            part = summed
            axes = zip(places, *call.geometry, data.shape[2:], outputs, strict=True)
            for dim, (place, stride, padding, dilation, size, made) in enumerate(axes, 1):
                # Input number i comes to output stride·i + offset.
                offset = dilation * place - padding
                first, last = max(0, -(offset // stride)), min(size - 1, (made - 1 - offset) // stride)
                part = part.narrow(dim, min(first, size), max(0, last - first + 1))
            self._total[:, tap] += part.flatten(1).sum(1)
        self._outputs += len(data) * math.prod(outputs)

    def result(self) -> Tensor:
        return self._total / max(self._outputs, 1)

    def sound(self, result: Tensor) -> bool:
        return bool(result.isfinite().all())
