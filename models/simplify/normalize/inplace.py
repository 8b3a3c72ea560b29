"""In-place calls become functional ones, where nothing else sees the change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.program.graph import Graph, Node, Ref, TensorMeta, fresh, references
from rightrank.models.program.operators import IN_PLACE, names
from rightrank.models.simplify.normalize.binding import bind, renamed, schema

_OTHER_TWINS = {
    "aten.zero_.default": "aten.zeros_like.default",
    "aten.floor_divide_.Tensor": "aten.floor_divide.default",
    "aten.pow_.Scalar": "aten.pow.Tensor_Scalar",
    "aten.pow_.Tensor": "aten.pow.Tensor_Tensor",
    **{f"aten.__i{n}__.{o}": f"aten.bitwise_{n}.{o}" for n in ("and", "or", "xor") for o in ("Tensor", "Scalar")},
}


# Views of a part of a tensor, and the calls that give it with that part exchanged.
_PARTS = {
    "aten.select.int": "aten.select_scatter.default",
    "aten.slice.Tensor": "aten.slice_scatter.default",
}

# What computes in the dtype that all operands promote to.
_PROMOTING = names(
    "aten",
    """
    add_: Tensor
    sub_: Tensor
    mul_: Tensor
    div_: Tensor Tensor_mode
    pow_: Tensor
    clamp_: Tensor
    clip_: Tensor
    clamp_min_: Tensor
    clamp_max_: Tensor
    remainder_: Tensor
    fmod_: Tensor
    floor_divide_: Tensor
    lerp_: Tensor
    addcmul_ addcdiv_
    __iand__: Tensor
    __ior__: Tensor
    __ixor__: Tensor
    bitwise_and_: Tensor
    bitwise_or_: Tensor
    bitwise_xor_: Tensor
    """,
)


def functional_twin(op: str) -> str:
    """The operator that returns what the in-place `op` would write: aten.relu_.default → aten.relu.default."""
    if op in _OTHER_TWINS:
        return _OTHER_TWINS[op]
    namespace, name, overload = op.split(".")
    return f"{namespace}.{name.removesuffix('_')}.{overload}"


def functional(graph: Graph, metas: Mapping[str, TensorMeta]) -> Graph:
    """In-place calls as functional ones: whoever reads the changed tensor later reads the new value."""
    if not any(node.op in IN_PLACE for node in graph.nodes):
        return graph
    storage = _Storage(graph, metas)
    taken = set(storage.owner)
    newest: dict[str, str] = {}
    kept = []
    for index, node in enumerate(graph.nodes):
        updated = renamed(node, {name: newest.get(storage.owner[name], name) for name in node.inputs()})
        if node.op not in IN_PLACE:
            kept.append(updated)
            continue
        owner = storage.owner[node.outputs[0]]
        above = _above(graph, storage, owner, index, node.op)
        _check_unseen(storage, owner, index, node.op, {base for _, base, _ in above})
        if storage.root(owner) in graph.tensors:
            _check_counter(graph, storage, owner, index)
            continue
        kept += _written(node, updated, metas, taken)
        newest[owner] = node.outputs[0]
        for view, base, link in above:
            kept.append(_put_back(link, newest.get(base, base), newest[view], fresh(f"{base}_changed", taken)))
            newest[base] = kept[-1].outputs[0]
    outputs = tuple(newest.get(storage.owner[name], name) for name in graph.outputs)
    return graph.replace(nodes=tuple(kept), outputs=outputs)


def _written(node: Node, updated: Node, metas: Mapping[str, TensorMeta], taken: set[str]) -> Iterator[Node]:
    """The functional twin of `node`. In place the tensor keeps its dtype where the twin would promote it."""
    twin = functional_twin(node.op)
    dtypes = {metas[name].dtype for name in node.inputs() if name in metas}
    if len(dtypes) < 2 or node.op not in _PROMOTING:
        yield Node(node.name, twin, updated.args, updated.kwargs, node.outputs)
        return
    promoted = fresh(f"{node.name}_promoted", taken)
    yield Node(promoted, twin, updated.args, updated.kwargs, (promoted,))
    before = bind(updated)[schema(node.op).arguments[0].name]
    yield Node(node.name, "aten.type_as.default", (Ref(promoted), before), (), node.outputs)


def _above(graph: Graph, storage: _Storage, owner: str, index: int, op: str) -> list[tuple[str, str, Node]]:
    """What the changed tensor is a part of, as far up as it is read later: each view, its base, and the call between
    them, from the changed one on."""
    links: list[tuple[str, str, Node]] = []
    name = owner
    while len(bases := storage.bases(name)) == 1:
        base, call = bases[0]
        links.append((name, base, graph.nodes[call]))
        name = base
    while links and storage.last_read[links[-1][1]] <= index:
        links.pop()
    if any(link.op not in _PARTS for _, _, link in links):
        raise _seen(op)
    return links


def _put_back(link: Node, base: str, part: str, name: str) -> Node:
    """The base with a part of it exchanged."""
    _, *where = bind(link).values()
    return Node(name, _PARTS[link.op], (Ref(base), Ref(part), *where), (), (name,))


def _seen(op: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"The program changes a tensor in place ({op}) while a view of it is still read.",
        "Export with torch.export.export(…).run_decompositions({}), which removes in-place calls.",
    )


def _check_unseen(storage: _Storage, owner: str, index: int, op: str, above: set[str]) -> None:
    """Nothing made before the change, other than the changed tensor itself and those `above` it, may be read after."""
    for other in storage.overlapping(owner) - above:
        if storage.made[other] < index < storage.last_read[other]:
            raise _seen(op)


def _check_counter(graph: Graph, storage: _Storage, owner: str, index: int) -> None:
    """The one tensor of its own that a program may change: batch norm's counter, which eval mode leaves alone."""
    name = graph.tensors[storage.root(owner)]
    if name.rpartition(".")[2] != "num_batches_tracked" or storage.last_read[owner] > index:
        raise UnsupportedCheckpoint(
            f"The program changes its own tensor {name} while it runs.",
            "Only models without state can be served; call model.eval() before torch.export.export.",
        )


