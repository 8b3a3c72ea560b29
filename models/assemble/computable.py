"""Which layers of a program could multiply levels of eight bits, and which values would be rounded then.

A layer multiplies levels where its inputs are on a grid, and a convolution puts out levels again; of a linear layer
they may be numbers. A rectifier behind a layer or a sum is the lower end of the grid that follows. What only moves
numbers keeps their grid; sums, products, means over places and concatenations are done with levels where what reads
them wants levels. These are the kernels that onnxruntime has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from rightrank.models.emit.onnx.means import over_places
from rightrank.models.emit.torchscript.fold import folded, folds
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master.integers import Integers
from rightrank.models.master.template import Template
from rightrank.models.program.calls import LINEAR, Convolution, Linear, layer_call
from rightrank.models.program.graph import Graph, Node, Ref

RECTIFIERS = ("aten.relu.default", "aten.relu6.default", "aten.hardtanh.default")
MOVES = frozenset(
    f"aten.{name}"
    for name in (
        "max_pool1d.default",
        "max_pool2d.default",
        "flatten.using_ints",
        "view.default",
        "reshape.default",
        "permute.default",
        "transpose.int",
        "squeeze.dim",
        "squeeze.dims",
        "unsqueeze.default",
        "contiguous.default",
        "clone.default",
    )
)
PAIRS = frozenset({"aten.add.Tensor", "aten.mul.Tensor"})
MEAN = "aten.avg_pool2d.default"
JOINED = "aten.cat.default"
CONVOLUTIONS = tuple(f"aten.conv{dims}d.default" for dims in (1, 2, 3))


def possible(template: Template, seen: Collection[str] | None = None) -> list[str]:
    """The weights, in order, of the layers that could, where the values that were `seen` (None: all) are numbers of
    float32."""
    graph = template.graph
    nodes = {node.name: node for node in graph.nodes}
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in node.inputs():
            if name in graph.tensors:
                readers.setdefault(graph.tensors[name], set()).add(node.name)
    found, varying = [], graph.varying
    for layer in template.layers:
        alone = readers.get(layer.weight) == {*layer.calls} and not _put_out(graph, layer.weight)
        if alone and all(_fits(template, layer, nodes[call], seen, varying) for call in layer.calls):
            found.append(layer.weight)
    return found


def _put_out(graph: Graph, tensor: str) -> bool:
    return any(graph.tensors.get(name) == tensor for name in graph.outputs)


def _fits(template: Template, layer: Layer, node: Node, seen: Collection[str] | None, varying: Collection[str]) -> bool:
    graph, call = template.graph, layer_call(node)
    if not isinstance(call, (Linear, Convolution)) or getattr(call, "transposed", False):
        return False
    if not isinstance(call.input, Ref) or call.input.name not in varying:
        return False
    if seen is not None and not {call.input.name, node.outputs[0]} <= {*seen}:
        return False
    if template.tensors[layer.weight].dtype != "float32" or len(layer.shape) < 2:
        return False
    if call.bias is not None:
        bias = graph.stored(call.bias)
        if bias is None or template.tensors[bias] != ("float32", layer.shape[:1]):
            return False
    if not layer.decomposed:
        return True
    # Two factors along an axis of each, read by calls of their own.
    calls, sides = layer.form.calls(layer, node), layer.form.sides
    if len(calls) != 2 or [layer.axis_of_bases(side) for side in sides] != [0, 1]:
        return False
    return all(
        each.op in (LINEAR, *CONVOLUTIONS) and each.args[1] == factor_value(layer, side)
        for each, side in zip(calls, sides, strict=True)
    )


def integers(template: Template, layers: Collection[str], seen: Collection[str]) -> Integers:
    """What is rounded where these layers, by their weights, multiply levels. A value that depends on no input stays as
    it is: what runs the file computes it once, and OpenVINO does not read one on a grid."""
    graph = template.graph
    seen = {*seen} & graph.varying
    calls = folded(graph, folds(template))
    computing = {call for layer in template.layers if layer.weight in layers for call in layer.calls}
    readers: dict[str, list[Node]] = {}
    for node in calls:
        for name in node.inputs():
            readers.setdefault(name, []).append(node)

    def alone(name: str) -> Node | None:
        """The only call that reads a value, which nobody else gets."""
        several = readers.get(name, [])
        return several[0] if len(several) == 1 and name not in graph.outputs else None

    # What ends on a grid by itself, and which values are then clipped by that.
    wanted: set[str] = set()
    clipped: set[str] = set()
    for node in calls:
        if node.name in computing and isinstance(layer_call(node), Convolution):
            wanted.add(_end(node.outputs[0], alone))
    for node in reversed(calls):
        if len(node.outputs) != 1:
            continue
        (made,) = node.outputs
        given = [name for name in node.inputs() if name not in graph.tensors]
        if node.name in computing:
            wanted.add(given[0])
            continue
        if made not in wanted and made not in clipped:
            continue
        if _rectifies(node) and alone(given[0]) is node:
            clipped.add(given[0])
        elif _through(node, graph, seen):
            wanted |= {*given} & {*seen}
    grids: dict[str, str] = {spec.name: spec.name for spec in graph.inputs if spec.name in wanted & {*seen}}
    for node in calls:
        for made in node.outputs:
            if made in wanted and made in seen:
                source = next(iter(node.inputs()), "")
                grids[made] = grids[source] if node.op in MOVES and source in grids else made
    order = {layer.weight: None for layer in template.layers if layer.weight in layers}
    return Integers(tuple(order), grids)


def _end(name: str, alone: Callable[[str], Node | None]) -> str:
    """The value that a convolution's outputs are rounded as."""
    reader = alone(name)
    return reader.outputs[0] if reader is not None and _rectifies(reader) else name


def _rectifies(node: Node) -> bool:
    """Whether a call does nothing but to clip from 0 on."""
    if node.op not in RECTIFIERS:
        return False
    return node.op != RECTIFIERS[2] or (len(node.args) > 1 and node.args[1] == 0 and not node.kwargs)


def _through(node: Node, graph: Graph, seen: Collection[str]) -> bool:
    """Whether what a call makes of levels are levels."""
    if node.op in PAIRS:
        first, second = node.args[:2]
        both = all(
            isinstance(each, Ref) and each.name in seen and each.name not in graph.tensors for each in (first, second)
        )
        return both and len(node.args) == 2 and not node.kwargs
    if node.op == JOINED:
        return all(name in seen for name in node.inputs())
    return (node.op in MOVES or node.op == MEAN or over_places(node) > 0) and next(iter(node.inputs()), "") in seen
