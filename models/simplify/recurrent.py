"""Recurrent calls as calls of one level and one direction, their inner weights handed on by calls of their own.

A network of several levels and directions is one call with a list of weights, and a layer is one weight with the call
that applies it. So each level and direction becomes a call, to which the weight of its inputs belongs; those by which
it multiplies what it made a step before come from a call that gives back what it is given (see `calls.Handed`), in
whose place factors can stand. A budget of 1 is still the program as it was uploaded (see `master.master`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from rightrank.models.program.calls import HANDED, RECURRENT, Recurrent
from rightrank.models.program.graph import Argument, Graph, Node, Ref, fresh
from rightrank.models.program.program import Program


def apart(program: Program) -> Program:
    """The same function with its recurrent calls as said above; the very `program` that was given where there are none
    of stored weights."""
    graph = program.graph
    taken = {*graph.tensors, *(spec.name for spec in graph.inputs)}
    taken |= {name for node in graph.nodes for name in (node.name, *node.outputs)}
    nodes = tuple(
        each
        for node in graph.nodes
        for single in (_singles(node, taken) if _stored(node, graph) else (node,))
        for each in _handing(single, graph, taken)
    )
    return program if nodes == graph.nodes else Program(graph.replace(nodes=nodes).live(), program.tensors)


def _stored(node: Node, graph: Graph) -> bool:
    """Whether it is a recurrent call all of whose weights are parameters."""
    if node.op not in RECURRENT or node.kwargs or len(node.args) != 9:
        return False
    params = node.args[2]
    return isinstance(params, tuple) and all(graph.stored(each) in graph.parameters for each in params)


def _singles(node: Node, taken: set[str]) -> list[Node]:
    """A recurrent call as those of each of its levels and directions, and what lies between them."""
    data, state, params, biased, levels, _, _, both, batch_first = node.args
    assert isinstance(params, tuple) and isinstance(levels, int)
    ways, steps = 2 if both else 1, 1 if batch_first else 0
    if levels * ways == 1:
        return [node]
    states = state if isinstance(state, tuple) else (state,)
    width = len(params) // (levels * ways)
    made: list[Node] = []
    ends: list[list[Ref]] = [[] for _ in states]

    def call(op: str, *args: Argument, more: int = 0) -> Ref:
        """A new call; its first result, of those that it has `more` than one."""
        names = [fresh(f"{node.name}_{op.split('.')[1]}", taken) for _ in range(1 + more)]
        made.append(Node(names[0], op, args, (), tuple(names)))
        return Ref(names[0])

    for level in range(levels):
        results = []
        for way in range(ways):
            number = level * ways + way
            given = call("aten.flip.default", data, (steps,)) if way else data
            begun = tuple(call("aten.slice.Tensor", each, 0, number, number + 1) for each in states)
            start = begun if isinstance(state, tuple) else begun[0]
            weights = params[number * width : (number + 1) * width]
            options = (biased, 1, 0.0, False, False, batch_first)
            result = call(node.op, given, start, weights, *options, more=len(states))
            for several, name in zip(ends, made[-1].outputs[1:], strict=True):
                several.append(Ref(name))
            results.append(call("aten.flip.default", result, (steps,)) if way else result)
        data = call("aten.cat.default", tuple(results), 2) if both else results[0]
    # The last call makes what `node` made, under the same name.
    made[-1] = dataclasses.replace(made[-1], outputs=(node.outputs[0], *made[-1].outputs[1:]))
    for name, several in zip(node.outputs[1:], ends, strict=True):
        call("aten.cat.default", tuple(several), 0)
        made[-1] = dataclasses.replace(made[-1], outputs=(name,))
    return made


def _handing(node: Node, graph: Graph, taken: set[str]) -> Iterator[Node]:
    """A recurrent call behind those that hand its inner weights on to it; any other call as it is."""
    call = Recurrent.of(node) if _stored(node, graph) else None
    if call is None:
        yield node
        return
    handed: list[Argument] = []
    for weight in (call.hidden, call.projection):
        if isinstance(weight, Ref):
            name = fresh(f"{weight.name}_handed", taken)
            yield Node(name, HANDED, (weight,), (), (name,))
            weight = Ref(name)
        handed.append(weight)
    hidden, projection = handed
    yield dataclasses.replace(node, args=dataclasses.replace(call, hidden=hidden, projection=projection).args)
