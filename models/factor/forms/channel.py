"""The channel form, which is paper 1's (arXiv:1910.13141, section 3): a layer like the whole with r outputs, and one
of 1×1."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rightrank.models.factor.forms.pair import in_calls, in_sides, matrices
from rightrank.models.factor.layer import Form, Layer, Shape, factor_value, inner_value
from rightrank.models.program.calls import (
    LINEAR,
    PRODUCT,
    Call,
    Convolution,
    Embedding,
    Handed,
    Product,
    Recurrent,
    layer_call,
)
from rightrank.models.program.graph import Node, Ref

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.factor.factors import Factors
    from rightrank.models.factor.moments import Moments


class Channel(Form):
    """`W ∈ R^{m×n}` with m = k_h·k_w·C_in and n = C_out, as `down` (R, C_in, k_h, k_w) and `up` (C_out, R, 1, 1).

    Calls that read the weight the other way round read the same two factors in the other order: an embedding looks its
    rows up in `up` and multiplies them by `down`. So a head that is tied to an embedding stays tied. A recurrent call
    does not care how wide its inputs are: it gets those of `down`, and `up` for its weight.
    """

    name = "channel"
    sides = ("down", "up")

    def fits(self, call: Call, shape: Shape) -> str:
        if isinstance(call, Convolution) and call.transposed:
            return "transposed convolutions with groups are kept as they are"  # the others have a form
        if isinstance(call, Convolution) and call.groups > 1:
            return f"it has {call.groups} groups"
        return "a call multiplies by it inside itself" if isinstance(call, Handed) else ""

    def positions(self, given: Shape, made: Shape, call: Call) -> tuple[int, ...]:
        if isinstance(call, Recurrent):
            return (math.prod(given[:-1]),) * 2
        channels = made[1] if isinstance(call, Convolution) else made[-1]
        places = math.prod(made) // max(channels, 1)
        return places, 0 if isinstance(call, Embedding) else places

    def shapes(self, layer: Layer, rank: Any) -> tuple[tuple[Any, ...], ...]:
        return (rank, *layer.shape[1:]), (layer.outputs, rank, *(1 for _ in layer.shape[2:]))

    def calls(self, layer: Layer, node: Node) -> tuple[Node, ...]:
        call, inner = layer_call(node), inner_value(node)
        down, up = (factor_value(layer, side) for side in self.sides)
        assert call is not None
        if isinstance(call, (Embedding, Product)):
            given = (up, call.input) if isinstance(call, Embedding) else (call.input, up)
            first = Node(inner, node.op, given, (), (inner,))
            return first, Node(node.name, PRODUCT, (Ref(inner), down), (), node.outputs)
        if not isinstance(call, Convolution):
            first = Node(inner, LINEAR, (call.input, down), (), (inner,))
            if isinstance(call, Recurrent):
                return first, dataclasses.replace(
                    node, args=dataclasses.replace(call, input=Ref(inner), weight=up).args
                )
            return first, dataclasses.replace(node, args=(Ref(inner), up, call.bias))
        # By the name for its dimensions: `torch.jit.freeze` folds a batch norm into that, not into `convolution`.
        op = f"aten.conv{len(call.stride)}d.default"
        first = Node(inner, op, (call.input, down, None, *call.geometry, 1), (), (inner,))
        return first, dataclasses.replace(node, op=op, args=(Ref(inner), up, call.bias))

    def factors(self, layer: Layer, weight: Tensor, moments: Moments | None, gradient: bool = True) -> Factors:
        from rightrank.models.factor.metric import decompose, decompose_in_metric

        pair = decompose(weight) if moments is None else decompose_in_metric(weight, moments, gradient)
        return in_calls(layer, pair)

    def fit(
        self, layer: Layer, weight: Tensor, rank: int, normal: Tensor, mean: Tensor, moments: Moments
    ) -> dict[str, Tensor]:
        from rightrank.models.factor.metric import decompose_in_metric

        return in_sides(layer, *decompose_in_metric(weight, moments).keep(rank))

    def product(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
        down, up = matrices(layer, tensors)
        return (up.T @ down).reshape(layer.shape)
