"""One spelling for every program: eval mode, no mutation, canonical operators.

Training-time calls become what the module does in eval mode; in-place calls become their functional
twins where nothing else sees the change, and the program is refused otherwise; each layer gets one
spelling. Every rewrite calls the same kernel on the same operands as the original, so the outputs do
not change by a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from models.errors import UnsupportedCheckpoint
from models.operators import CONSTRUCTORS, IN_PLACE, VANISHING, names
from models.program import Argument, Constant, Graph, Node, Ref, references, substitute

__all__ = ["normalize"]

_Bound: TypeAlias = dict[str, Argument]
_IDENTITIES = names(
    "aten",
    """
    dropout feature_dropout alpha_dropout native_dropout detach alias
    dropout_ feature_dropout_ alpha_dropout_ detach_
    """,
)


def normalize(graph: Graph, tensors: Mapping[str, Tensor], ranks: Mapping[str, int]) -> Graph:
    """The same function in eval mode and canonical spelling; see the module's docstring.

    `ranks` is the number of dimensions of tensor values, where known: it tells a batched convolution
    from one without a batch dimension, which keeps its spelling. Raises UnsupportedCheckpoint for
    mutation that cannot be removed.
    """
    graph = _drop(graph, VANISHING)
    graph = _without_identities(graph, _IDENTITIES)
    graph = _functional(graph)
    graph = _without_identities(graph, frozenset({"aten.lift_fresh_copy.default"}))
    graph = _canonical(graph, tensors, ranks)
    return _without_dead(graph)


def bind(node: Node) -> _Bound:
    """Every argument of an aten call by its schema name, defaults filled in."""
    parameters = _schema(node.op).arguments
    bound: _Bound = {}
    for index, parameter in enumerate(parameters):
        if index < len(node.args):
            bound[parameter.name] = node.args[index]
        elif parameter.has_default_value():
            bound[parameter.name] = _plain(parameter.default_value)
    bound.update(node.kwargs)
    return bound


def _schema(op: str) -> Any:
    _, name, overload = op.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)._schema


def _plain(value: Any) -> Argument:
    return tuple(_plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def _renamed(node: Node, new: Mapping[str, str]) -> Node:
    return Node(
        node.name,
        node.op,
        tuple(substitute(a, new) for a in node.args),
        tuple((key, substitute(value, new)) for key, value in node.kwargs),
        node.outputs,
        node.listed,
    )


def _drop(graph: Graph, ops: frozenset[str]) -> Graph:
    return graph.replace(nodes=tuple(node for node in graph.nodes if node.op not in ops))


def _without_identities(graph: Graph, ops: frozenset[str]) -> Graph:
    """Calls that return their first argument unchanged (in eval mode), replaced by that argument."""
    sources: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        node = _renamed(node, sources)
        source = node.args[0] if node.args else None
        if node.op in ops and isinstance(source, Ref):
            sources[node.outputs[0]] = source.name
        else:
            kept.append(node)
    return graph.replace(nodes=tuple(kept), outputs=tuple(sources.get(name, name) for name in graph.outputs))


# --- in-place calls -----------------------------------------------------------------------------

_OTHER_TWINS = {
    "aten.zero_.default": "aten.zeros_like.default",
    "aten.pow_.Scalar": "aten.pow.Tensor_Scalar",
    "aten.pow_.Tensor": "aten.pow.Tensor_Tensor",
}


def functional_twin(op: str) -> str:
    """The operator that returns what the in-place `op` would write: aten.relu_.default → aten.relu.default."""
    if op in _OTHER_TWINS:
        return _OTHER_TWINS[op]
    namespace, name, overload = op.split(".")
    return f"{namespace}.{name.removesuffix('_')}.{overload}"


def _functional(graph: Graph) -> Graph:
    """In-place calls as functional ones: whoever reads the changed tensor later reads the new value."""
    if not any(node.op in IN_PLACE for node in graph.nodes):
        return graph
    storage = _Storage(graph)
    newest: dict[str, str] = {}
    kept = []
    for index, node in enumerate(graph.nodes):
        renamed = _renamed(node, {name: newest.get(storage.owner[name], name) for name in node.inputs()})
        if node.op not in IN_PLACE:
            kept.append(renamed)
            continue
        owner = storage.owner[node.outputs[0]]
        _check_unseen(storage, owner, index, node.op)
        if storage.root(owner) in graph.tensors:
            _check_counter(graph, storage, owner, index)
            continue
        kept.append(Node(node.name, functional_twin(node.op), renamed.args, renamed.kwargs, node.outputs))
        newest[owner] = node.outputs[0]
    outputs = tuple(newest.get(storage.owner[name], name) for name in graph.outputs)
    return graph.replace(nodes=tuple(kept), outputs=outputs)


def _check_unseen(storage: _Storage, owner: str, index: int, op: str) -> None:
    """Nothing made before the change, other than the changed tensor itself, may be read after it."""
    for other in storage.overlapping(owner):
        if storage.made[other] < index < storage.last_read[other]:
            raise UnsupportedCheckpoint(
                f"The program changes a tensor in place ({op}) while a view of it is still read.",
                "Export with torch.export.export(…).run_decompositions({}), which removes in-place calls.",
            )


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

    def __init__(self, graph: Graph) -> None:
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
        bases = [self.owner[name] for name in _viewed(node)]
        for name in filter(None, node.outputs):
            self._make(name, index)
            self._bases[name] = [(base, index) for base in bases]
            for base in bases:
                self._views.setdefault(base, []).append((name, index))

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
    broadcast_tensors unsafe_chunk unsafe_split_with_sizes
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
    unbind: int
    tensor_split: sections
    unsafe_split: Tensor
    """,
)


