"""Weights whose axes lie in memory in another order: transposed ones, channels last.

torch takes other kernels for them, and these round otherwise. What is kept is the tensor as it lies, contiguous, and a
call that puts its axes where the program has them: the uploaded program then does what it did, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rightrank.models.program.graph import Graph, Node, Ref, fresh

PERMUTE = "aten.permute.default"


def order_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The axes in the order in which they lie; None where that is their own, or where there is none: a slice of a
    wider tensor, or an expanded one."""
    if tensor.is_contiguous():
        return None
    order = sorted(range(tensor.dim()), key=lambda axis: tensor.stride()[axis], reverse=True)
    return tuple(order) if tensor.permute(order).is_contiguous() else None


def dense(tensor: Tensor) -> Tensor:
    """The tensor with its axes as they lie, its numbers side by side."""
    return tensor.contiguous() if order_of(tensor) is None else tensor


def as_stored(graph: Graph, tensors: Mapping[str, Tensor]) -> tuple[Graph, dict[str, Tensor]]:
    """The same program over tensors that are contiguous."""
    orders = {name: order for name, tensor in tensors.items() if (order := order_of(tensor)) is not None}
    made = {name: tensor.permute(orders[name]) if name in orders else tensor for name, tensor in tensors.items()}
    if not orders:
        return graph, made
    taken = {*graph.tensors, *(spec.name for spec in graph.inputs), *(out for n in graph.nodes for out in n.outputs)}
    values, nodes = {}, []
    for value, name in graph.tensors.items():
        if name not in orders:
            values[value] = name
            continue
        stored, order = fresh(f"{value}_as_stored", taken), orders[name]
        values[stored] = name
        back = tuple(order.index(axis) for axis in range(len(order)))
        nodes.append(Node(f"layout of {value}", PERMUTE, (Ref(stored), back), (), (value,)))
    return graph.replace(tensors=values, nodes=(*nodes, *graph.nodes)), made
