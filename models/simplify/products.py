"""Products with a stored matrix, in whichever way they came, as calls of the matrix itself.

Decomposed, a linear layer on an input of three dimensions is `bmm(x, expand(Wᵀ))`. An autoencoder multiplies by W on
its way in and by Wᵀ on its way out, a language model's head by the table that its words were looked up in: one tensor,
read both ways. `aten.linear` reads a weight (C_out, C_in), `aten.matmul` one that lies the other way round; so nothing
has to be stored twice, and both are calls of one layer.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from rightrank.models.program.calls import LINEAR, PRODUCT
from rightrank.models.program.graph import Argument, Graph, Node, Ref, fresh
from rightrank.models.program.program import Program
from rightrank.models.simplify.normalize.binding import bind, renamed

ADD, RESHAPE = "aten.add.Tensor", "aten.reshape.default"
_TURNS = ("aten.t.default", "aten.permute.default", "aten.transpose.int")
_REPEATS = ("aten.expand.default", RESHAPE, "aten.unsqueeze.default")
# Of a product's arguments by name: the input, the matrix, what is added.
_PRODUCTS = {
    "aten.bmm.default": ("self", "mat2", ""),
    PRODUCT: ("self", "other", ""),
    "aten.mm.default": ("self", "mat2", ""),
    "aten.addmm.default": ("mat1", "mat2", "self"),
    LINEAR: ("input", "weight", "bias"),
}


class View(NamedTuple):
    """What a value is of a stored matrix: the matrix's value, whether transposed, and in how many copies (0: it is a
    matrix itself)."""

    of: str
    transposed: bool = False
    copies: int = 0


class Found(NamedTuple):
    """A call's input, the matrix that it multiplies by, and what is added."""

    given: Argument
    view: View
    added: Argument


def products(program: Program) -> Program:
    """The same function with such products as calls of the matrices; the very `program` that was given where there are
    none.

    What is the only product of its matrix, and no bmm, is left as it is: `fold` stores the matrix as it is read.
    """
    graph, shapes = program.graph, program.shapes
    views = _views(graph, shapes)
    found = {node.name: each for node in graph.nodes if (each := _product(node, views, shapes)) is not None}
    readers = Counter(node_view.of for node_view in (each.view for each in found.values()))
    readers.update(views[name].of for node in graph.nodes if node.name not in found for name in _read(node, views))
    instead: dict[str, tuple[Node, ...]] = {}
    made = {name for node in graph.nodes for name in node.outputs}
    taken = {*graph.tensors, *(spec.name for spec in graph.inputs), *made}
    for node in graph.nodes:
        each = found.get(node.name)
        if each is not None and (each.view.copies or readers[each.view.of] > 1 and _is_another(node, each)):
            instead[node.name] = _calls(node, each, taken)
    if not instead:
        return program
    changed = graph.replace(nodes=tuple(new for node in graph.nodes for new in instead.get(node.name, (node,)))).live()
    return Program(_with_biases(changed, shapes, frozenset(instead)), program.tensors)


def _views(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, View]:
    """The values that are nothing but a stored matrix, turned or repeated."""
    views = {name: View(name) for name in graph.tensors if len(shapes[name]) == 2 and min(shapes[name]) > 1}
    for node in graph.nodes:
        source = node.args[0] if node.args else None
        view = views.get(source.name) if isinstance(source, Ref) else None
        if view is None or not isinstance(source, Ref) or node.op not in (*_TURNS, *_REPEATS):
            continue
        before, after = shapes[source.name], shapes[node.outputs[0]]
        if node.op in _TURNS:
            if not view.copies and _swaps(node):
                views[node.outputs[0]] = view._replace(transposed=not view.transposed)
        elif len(after) == 3 and after[1:] == before[-2:] and _keeps(node, after):
            views[node.outputs[0]] = view._replace(copies=after[0])
    return views


def _swaps(node: Node) -> bool:
    """Whether a call turns a matrix; it could leave one as it is."""
    if node.op == "aten.t.default":
        return True
    bound = bind(node)
    dims = bound.get("dims", (bound.get("dim0", 1), bound.get("dim1", 0)))
    return isinstance(dims, tuple) and [int(d) % 2 for d in dims if isinstance(d, int)] == [1, 0]


