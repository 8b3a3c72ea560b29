"""Weights that a program computes from stored tensors become stored themselves, so that their layers can be cut.

Weight norm, weight standardisation, an update of low rank that was never merged, one matrix split into the weights of
three layers: such calls read a computed value, and it has no ranks to choose from. What is computed from stored tensors
alone is the same for every input, so it is computed here, once. And x·W, with W stored inputs first, is the
linear layer of Wᵀ. A budget of 1 is still the program as it was uploaded (see `master`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models import execute
from models.layers import CONVOLUTION, LINEAR
from models.normalize.binding import bind
from models.program import Argument, Graph, Node, Ref

# Of a product's arguments by name: the input, the matrix, what is added.
_PRODUCTS = {
    "aten.matmul.default": ("self", "other", ""),
    "aten.mm.default": ("self", "mat2", ""),
    "aten.addmm.default": ("mat1", "mat2", "self"),
}


@dataclass(frozen=True)
class _Call:
    """A layer's call as it is to be, and which of its arguments have to be stored first: by position, the value,
    and whether it is its transpose that is read."""

    node: Node
    reads: Mapping[int, tuple[str, bool]]


def fold(graph: Graph, tensors: Mapping[str, Tensor]) -> tuple[Graph, Mapping[str, Tensor]]:
    """The same function with the weights and biases of all layers stored, where that takes no more parameters;
    `graph` and `tensors` themselves where nothing is to be done.

    A new tensor has the name of one that it is made of, of its size, that nobody reads any more; else one beside it.
    """
    sources = _sources(graph)
    shapes = execute.shapes(graph, tensors)
    shapes |= {value: tuple(tensors[name].shape) for value, name in graph.tensors.items()}
    for calls in _groups(_calls(graph, sources, shapes), sources):
        graph, tensors = _stored(graph, tensors, calls, sources)
    return graph, tensors


def _sources(graph: Graph) -> dict[str, frozenset[str]]:
    """The values that do not depend on the inputs, each with the stored tensors that it is computed from."""
    found = {value: frozenset([name]) for value, name in graph.tensors.items()}
    for node in graph.nodes:
        inputs = list(node.inputs())
        if all(name in found for name in inputs):
            made_of = frozenset[str]().union(*(found[name] for name in inputs))
            found.update((name, made_of) for name in node.outputs)
    return found


def _calls(
    graph: Graph, sources: Mapping[str, frozenset[str]], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[_Call]:
    """The calls that would read something else."""

    def constant(argument: Argument) -> bool:
        return isinstance(argument, Ref) and argument.name in sources

    for node in graph.nodes:
        reads: dict[int, tuple[str, bool]] = {}
        if node.op in _PRODUCTS:
            turned = _turned(node, shapes)
            if turned is None:
                continue
            node = turned
            reads[1] = node.args[1].name, True  # type: ignore[union-attr]
        elif node.op not in (LINEAR, CONVOLUTION):
            continue
        if constant(node.args[0]) or not constant(node.args[1]) or not (node.args[2] is None or constant(node.args[2])):
            continue
        for position in (1, 2):
            argument = node.args[position]
            if isinstance(argument, Ref) and argument.name not in graph.tensors:
                reads.setdefault(position, (argument.name, False))
        if reads and all(sources[value] & graph.parameters for value, _ in reads.values()):
            yield _Call(node, reads)


def _turned(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Node | None:
    """A product as a linear layer of the matrix's transpose, if it is one."""
    bound = bind(node)
    inputs, matrix, added = (bound.get(name) for name in _PRODUCTS[node.op])
    shape = shapes.get(matrix.name) if isinstance(matrix, Ref) else None
    if shape is None or len(shape) != 2 or (bound.get("beta", 1), bound.get("alpha", 1)) != (1, 1):
        return None
    if isinstance(added, Ref) and shapes.get(added.name) != shape[1:]:
        return None
    return Node(node.name, LINEAR, (inputs, matrix, added), (), node.outputs)


