"""Batch norms: which stored tensors are theirs, and the moments that those are of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rightrank.models.program.calls import BATCH_NORM, BatchNorm
from rightrank.models.program.graph import Graph, Node

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """A batch norm that stores its statistics: the names of its tensors (None for one that it has not), and its
    epsilon."""

    mean: str
    variance: str
    weight: str | None
    bias: str | None
    epsilon: float


def norm_of(graph: Graph, node: Node) -> Norm | None:
    """The batch norm that a call is, where all that it reads besides its input is stored."""
    if node.op != BATCH_NORM:
        return None
    call = BatchNorm.of(node)
    mean, variance = graph.stored(call.running_mean), graph.stored(call.running_var)
    weight, bias = graph.stored(call.weight), graph.stored(call.bias)
    computed = (call.weight is not None and weight is None) or (call.bias is not None and bias is None)
    if mean is None or variance is None or computed or not isinstance(call.eps, float):
        return None
    return Norm(mean, variance, weight, bias, call.eps)


def statistics_of(graph: Graph, node: Node) -> tuple[str, str] | None:
    """The stored tensors that a batch norm takes its mean and variance from; None for one that computes them, and for
    any other call."""
    if node.op != BATCH_NORM:
        return None
    call = BatchNorm.of(node)
    mean, variance = graph.stored(call.running_mean), graph.stored(call.running_var)
    return None if mean is None or variance is None else (mean, variance)


def norms(graph: Graph) -> Iterator[tuple[Node, Norm]]:
    """Every call of a batch norm that stores all it needs."""
    for node in graph.nodes:
        norm = norm_of(graph, node)
        if norm is not None:
            yield node, norm


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel (dimension 1) of (N, C, …), in the precision of the values."""
    import torch

    # `var_mean` over channels takes three times as long.
    mean, variance = torch.batch_norm_update_stats(values, None, None, 0.0)
    return mean, variance
