"""Batch norms that follow a convolution or a linear layer alone, as that layer's own scale and bias.

`a = γ/√(σ² + ε)` for each output goes into the weight, or into the last of its factors, and the bias becomes
`(b − μ)·a + β`. All of them may depend on the rank (see `factor.correction`), so a cut works them out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master.template import Template
from rightrank.models.program.calls import BATCH_NORM, LINEAR, Convolution, Linear, layer_call
from rightrank.models.program.graph import Graph, Node, Ref
from rightrank.models.program.norms import Norm, norm_of

FOLDED = "float32"
# Calls whose outputs lie along the first axis of their second argument.
SCALED = {LINEAR, *(f"aten.conv{dimensions}d.default" for dimensions in (1, 2, 3))}


@dataclass(frozen=True)
class Fold:
    """The weight whose outputs a norm scales, the name of its call, the norm's, and the layer's own bias, if any."""

    weight: str
    call: str
    norm: Norm
    bias: str | None

    @property
    def value(self) -> str:
        """What the bias is called in the graph."""
        return f"folded bias of {self.weight}"

    @property
    def tensors(self) -> tuple[str, ...]:
        """Those that are no more in the file."""
        found = (self.norm.mean, self.norm.variance, self.norm.weight, self.norm.bias, self.bias)
        return tuple(each for each in found if each is not None)


def folds(template: Template) -> Mapping[str, Fold]:
    """By the weight, every norm that goes into the layer before it."""
    graph = template.graph
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs():
            readers.setdefault(name, []).append(node)
    reads = {
        name: sum(len(readers.get(v, ())) for v, t in graph.tensors.items() if t == name) for name in template.tensors
    }
    layers = {layer.weight: layer for layer in template.decomposed}
    found: dict[str, Fold] = {}
    for node in graph.nodes:
        call = layer_call(node)
        if not isinstance(call, (Linear, Convolution)) or (isinstance(call, Convolution) and call.transposed):
            continue
        weight, bias = graph.stored(call.weight), graph.stored(call.bias)
        users = readers.get(node.outputs[0], [])
        if weight is None or (call.bias is not None and bias is None) or node.outputs[0] in graph.outputs:
            continue
        norm = norm_of(graph, users[0]) if len(users) == 1 else None
        if norm is None or len(users[0].outputs) != 1:
            continue
        spec = template.tensors[weight]
        # A linear layer's outputs lie in the last dimension, a batch norm's channels in the second.
        if isinstance(call, Linear) and not _flat(template, weight):
            continue
        fold = Fold(weight, node.name, norm, bias)
        names = [weight, *fold.tensors]
        sizes = {template.tensors[name].shape for name in fold.tensors}
        fits = sizes == {(spec.shape[0],)} and {template.tensors[name].dtype for name in names} == {FOLDED}
        if fits and all(reads[name] == 1 for name in names) and _scales(layers.get(weight), node, spec.shape[0]):
            found[weight] = fold
    return found


def _flat(template: Template, weight: str) -> bool:
    """Whether each sample has one position."""
    return any(layer.weight == weight and layer.positions == 1 for layer in template.layers)


def _scales(layer: Layer | None, node: Node, outputs: int) -> bool:
    """Whether to scale the first axis of a layer's last factor is to scale its outputs."""
    if layer is None:
        return True
    last, side = layer.form.calls(layer, node)[-1], layer.form.sides[-1]
    reads = last.op in SCALED and last.args[1:2] == (factor_value(layer, side),)
    return reads and layer.factor_shapes(1)[side][0] == outputs


def folded(graph: Graph, found: Mapping[str, Fold]) -> list[Node]:
    """The graph's nodes without the norms that are folded: the layers' calls make what those made."""
    by_call = {fold.call: fold for fold in found.values()}
    nodes: list[Node] = []
    waiting: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == BATCH_NORM and isinstance(node.args[0] if node.args else None, Ref):
            first = node.args[0]
            assert isinstance(first, Ref)
            if first.name in waiting:
                place = waiting.pop(first.name)
                nodes[place] = dataclasses.replace(nodes[place], outputs=node.outputs)
                continue
        if node.name in by_call:
            waiting[node.outputs[0]] = len(nodes)
            node = _with_bias(node, Ref(by_call[node.name].value))
        nodes.append(node)
    return nodes


def _with_bias(node: Node, bias: Ref) -> Node:
    call = layer_call(node)
    if isinstance(call, Linear):
        return dataclasses.replace(node, args=(call.input, call.weight, bias), kwargs=())
    assert isinstance(call, Convolution)
    call = dataclasses.replace(call, bias=bias)
    args = tuple(getattr(call, name) for name in Convolution.__slots__)
    return dataclasses.replace(node, args=args, kwargs=())