def _target(node: Node) -> str:
    target = bind(node)[_schema(node.op).arguments[0].name]
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
        for parameter in _schema(node.op).arguments
        if parameter.alias_info is not None
        for name in references(bound[parameter.name])
    ]


# --- spelling -----------------------------------------------------------------------------------


class _Context:
    """What a rewrite may look at besides its own call."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], ranks: Mapping[str, int]) -> None:
        self.shapes = {name: tuple(tensors[qualified].shape) for name, qualified in graph.tensors.items()}
        self.ranks = {**ranks, **{name: len(shape) for name, shape in self.shapes.items()}}
        self.transposed: dict[str, str] = {}
        self.read = {name for node in graph.nodes for name in node.inputs()} | set(graph.outputs)

    def shape(self, argument: Argument) -> tuple[int, ...] | None:
        """The shape of a weight; None for what is computed."""
        return self.shapes.get(argument.name) if isinstance(argument, Ref) else None

    def rank(self, argument: Argument) -> int | None:
        return self.ranks.get(argument.name) if isinstance(argument, Ref) else None

    def untransposed(self, argument: Argument) -> Ref | None:
        """The two-dimensional weight whose transpose the argument is."""
        if isinstance(argument, Ref) and argument.name in self.transposed:
            return Ref(self.transposed[argument.name])
        return None


def _canonical(graph: Graph, tensors: Mapping[str, Tensor], ranks: Mapping[str, int]) -> Graph:
    context = _Context(graph, tensors, ranks)
    kept = []
    for node in graph.nodes:
        _note_transpose(node, context)
        rewrite = _REWRITES.get(node.op)
        kept.append(rewrite(node, bind(node), context) if rewrite else node)
    return graph.replace(nodes=tuple(kept))


def _call(node: Node, op: str, *args: Argument) -> Node:
    return Node(node.name, op, args, (), node.outputs)


def _note_transpose(node: Node, context: _Context) -> None:
    if node.op not in ("aten.t.default", "aten.permute.default", "aten.transpose.int"):
        return
    bound = bind(node)
    source = bound["self"]
    shape = context.shape(source)
    if not isinstance(source, Ref) or shape is None or len(shape) != 2:
        return
    dims = bound.get("dims", (bound.get("dim0", 1), bound.get("dim1", 0)))
    if node.op == "aten.t.default" or _is_swap(dims):
        context.transposed[node.outputs[0]] = source.name


def _is_swap(dims: Argument) -> bool:
    if not isinstance(dims, tuple) or not all(type(d) is int for d in dims):
        return False
    return {int(d) % 2 for d in dims} == {0, 1} and (len(dims) == 2)  # type: ignore[arg-type]


def _linear(node: Node, bound: _Bound, context: _Context) -> Node:
    return _call(node, "aten.linear.default", bound["input"], bound["weight"], bound["bias"])


def _addmm(node: Node, bound: _Bound, context: _Context) -> Node:
    """torch's linear on a matrix is this very call: addmm(bias, input, weight.t())."""
    weight = context.untransposed(bound["mat2"])
    if weight is None or context.rank(bound["self"]) != 1 or (bound["beta"], bound["alpha"]) != (1, 1):
        return node
    return _call(node, "aten.linear.default", bound["mat1"], weight, bound["self"])