def _groups(calls: Iterable[_Call], sources: Mapping[str, frozenset[str]]) -> list[list[_Call]]:
    """Calls that are made of the same tensors, which go only when nobody reads them any more."""
    groups: list[tuple[frozenset[str], list[_Call]]] = []
    for call in calls:
        made_of = frozenset[str]().union(*(sources[value] for value, _ in call.reads.values()))
        members = []
        for other in [group for group in groups if group[0] & made_of]:
            groups.remove(other)
            made_of |= other[0]
            members += other[1]
        groups.append((made_of, [*members, call]))
    return [members for _, members in groups]


def _stored(
    graph: Graph, tensors: Mapping[str, Tensor], calls: list[_Call], sources: Mapping[str, frozenset[str]]
) -> tuple[Graph, Mapping[str, Tensor]]:
    """The program with what these calls read stored, if that takes no more parameters and they are finite."""
    wanted = list(dict.fromkeys(read for call in calls for read in call.reads.values()))
    computed = _computed(graph, tensors, wanted, sources)
    if not all(tensor.is_floating_point() and bool(tensor.isfinite().all()) for tensor in computed.values()):
        return graph, tensors
    made = {name for node in graph.nodes for name in node.outputs}
    taken = {*sources, *graph.tensors, *(spec.name for spec in graph.inputs), *made}
    values: dict[tuple[str, bool], str] = {}
    for read, tensor in computed.items():
        # The same may be computed twice, as where a program transposes a shared weight before each use.
        again = (values[other] for other in values if torch.equal(computed[other], tensor))
        values[read] = next(again, "") or _fresh(f"{read[0]}_stored", taken)
    instead = {call.node.name: _reading(call, values) for call in calls}
    changed = graph.replace(nodes=tuple(instead.get(node.name, node) for node in graph.nodes)).live()
    gone = graph.read - changed.read
    fewer = {name: tensor for name, tensor in tensors.items() if name not in gone}
    added: dict[str, str] = {}
    for read, tensor in computed.items():
        if values[read] in added:
            continue
        made_of = sorted(sources[read[0]], key=lambda name: (name not in graph.parameters, name))
        name = _name(read[0], tensor, {name: tensors[name] for name in made_of}, fewer)
        added[values[read]], fewer[name] = name, tensor
    kept = {value: name for value, name in changed.tensors.items() if name not in gone}
    changed = changed.replace(tensors={**kept, **added}, parameters=(graph.parameters - gone).union(added.values()))
    if execute.parameters(changed, fewer) > execute.parameters(graph, tensors):
        return graph, tensors
    return changed, fewer


def _name(value: str, tensor: Tensor, made_of: Mapping[str, Tensor], taken: Mapping[str, Tensor]) -> str:
    for name, source in made_of.items():
        if name not in taken and source.numel() == tensor.numel():
            return name
    return _fresh(f"{next(iter(made_of))}.{value}", {*taken, *made_of})


def _reading(call: _Call, values: Mapping[tuple[str, bool], str]) -> Node:
    args = [Ref(values[call.reads[at]]) if at in call.reads else given for at, given in enumerate(call.node.args)]
    return Node(call.node.name, call.node.op, tuple(args), call.node.kwargs, call.node.outputs)


def _computed(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    wanted: list[tuple[str, bool]],
    sources: Mapping[str, frozenset[str]],
) -> dict[tuple[str, bool], Tensor]:
    """The values, or their transposes, each in memory of its own."""
    constant = tuple(node for node in graph.nodes if sources.keys() >= {*node.outputs})
    part = graph.replace(nodes=constant, outputs=tuple(value for value, _ in wanted)).live()
    with torch.no_grad():
        found = execute.run(part, tensors, execute.example_inputs(graph, 1))
    return {
        read: (value.t() if read[1] else value).clone(memory_format=torch.contiguous_format)
        for read, value in zip(wanted, found, strict=True)
    }


def _fresh(name: str, taken: set[str]) -> str:
    """The name, or one like it, that is not taken; it is then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