def _keeps(node: Node, after: tuple[int, ...]) -> bool:
    """Whether the last two sizes stay whatever the free ones are."""
    if node.op == "aten.unsqueeze.default":
        return bind(node)["dim"] == 0
    sizes = _sizes(node)
    return isinstance(sizes, tuple) and len(sizes) == 3 and sizes[1:] == after[1:]


def _product(node: Node, views: Mapping[str, View], shapes: Mapping[str, tuple[int, ...]]) -> Found | None:
    """What a call multiplies by what view of a stored matrix, if it does."""
    if node.op not in _PRODUCTS:
        return None
    bound = bind(node)
    given, matrix, added = (bound.get(name) for name in _PRODUCTS[node.op])
    view = views.get(matrix.name) if isinstance(matrix, Ref) else None
    if view is None or (bound.get("beta", 1), bound.get("alpha", 1)) != (1, 1):
        return None
    if not isinstance(given, Ref) or given.name in views or bool(view.copies) != (node.op == "aten.bmm.default"):
        return None
    # A linear layer transposes what it is given.
    view = view._replace(transposed=view.transposed != (node.op == LINEAR))
    outputs = shapes[view.of][0 if view.transposed else 1]
    if isinstance(added, Ref) and shapes.get(added.name) != (outputs,):
        return None
    return Found(given, view, added)


def _is_another(node: Node, found: Found) -> bool:
    """Whether the call of the matrix itself is another than this one is."""
    weight = bind(node)[_PRODUCTS[node.op][1]]
    return weight != Ref(found.view.of) or node.op not in (LINEAR, PRODUCT)


def _read(node: Node, views: Mapping[str, View]) -> list[str]:
    """The views that a call reads, if it makes no view of them."""
    return [] if node.outputs[0] in views else [name for name in node.inputs() if name in views]


def _calls(node: Node, found: Found, taken: set[str]) -> tuple[Node, ...]:
    matrix = Ref(found.view.of)
    if found.view.transposed:
        return (Node(node.name, LINEAR, (found.given, matrix, found.added), (), node.outputs),)
    if found.added is None:
        return (Node(node.name, PRODUCT, (found.given, matrix), (), node.outputs),)
    inner = fresh(f"{node.outputs[0]}_product", taken)
    product = Node(f"{node.name} product", PRODUCT, (found.given, matrix), (), (inner,))
    return product, Node(node.name, ADD, (Ref(inner), found.added), (), node.outputs)


def _with_biases(graph: Graph, shapes: Mapping[str, tuple[int, ...]], calls: frozenset[str]) -> Graph:
    """Biases that are added to what `calls` made, a reshape later, as the layers' own."""
    users = graph.users()
    biases: dict[str, Argument] = {}
    sources: dict[str, str] = {}
    for node in graph.nodes:
        if node.name not in calls or node.op != LINEAR or node.args[2] is not None:
            continue
        value = node.outputs[0]
        outputs = shapes[value][-1]
        while value not in graph.outputs and len(users.get(value, ())) == 1:
            user = users[value][0]
            sizes = _sizes(user) if user.op == RESHAPE else None
            if isinstance(sizes, tuple) and sizes[-1:] == (outputs,):
                value = user.outputs[0]
                continue
            bias = _bias(user, value, graph)
            if bias is not None and shapes[bias.name] == (outputs,):
                biases[node.name] = bias
                sources[user.outputs[0]] = value
            break
    if not biases:
        return graph
    kept = []
    for node in graph.nodes:
        if node.outputs[0] in sources:
            continue
        if node.name in biases:
            node = dataclasses.replace(node, args=(*node.args[:2], biases[node.name]))
        kept.append(renamed(node, sources))
    return graph.replace(nodes=tuple(kept), outputs=tuple(sources.get(name, name) for name in graph.outputs))


def _sizes(node: Node) -> Argument:
    """Those that a reshape or an expand is told."""
    bound = bind(node)
    return bound["shape" if node.op == RESHAPE else "size"]


def _bias(node: Node, value: str, graph: Graph) -> Ref | None:
    """The stored tensor that a call adds to a value."""
    if node.op != ADD or node.kwargs or len(node.args) != 2:
        return None
    others = [each for each in node.args if each != Ref(value)]
    (other,) = others if len(others) == 1 else (None,)
    return other if isinstance(other, Ref) and graph.stored(other) is not None else None