def _matmul(node: Node, bound: _Bound, context: _Context) -> Node:
    """torch's linear without a bias is this very call: matmul(input, weight.t())."""
    weight = context.untransposed(bound.get("mat2", bound.get("other")))
    if weight is None:
        return node
    return _call(node, "aten.linear.default", bound["self"], weight, None)


def _convolution_of(dims: int) -> Callable[[Node, _Bound, _Context], Node]:
    def rewrite(node: Node, bound: _Bound, context: _Context) -> Node:
        padding = bound["padding"]
        if isinstance(padding, str):
            padding = _symmetric(padding, bound, dims, context)
        if padding is None or context.rank(bound["input"]) != dims + 2:
            return node
        transposed = "output_padding" in bound
        return _call(
            node,
            "aten.convolution.default",
            bound["input"],
            bound["weight"],
            bound["bias"],
            _spread(bound["stride"], dims),
            _spread(padding, dims),
            _spread(bound["dilation"], dims),
            transposed,
            _spread(bound["output_padding"], dims) if transposed else (0,) * dims,
            bound["groups"],
        )

    return rewrite


def _spread(value: Argument, dims: int) -> Argument:
    """One number for all dimensions, or a list of one, as a full list."""
    items = value if isinstance(value, tuple) else (value,)
    return items * dims if len(items) == 1 else items


def _symmetric(padding: str, bound: _Bound, dims: int, context: _Context) -> Argument:
    """padding="same" or "valid" as numbers; None where the two sides differ, or the kernel is computed."""
    if padding == "valid":
        return (0,) * dims
    shape = context.shape(bound["weight"])
    dilation = _spread(bound["dilation"], dims)
    if shape is None or not isinstance(dilation, tuple):
        return None
    totals = [int(d) * (k - 1) for d, k in zip(dilation, shape[2:], strict=True)]  # type: ignore[arg-type]
    return None if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)


def _convolution(node: Node, bound: _Bound, context: _Context) -> Node:
    parameters, rank = _schema("aten.convolution.default").arguments, context.rank(bound["input"])
    if rank is not None and rank > 3:
        names = ("stride", "padding", "dilation", "output_padding")
        bound = {**bound, **{name: _spread(bound[name], rank - 2) for name in names}}
    return _call(node, "aten.convolution.default", *(bound[parameter.name] for parameter in parameters))


def _batch_norm(node: Node, bound: _Bound, context: _Context) -> Node:
    """Every spelling of batch norm as the one of eval mode, unless the layer keeps no statistics."""
    mean, variance = bound["running_mean"], bound["running_var"]
    if mean is None or variance is None:
        return node
    if any(name in context.read for name in node.outputs[1:]):
        raise UnsupportedCheckpoint(
            f"The program uses the batch statistics that {node.op} returns.",
            "Call model.eval() before torch.export.export.",
        )
    momentum = bound.get("momentum", bound.get("exponential_average_factor"))
    return Node(
        node.name,
        "aten.batch_norm.default",
        (
            bound[_schema(node.op).arguments[0].name],
            bound["weight"],
            bound["bias"],
            mean,
            variance,
            False,
            momentum if isinstance(momentum, float) else 0.0,
            bound.get("eps", bound.get("epsilon", 1e-5)),
            False,
        ),
        (),
        node.outputs[:1],
    )


