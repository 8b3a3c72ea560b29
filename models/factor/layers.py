"""The layers of a program: which weights are matrices that can be factored, and in which forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer, Shape
from rightrank.models.program.calls import (
    HANDED,
    Call,
    Convolution,
    Embedding,
    Handed,
    Linear,
    Recurrent,
    layer_call,
    receivers,
    transposed,
    turned,
)
from rightrank.models.program.graph import Graph, Node, Ref


def find(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Layer, ...]:
    """Every convolution, linear layer, embedding and weight of a recurrent call in order of first use.

    `shapes` gives each value's shape, stored ones' too, at some batch size (see `Program.shapes`); MACs are per sample.
    """
    calls: dict[str, list[Node]] = {}
    receiving = receivers(graph.nodes)
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        weight = weight_of(node, graph, shapes, receiving)
        if weight is not None:
            calls.setdefault(weight, []).append(node)
        others = [graph.tensors[name] for name in node.inputs() if name in graph.tensors]
        if weight is not None:
            others.remove(weight)
        for name in others:
            readers.setdefault(name, []).append(node.op)
    for name in graph.outputs:
        if name in graph.tensors:
            readers.setdefault(graph.tensors[name], []).append("whoever calls the program")
    free = [each.name for each in graph.inputs if None in each.shape[:1]]  # a timestep, say, is no batch
    given = shapes[free[0] if free else graph.inputs[0].name]
    batch = given[0] if given else 1
    applied = {weight: [(node, _given(node, receiving, shapes)) for node in nodes] for weight, nodes in calls.items()}
    return tuple(
        _layer(weight, nodes, readers.get(weight, []), graph, shapes, batch) for weight, nodes in applied.items()
    )


def _given(node: Node, receiving: Mapping[str, Node], shapes: Mapping[str, Shape]) -> Shape:
    """The shape of a layer's input; of one inside a recurrent call, of the inputs of that, which are as many."""
    call = layer_call(receiving[node.outputs[0]] if node.op == HANDED else node)
    assert call is not None and isinstance(call.input, Ref)
    return shapes[call.input.name]


def weight_of(
    node: Node, graph: Graph, shapes: Mapping[str, tuple[int, ...]], receiving: Mapping[str, Node]
) -> str | None:
    """The qualified name of the weight that a layer's call applies, if it is a stored one.

    torch's linear takes any bias that broadcasts; what is no number for each output cannot be told how a cut moved
    the outputs, so a call with such a bias is no layer. `receiving` are the program's `receivers`.
    """
    call = layer_call(node)
    if call is None or not isinstance(call.weight, Ref):
        return None
    if not isinstance(call.input, Ref) and node.outputs[0] not in receiving:
        return None
    if turned(call) and not transposed(call) and len(shapes[call.weight.name]) != 2:
        return None
    linear, bias = isinstance(call, Linear), call.bias
    if linear and isinstance(bias, Ref) and shapes[bias.name] != shapes[call.weight.name][:1]:
        return None
    return graph.stored(call.weight)


def _layer(
    weight: str,
    nodes: Sequence[tuple[Node, Shape]],
    readers: list[str],
    graph: Graph,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int,
) -> Layer:
    value = next(name for name, qualified in graph.tensors.items() if qualified == weight)
    shape = shapes[value]
    sizes = [(given, shapes.get(node.outputs[0], ()), call) for node, given in nodes if (call := layer_call(node))]
    calls = [call for _, _, call in sizes]
    why_not = {
        name: next((why for call in calls if (why := form.fits(call, shape))), "") for name, form in FORMS.items()
    }
    fitting = [name for name, why in why_not.items() if not why]
    ways = {(call.transposed, call.groups) for call in calls if isinstance(call, Convolution)}
    reason = "" if fitting else next(iter(why_not.values()))
    if len(ways) > 1:
        reason = "its weight is shared by convolutions of different groups or directions"
    if not reason and readers:
        reason = f"its weight is also read by {readers[0]}"
    elif not reason and len({isinstance(call, Convolution) for call in calls}) > 1:
        reason = "its weight is shared by a convolution and a linear layer"
    elif not reason and weight not in graph.parameters:
        reason = "its weight is a buffer, not a parameter"
    layer = Layer(
        name=weight.removesuffix(".weight"),
        weight=weight,
        kind=_kind(calls, shape),
        shape=tuple(shape),
        calls=tuple(node.name for node, _ in nodes),
        positions=_per_sample(sum(_positions(*each, any(map(transposed, calls))) for each in sizes), batch),
        decomposed=False,
        form=FORMS[fitting[0]] if fitting else next(iter(FORMS.values())),
        reason=reason or "no rank is smaller than the whole",
        groups=max((groups for _, groups in ways), default=1),
    )
    if reason or not layer.break_even:
        return layer
    suits = {}
    for name in fitting:
        places = [sum(each) for each in zip(*(FORMS[name].positions(*each) for each in sizes), strict=True)]
        # Of a program whose first input's first dimension is no batch, a form is only taken if its costs can be told.
        if all(each >= batch for each in places) or name == fitting[0]:
            suits[name] = tuple(_per_sample(each, batch) for each in places)
    layer = replace(layer, decomposed=True, reason="", suits=suits)
    paying = (name for name in suits if FORMS[name].pays(replace(layer, form=FORMS[name])))
    return replace(layer, suits={name: suits[name] for name in paying})


def _kind(calls: Sequence[Call], shape: Sequence[int]) -> str:
    """What people call the layer."""
    convolutions = [call for call in calls if isinstance(call, Convolution)]
    if all(isinstance(call, Embedding) for call in calls):
        return "embedding"
    if all(isinstance(call, (Recurrent, Handed)) for call in calls):
        return "recurrent"
    if not convolutions:
        return "linear"
    kind = f"conv{len(shape) - 2}d"
    if any(map(transposed, calls)):
        return f"{kind}-transposed"
    return f"{kind}-grouped" if any(call.groups > 1 for call in convolutions) else kind


def _positions(given: Shape, made: Shape, call: Call, by_inputs: bool) -> int:
    """How many times one call multiplies by its weight, over the whole batch; at the positions of what it is given
    (`by_inputs`), if the layer is transposed anywhere. To look up a row is no multiplication; a recurrent call makes
    one at each step."""
    if isinstance(call, Embedding):
        return 0
    if isinstance(call, (Recurrent, Handed)):
        return math.prod(given[:-1])
    size = given if by_inputs else made
    return math.prod(size) // max(size[1] if isinstance(call, Convolution) else size[-1], 1)


def _per_sample(positions: int, batch: int) -> int:
    """Of those over a batch; at least one where there are any."""
    return max(1, positions // batch) if positions else 0
