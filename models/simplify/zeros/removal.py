"""Which channels go, and the program without them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from rightrank.models.program.calls import Convolution
from rightrank.models.program.graph import Argument, Graph, Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.simplify.zeros.flow import Flow, Product
from rightrank.models.simplify.zeros.report import LayerReport

IN_USE = "a channel that it is added to or joined with is in use"
BORDERS = "its constant is not zero, and the next convolution pads"
SHARED = "its constant is not zero, and the next layer's weight or bias is used more than once"
LAST = "one channel of every layer stays"

# In the call of a linear layer it has the same place.
_BIAS = Convolution.__slots__.index("bias")


@dataclass(frozen=True)
class Removal:
    """The units that go."""

    flow: Flow
    units: frozenset[int]

    def kept(self, units: Tensor) -> Tensor:
        """Where along an axis the units stay, as a mask."""
        return torch.tensor([root not in self.units for root in self.flow.units.roots(units)])


def decide(flow: Flow) -> Removal:
    """All units that every reader can do without, less one wherever a layer would lose its last channel."""
    found: set[int] = set()
    for product in flow.products:
        if product.columns is not None:
            found.update(flow.units.roots(product.columns.units))
            _pin_what_cannot_fold(flow, product)
    units = flow.units
    going = {unit for unit in found if units.pinned(unit) is None}
    for claims in flow.claims.values():
        for axis in claims[0].values():
            roots = units.roots(axis)
            if going.issuperset(roots):
                units.pin(roots[:1], LAST)
                going.discard(roots[0])
    return Removal(flow, frozenset(going))


def _pin_what_cannot_fold(flow: Flow, product: Product) -> None:
    """A layer does without an input that is always zero; another constant has to fit into its bias."""
    columns = product.columns
    assert columns is not None
    once = len(flow.claims[product.weight]) == 1 and (product.bias is None or len(flow.claims[product.bias]) == 1)
    zero = columns.values == 0
    blocked = torch.full_like(zero, product.padded or not once) & ~zero
    unfit = ~torch.isfinite(columns.values) & columns.known
    flow.units.pin(columns.units[~columns.known | unfit].tolist(), IN_USE)
    flow.units.pin(columns.units[columns.known & blocked].tolist(), BORDERS if product.padded else SHARED)


def apply(removal: Removal) -> Program:
    """The program without the removed units; their constants move into the biases of what read them."""
    flow = removal.flow
    graph, tensors = flow.program.graph, dict(flow.program.tensors)
    for product in flow.products:
        graph = _fold(graph, tensors, product, removal)
    for name, claims in flow.claims.items():
        for axis, units in claims[0].items():
            kept = removal.kept(units)
            if not kept.all():
                tensors[name] = tensors[name].index_select(axis, kept.nonzero().flatten()).contiguous()
    sizes: dict[str, list[tuple[int, int | None, int]]] = {}
    for resize in flow.resizes:
        count = int(removal.kept(resize.units).sum())
        sizes.setdefault(resize.node, []).append((resize.position, resize.element, count))
    nodes = tuple(_resized(node, sizes.get(node.name, [])) for node in graph.nodes)
    return Program(graph.replace(nodes=nodes), _cut_new(tensors, removal))


def _cut_new(tensors: dict[str, Tensor], removal: Removal) -> dict[str, Tensor]:
    """Biases that folding added are still as long as the whole layer."""
    for product in removal.flow.products:
        added = _added(product.weight)
        if product.bias is None and added in tensors and added not in removal.flow.program.tensors:
            tensors[added] = tensors[added][removal.kept(product.units)]
    return tensors


def _added(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.folded_bias"


def _fold(graph: Graph, tensors: dict[str, Tensor], product: Product, removal: Removal) -> Graph:
    columns = product.columns
    if columns is None:
        return graph
    gone = ~removal.kept(columns.units) & (columns.values != 0)
    if not gone.any():
        return graph
    weight = tensors[product.weight]
    shift = weight[:, gone].double().flatten(2).sum(2) if weight.dim() > 2 else weight[:, gone].double()
    shift = shift @ columns.values[gone]
    if product.bias is not None:
        bias = tensors[product.bias]
        tensors[product.bias] = (bias.double() + shift).to(bias.dtype)
        return graph
    name = _added(product.weight)
    tensors[name] = shift.to(weight.dtype)
    value = f"{product.node.outputs[0]}_folded_bias"
    nodes = tuple(_with(node, _BIAS, Ref(value)) if node.name == product.node.name else node for node in graph.nodes)
    return graph.replace(nodes=nodes, tensors={**graph.tensors, value: name}, parameters=graph.parameters | {name})


def _with(node: Node, position: int, argument: Argument) -> Node:
    args = (*node.args[:position], argument, *node.args[position + 1 :])
    return Node(node.name, node.op, args, node.kwargs, node.outputs, node.listed)


def _resized(node: Node, sizes: list[tuple[int, int | None, int]]) -> Node:
    for position, element, count in sizes:
        given = node.args[position]
        if element is None:
            node = _with(node, position, count)
        elif isinstance(given, tuple):
            node = _with(node, position, (*given[:element], count, *given[element + 1 :]))
    return node


def layers(removal: Removal, smaller: Program) -> tuple[LayerReport, ...]:
    """What became of every layer, in order of first use."""
    flow = removal.flow
    tensors, reduced = flow.program.tensors, smaller.tensors
    reports = {}
    for product in flow.products:
        kept = removal.kept(product.units)
        why: Counter[str] = Counter()
        for unit, zero, stays in zip(product.units.tolist(), product.zero.tolist(), kept.tolist(), strict=True):
            if stays and (zero or unit in flow.constant):
                why[flow.units.pinned(unit) or IN_USE] += 1
        names = [name for name in (product.weight, product.bias) if name is not None]
        added = _added(product.weight)
        after = names + ([added] if product.bias is None and added in reduced and added not in tensors else [])
        reports[product.weight] = LayerReport(
            name=product.weight.removesuffix(".weight"),
            channels=len(kept),
            removed=int((~kept).sum()),
            params_before=sum(tensors[name].numel() for name in names),
            params_after=sum(reduced[name].numel() for name in after),
            kept=dict(why),
        )
    return tuple(reports.values())
