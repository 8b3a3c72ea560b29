"""Closed-form correction after a cut: what follows a layer is told how the cut moved its outputs.

Where a batch norm follows, its stored mean and variance move with the outputs' (arXiv:1910.13141,
"bn"), relatively: mean = stored + (cut − whole), variance = stored · (cut / whole), so that nothing
changes at full rank and what the calibration images lack of the training augmentation cancels. Else
the layer's bias takes the difference of the means. One row per rank, computed once with the master.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rightrank.models.factor.layers import Layer
from rightrank.models.factor.metric import Factors
from rightrank.models.program.graph import Graph, Node, Ref

BATCH_NORM = "aten.batch_norm.default"


@dataclass(frozen=True)
class Target:
    """A stored tensor that a layer's cut changes, and how: "bias", "mean" or "variance"."""

    tensor: str
    role: str


def targets(graph: Graph, tensors: Mapping[str, Tensor], layer: Layer) -> list[Target]:
    """The tensors to correct after `layer`; none where they, or the layer, are used more than once."""
    if len(layer.calls) != 1:
        return []
    users = graph.users()
    call = next(node for node in graph.nodes if node.name == layer.calls[0])
    followers = users.get(call.outputs[0], [])
    found = [_stored(graph, call, 2, "bias")]
    if len(followers) == 1 and followers[0].op == BATCH_NORM and call.outputs[0] not in graph.outputs:
        norm = [_stored(graph, followers[0], 3, "mean"), _stored(graph, followers[0], 4, "variance")]
        # A linear layer's outputs lie in the last dimension, a batch norm's channels in the second.
        sizes = {tensors[each.tensor].numel() for each in norm if each is not None}
        if (layer.kind != "linear" or layer.positions == 1) and sizes <= {layer.outputs}:
            found = norm
    kept = [target for target in found if target is not None]
    return kept if len(kept) == len(found) and all(once(graph, users, t.tensor) for t in kept) else []


def rows(target: Target, stored: Tensor, factors: Factors) -> Iterator[Tensor]:
    """The target's value at every rank, r = 1 first."""
    assert factors.shift is not None and factors.scale is not None
    for shift, scale in zip(factors.shift, factors.scale, strict=True):
        if target.role == "variance":
            yield (stored.double() * scale).to(stored.dtype)
        else:
            moved = shift if target.role == "mean" else -shift
            yield (stored.double() + moved).to(stored.dtype)


def statistics_of(graph: Graph, norm: Node) -> tuple[str, str] | None:
    """The stored tensors that a batch norm takes its mean and variance from, where they are stored."""
    mean, variance = _stored(graph, norm, 3, "mean"), _stored(graph, norm, 4, "variance")
    return (mean.tensor, variance.tensor) if mean and variance else None


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel (dimension 1) of (N, C, …), in the precision of the values."""
    # `var_mean` over channels takes three times as long.
    mean, variance = torch.batch_norm_update_stats(values, None, None, 0.0)
    return mean, variance


def _stored(graph: Graph, node: Node, position: int, role: str) -> Target | None:
    argument = node.args[position] if len(node.args) > position else None
    if isinstance(argument, Ref) and argument.name in graph.tensors:
        return Target(graph.tensors[argument.name], role)
    return None


def once(graph: Graph, users: dict[str, list[Node]], tensor: str) -> bool:
    """Whether one call alone reads the stored tensor, once, and nobody else gets it."""
    values = {value for value, name in graph.tensors.items() if name == tensor}
    readers = {node.name: node for value in values for node in users.get(value, [])}
    reads = [name for node in readers.values() for name in node.inputs() if name in values]
    return len(reads) == 1 and not values & {*graph.outputs}