def _reshape(node: Node, bound: _Bound, context: _Context) -> Node:
    """A view demands a memory layout that kernels of other devices need not produce; reshape takes any."""
    return _call(node, "aten.reshape.default", bound["self"], bound["size"])


def _placed(node: Node, bound: _Bound, context: _Context) -> Node:
    """A tensor made from numbers alone is made where the program runs, which the argument `device` stands for."""
    if bound["device"] is not None:
        return node
    kwargs = {**dict(node.kwargs), "device": Constant("device", "cpu")}
    return Node(node.name, node.op, node.args, tuple(kwargs.items()), node.outputs)


def _zeros(node: Node, bound: _Bound, context: _Context) -> Node:
    """Memory that the program fills before it reads it: zeros do as well, and let nothing leak."""
    kwargs = tuple((key, value) for key, value in node.kwargs if key != "memory_format")
    return _placed(Node(node.name, "aten.zeros.default", node.args, kwargs, node.outputs), bound, context)


def _without_chance(name: str, value: Argument) -> Callable[[Node, _Bound, _Context], Node]:
    """The call with the argument that makes it random in training set to what eval mode passes."""

    def rewrite(node: Node, bound: _Bound, context: _Context) -> Node:
        at = next(i for i, p in enumerate(_schema(node.op).arguments) if p.name == name)
        args = tuple(value if i == at else a for i, a in enumerate(node.args))
        kwargs = tuple((key, value if key == name else v) for key, v in node.kwargs)
        return Node(node.name, node.op, args, kwargs, node.outputs, node.listed)

    return rewrite


_BATCH_NORMS = names(
    "aten",
    """
    batch_norm native_batch_norm cudnn_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
    _batch_norm_no_update _batch_norm_with_update_functional
    """,
)

_REWRITES: dict[str, Callable[[Node, _Bound, _Context], Node]] = {
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    "aten.mm.default": _matmul,
    "aten.matmul.default": _matmul,
    "aten.view.default": _reshape,
    "aten._unsafe_view.default": _reshape,
    **dict.fromkeys(CONSTRUCTORS, _placed),
    "aten.empty.memory_format": _zeros,
    "aten._convolution.default": _convolution,
    "aten.convolution.default": _convolution,
    **{f"aten.conv{n}d.{o}": _convolution_of(n) for n in (1, 2, 3) for o in ("default", "padding")},
    "aten.conv_transpose1d.default": _convolution_of(1),
    "aten.conv_transpose2d.input": _convolution_of(2),
    "aten.conv_transpose3d.input": _convolution_of(3),
    "aten.scaled_dot_product_attention.default": _without_chance("dropout_p", 0.0),
    "aten._scaled_dot_product_flash_attention_for_cpu.default": _without_chance("dropout_p", 0.0),
    "aten.rrelu.default": _without_chance("training", False),
    **{
        f"aten.{name}.input": _without_chance("train", False)
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    },
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
}


# --- what nobody reads --------------------------------------------------------------------------


def _without_dead(graph: Graph) -> Graph:
    """Only calls that an output depends on; results that nobody reads lose their name. Parameters stay, as they
    count; buffers that nobody reads go."""
    read = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if not read.isdisjoint(node.outputs):
            outputs = tuple(name if name in read else "" for name in node.outputs)
            kept.append(Node(node.name, node.op, node.args, node.kwargs, outputs, node.listed))
            read.update(node.inputs())
    tensors = {
        name: qualified
        for name, qualified in graph.tensors.items()
        if name in read or qualified in graph.parameters
    }
    return graph.replace(nodes=tuple(reversed(kept)), tensors=tensors)
