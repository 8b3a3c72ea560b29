"""The channel form of a grouped convolution: a grouped one with r outputs a group, and a grouped one of 1×1."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rightrank.models.factor.forms.pair import in_calls, in_sides, matrices
from rightrank.models.factor.layer import Form, Layer, Shape, factor_value, inner_value
from rightrank.models.program.calls import Call, Convolution, layer_call
from rightrank.models.program.graph import Node, Ref

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.factor.factors import Factors
    from rightrank.models.factor.metric import Pair
    from rightrank.models.factor.moments import Moments

FLATTEN = "aten.flatten.using_ints"


class Grouped(Form):
    """Each of g groups as a channel form of its own, all of one rank: a basis is a rank in every group, worth what it
    is in all. `down` (g, R, C_in/g, k_h, k_w) keeps the groups apart, so that a cut is its leading part; `up` is
    (C_out, R, 1, 1)."""

    name = "grouped"
    sides = ("down", "up")
    by_outputs = True

    def fits(self, call: Call, shape: Shape) -> str:
        grouped = isinstance(call, Convolution) and not call.transposed and call.groups > 1
        return "" if grouped else "it is no grouped convolution"

    def positions(self, given: Shape, made: Shape, call: Call) -> tuple[int, ...]:
        places = math.prod(made) // max(made[1], 1)
        return places, places

    def shapes(self, layer: Layer, rank: Any) -> tuple[tuple[Any, ...], ...]:
        return (layer.groups, rank, *layer.shape[1:]), (layer.outputs, rank, *(1 for _ in layer.shape[2:]))

    def rank(self, layer: Layer) -> int:
        return min(layer.inputs, layer.outputs // layer.groups)

    def calls(self, layer: Layer, node: Node) -> tuple[Node, ...]:
        call, kernels, inner = layer_call(node), inner_value(node), inner_value(node, 1)
        down, up = (factor_value(layer, side) for side in self.sides)
        assert isinstance(call, Convolution)
        ones, zeros = ((each,) * len(call.stride) for each in (1, 0))
        op = f"aten.conv{len(ones)}d.default"
        given = (call.input, Ref(kernels), None, *call.geometry, call.groups)
        return (
            Node(kernels, FLATTEN, (down, 0, 1), (), (kernels,)),
            Node(inner, op, given, (), (inner,)),
            dataclasses.replace(node, op=op, args=(Ref(inner), up, call.bias, ones, zeros, ones, call.groups)),
        )

    def factors(self, layer: Layer, weight: Tensor, moments: Moments | None, gradient: bool = True) -> Factors:
        from rightrank.models.factor.metric import decompose

        if moments is None:
            return in_calls(layer, _side_by_side([decompose(each) for each in weight.chunk(layer.groups)]))
        return in_calls(layer, _in_metric(layer, weight, moments, gradient))

    def fit(
        self, layer: Layer, weight: Tensor, rank: int, normal: Tensor, mean: Tensor, moments: Moments
    ) -> dict[str, Tensor]:
        return in_sides(layer, *_in_metric(layer, weight, moments).keep(rank))

    def product(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
        down, up = (each.reshape(len(each), layer.groups, -1) for each in matrices(layer, tensors))
        return (up.permute(1, 2, 0) @ down.movedim(1, 0)).reshape(layer.shape)


def _in_metric(layer: Layer, weight: Tensor, moments: Moments, gradient: bool = True) -> Pair:
    """Of the moments of all outputs each group has its own: what other groups do is nothing that it could change."""
    from rightrank.models.factor.metric import decompose_in_metric

    size = layer.outputs // layer.groups
    parts = [slice(start, start + size) for start in range(0, layer.outputs, size)]
    several = [
        dataclasses.replace(
            moments,
            mean=moments.mean[each],
            covariance=moments.covariance[each, each],
            gradient=moments.gradient[each, each],
        )
        for each in parts
    ]
    pairs = zip(parts, several, strict=True)
    return _side_by_side([decompose_in_metric(weight[part], each, gradient) for part, each in pairs])


def _side_by_side(groups: Sequence[Pair]) -> Pair:
    """Groups' bases as one layer's, by their number: first the best of each."""
    import torch

    from rightrank.models.factor.factors import Moved
    from rightrank.models.factor.metric import Pair

    moved = [each.moved for each in groups if each.moved is not None]

    def of_bases() -> tuple[Tensor, Tensor]:
        means, variances = zip(*(each.of_bases() for each in moved), strict=True)
        return torch.cat(means, 1), torch.cat(variances, 1)

    return Pair(
        torch.cat([each.down for each in groups], 1),
        torch.cat([each.up for each in groups], 1),
        torch.stack([each.sigma for each in groups]).square().sum(0).sqrt(),
        Moved(of_bases) if moved else None,
    )