class _Storage:
    """Who shares memory with whom. The outputs of an in-place call belong to the value it changes (`owner`);
    a view is a value of its own, linked to what it looks at."""

    def __init__(self, graph: Graph, metas: Mapping[str, TensorMeta]) -> None:
        self._dtypes = {name: meta.dtype for name, meta in metas.items() if meta.dtype}
        self.owner: dict[str, str] = {}
        self.made: dict[str, int] = {}
        self.last_read: dict[str, int] = {}
        self._bases: dict[str, list[tuple[str, int]]] = {}
        self._views: dict[str, list[tuple[str, int]]] = {}
        self._splits: set[int] = set()
        for name in (*graph.tensors, *(spec.name for spec in graph.inputs)):
            self._make(name, -1)
        for index, node in enumerate(graph.nodes):
            self._add(node, index)
        for name in graph.outputs:
            self.last_read[self.owner[name]] = len(graph.nodes)

    def _make(self, name: str, index: int) -> None:
        self.owner[name] = name
        self.made[name] = self.last_read[name] = index

    def _add(self, node: Node, index: int) -> None:
        for name in node.inputs():
            self.last_read[self.owner[name]] = index
        if node.op in IN_PLACE:
            self.owner[node.outputs[0]] = self.owner[_target(node)]
            return
        if node.op in _DISJOINT:
            self._splits.add(index)
        viewed = _viewed(node)
        for name in filter(None, node.outputs):
            bases = [self.owner[each] for each in viewed if not self._differ(each, name)]
            self._make(name, index)
            self._bases[name] = [(base, index) for base in bases]
            for base in bases:
                self._views.setdefault(base, []).append((name, index))

    def _differ(self, one: str, two: str) -> bool:
        """Whether they are of two types, so that one is a copy; a complex one, of which none is known, is not."""
        return one in self._dtypes and two in self._dtypes and self._dtypes[one] != self._dtypes[two]

    def bases(self, name: str) -> list[tuple[str, int]]:
        """What a view looks at, and the number of the call that made it one."""
        return self._bases.get(name, [])

    def root(self, name: str) -> str:
        while self._bases.get(name):
            name = self._bases[name][0][0]
        return name

    def overlapping(self, name: str) -> set[str]:
        """Every other value that may share memory with `name`; the pieces of one split do not."""
        found: set[str] = set()
        self._down(name, found)
        above = [name]
        while above:
            child = above.pop()
            for base, call in self._bases.get(child, ()):
                if base in found:
                    continue
                found.add(base)
                above.append(base)
                for view, made_by in self._views[base]:
                    if view != child and not (made_by == call and call in self._splits):
                        found.add(view)
                        self._down(view, found)
        return found - {name}

    def _down(self, name: str, found: set[str]) -> None:
        below = [name]
        while below:
            for view, _ in self._views.get(below.pop(), ()):
                if view not in found:
                    found.add(view)
                    below.append(view)


# Views that torch's schemas do not mark as such; and calls whose results are views that do not overlap.
_UNMARKED_VIEWS = names(
    "aten",
    """
    _unsafe_view type_as einsum pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
    broadcast_tensors unsafe_chunk unsafe_split_with_sizes conj_physical sum_to_size cartesian_prod
    unsafe_split: Tensor
    meshgrid: default indexing
    atleast_1d: default Sequence
    atleast_2d: default Sequence
    atleast_3d: default Sequence
    """,
)
_DISJOINT = names(
    "aten",
    """
    split_with_sizes chunk unsafe_chunk unsafe_split_with_sizes
    split: Tensor sizes
    hsplit: int
    vsplit: int
    dsplit: int
    unbind: int
    tensor_split: sections
    unsafe_split: Tensor
    """,
)


def _target(node: Node) -> str:
    target = bind(node)[schema(node.op).arguments[0].name]
    assert isinstance(target, Ref)
    return target.name


def _viewed(node: Node) -> list[str]:
    """The values whose memory the call's results may share."""
    if not node.op.startswith("aten."):
        return []
    if node.op in _UNMARKED_VIEWS:
        return list(node.inputs())
    bound = bind(node)
    return [
        name
        for parameter in schema(node.op).arguments
        if parameter.alias_info is not None
        for name in references(bound[parameter.name])
    ]
