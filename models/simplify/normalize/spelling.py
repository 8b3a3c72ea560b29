"""Each layer gets one spelling, and train-time calls that of eval mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.program.calls import BATCH_NORM, CONVOLUTION, LINEAR
from rightrank.models.program.graph import Argument, Constant, Graph, Node, Ref, TensorMeta
from rightrank.models.program.operators import CONSTRUCTORS, names
from rightrank.models.simplify.normalize.binding import Bound, bind, schema


class _Context:
    """What a rewrite may look at besides its own call."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], metas: Mapping[str, TensorMeta]) -> None:
        self.shapes = {name: tuple(tensors[qualified].shape) for name, qualified in graph.tensors.items()}
        self.declared: dict[str, tuple[int | None, ...]] = {name: meta.shape for name, meta in metas.items()}
        self.declared.update(self.shapes)
        self.transposed: dict[str, str] = {}
        self.makers = {name: node for node in graph.nodes for name in node.outputs}
        self.read = {name for node in graph.nodes for name in node.inputs()} | set(graph.outputs)

    def shape(self, argument: Argument) -> tuple[int, ...] | None:
        """The shape of a weight; None for what is computed."""
        return self.shapes.get(argument.name) if isinstance(argument, Ref) else None

    def rank(self, argument: Argument) -> int | None:
        shape = self.sizes(argument)
        return None if shape is None else len(shape)

    def sizes(self, argument: Argument) -> tuple[int | None, ...] | None:
        """The shape of anything; None for what nothing is known of."""
        return self.declared.get(argument.name) if isinstance(argument, Ref) else None

    def untransposed(self, argument: Argument) -> Ref | None:
        """The two-dimensional weight whose transpose the argument is."""
        if isinstance(argument, Ref) and argument.name in self.transposed:
            return Ref(self.transposed[argument.name])
        return None


def canonical(graph: Graph, tensors: Mapping[str, Tensor], metas: Mapping[str, TensorMeta]) -> Graph:
    """The same graph in canonical operators (see `normalize` for `metas`)."""
    context = _Context(graph, tensors, metas)
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


def _linear(node: Node, bound: Bound, context: _Context) -> Node:
    return _call(node, LINEAR, bound["input"], bound["weight"], bound["bias"])


def _addmm(node: Node, bound: Bound, context: _Context) -> Node:
    """torch's linear on a matrix is this very call: addmm(bias, input, weight.t())."""
    weight = context.untransposed(bound["mat2"])
    if weight is None or context.rank(bound["self"]) != 1 or (bound["beta"], bound["alpha"]) != (1, 1):
        return node
    return _call(node, LINEAR, bound["mat1"], weight, bound["self"])


def _matmul(node: Node, bound: Bound, context: _Context) -> Node:
    """torch's linear without a bias is this very call: matmul(input, weight.t())."""
    weight = context.untransposed(bound.get("mat2", bound.get("other")))
    if weight is None:
        return node
    return _call(node, LINEAR, bound["self"], weight, None)


def _convolution_of(dims: int) -> Callable[[Node, Bound, _Context], Node]:
    def rewrite(node: Node, bound: Bound, context: _Context) -> Node:
        padding = bound["padding"]
        if isinstance(padding, str):
            padding = _symmetric(padding, bound, dims, context)
        if padding is None or context.rank(bound["input"]) != dims + 2:
            return node
        transposed = "output_padding" in bound
        return _call(
            node,
            CONVOLUTION,
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


def _symmetric(padding: str, bound: Bound, dims: int, context: _Context) -> Argument:
    """padding="same" or "valid" as numbers; None where the two sides differ, or the kernel's size is not known."""
    if padding == "valid":
        return (0,) * dims
    kernel = [size for size in (context.sizes(bound["weight"]) or ())[2:] if size is not None]
    dilation = _spread(bound["dilation"], dims)
    if len(kernel) != dims or not isinstance(dilation, tuple) or len(dilation) != dims:
        return None
    totals = [int(d) * (k - 1) for d, k in zip(dilation, kernel, strict=True)]  # type: ignore[arg-type]
    return None if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)


def _convolution(node: Node, bound: Bound, context: _Context) -> Node:
    parameters, rank = schema(CONVOLUTION).arguments, context.rank(bound["input"])
    if rank is not None and rank > 3:
        names = ("stride", "padding", "dilation", "output_padding")
        bound = {**bound, **{name: _spread(bound[name], rank - 2) for name in names}}
    return _call(node, CONVOLUTION, *(bound[parameter.name] for parameter in parameters))


def _batch_norm(node: Node, bound: Bound, context: _Context) -> Node:
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
        BATCH_NORM,
        (
            bound[schema(node.op).arguments[0].name],
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


def _reshape(node: Node, bound: Bound, context: _Context) -> Node:
    """A view demands a memory layout that kernels of other devices need not produce; reshape takes any."""
    return _call(node, "aten.reshape.default", bound["self"], bound["size"])


def _bitwise(node: Node, bound: Bound, context: _Context) -> Node:
    """`a & b` is bitwise_and under another name."""
    _, name, overload = node.op.split(".")
    return _call(node, f"aten.bitwise_{name.strip('_')}.{overload}", bound["self"], bound["other"])


def _placed(node: Node, bound: Bound, context: _Context) -> Node:
    """A tensor made from numbers alone is made where the program runs, which the argument `device` stands for."""
    if bound["device"] is not None:
        return node
    kwargs = {**dict(node.kwargs), "device": Constant("device", "cpu")}
    return Node(node.name, node.op, node.args, tuple(kwargs.items()), node.outputs)


def _zeros(node: Node, bound: Bound, context: _Context) -> Node:
    """Memory that the program fills before it reads it: zeros do as well, and let nothing leak."""
    kwargs = tuple((key, value) for key, value in node.kwargs if key != "memory_format")
    return _placed(Node(node.name, "aten.zeros.default", node.args, kwargs, node.outputs), bound, context)


def _filled(op: str) -> Callable[[Node, Bound, _Context], Node]:
    """The call that makes zeros of the same shape, for one that leaves the memory as it is."""

    def rewrite(node: Node, bound: Bound, context: _Context) -> Node:
        return Node(node.name, op, node.args, node.kwargs, node.outputs)

    return rewrite


def _checked(op: str) -> Callable[[Node, Bound, _Context], Node]:
    """An index that torch's decompositions take for sound, as one that is looked at."""

    def rewrite(node: Node, bound: Bound, context: _Context) -> Node:
        return Node(node.name, op, node.args, node.kwargs, node.outputs)

    return rewrite


def _bags(node: Node, bound: Bound, context: _Context) -> Node:
    """Bags of one length: kernels look only at the ends of `offsets`, so these have to be a plain count."""
    maker = context.makers.get(bound["offsets"].name) if isinstance(bound["offsets"], Ref) else None
    start, _, step = maker.args if maker and maker.op == _COUNT and len(maker.args) == 3 else (None, None, None)
    if start != 0 or isinstance(start, bool) or type(step) is not int or step < 1:
        raise UnsupportedCheckpoint(
            "The program sums embeddings in bags of any length.",
            "Give embedding_bag its ids as a matrix, one bag a row, with padding_idx for what is to be left out.",
        )
    if any(name in context.read for name in node.outputs[1:]):
        raise UnsupportedCheckpoint(
            "The program reads more of an embedding_bag than its sums.", "Read its first result alone."
        )
    return node


def _without_chance(name: str, value: Argument) -> Callable[[Node, Bound, _Context], Node]:
    """The call with the argument that makes it random in training set to what eval mode passes."""

    def rewrite(node: Node, bound: Bound, context: _Context) -> Node:
        at = next(i for i, p in enumerate(schema(node.op).arguments) if p.name == name)
        args = tuple(value if i == at else a for i, a in enumerate(node.args))
        kwargs = tuple((key, value if key == name else v) for key, v in node.kwargs)
        return Node(node.name, node.op, args, kwargs, node.outputs, node.listed)

    return rewrite


def _instance_norm(node: Node, bound: Bound, context: _Context) -> Node:
    """By the statistics that the layer keeps, unless it keeps none."""
    if bound["running_mean"] is None or bound["running_var"] is None:
        return node
    return _without_chance("use_input_stats", False)(node, bound, context)


_COUNT = "aten.arange.start_step"
_BATCH_NORMS = names(
    "aten",
    """
    batch_norm native_batch_norm cudnn_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
    _batch_norm_no_update _batch_norm_with_update_functional
    """,
)

_REWRITES: dict[str, Callable[[Node, Bound, _Context], Node]] = {
    LINEAR: _linear,
    "aten.addmm.default": _addmm,
    "aten.mm.default": _matmul,
    "aten.matmul.default": _matmul,
    "aten.view.default": _reshape,
    "aten._unsafe_view.default": _reshape,
    **{f"aten.__{n}__.{o}": _bitwise for n in ("and", "or", "xor") for o in ("Tensor", "Scalar")},
    **dict.fromkeys(CONSTRUCTORS, _placed),
    "aten.empty.memory_format": _zeros,
    "aten.empty_like.default": _filled("aten.zeros_like.default"),
    "aten.new_empty.default": _filled("aten.new_zeros.default"),
    "aten._unsafe_index.Tensor": _checked("aten.index.Tensor"),
    "aten._unsafe_index_put.default": _checked("aten.index_put.default"),
    "aten.embedding_bag.default": _bags,
    "aten.embedding_bag.padding_idx": _bags,
    "aten._convolution.default": _convolution,
    CONVOLUTION: _convolution,
    **{f"aten.conv{n}d.{o}": _convolution_of(n) for n in (1, 2, 3) for o in ("default", "padding")},
    "aten.conv_transpose1d.default": _convolution_of(1),
    "aten.conv_transpose2d.input": _convolution_of(2),
    "aten.conv_transpose3d.input": _convolution_of(3),
    "aten.scaled_dot_product_attention.default": _without_chance("dropout_p", 0.0),
    "aten._scaled_dot_product_flash_attention_for_cpu.default": _without_chance("dropout_p", 0.0),
    "aten.instance_norm.default": _instance_norm,
    "aten.rrelu.default": _without_chance("training", False),
    **{f"aten.{name}.input": _without_chance("train", False) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    **dict.fromkeys(_BATCH_NORMS, _batch_norm),
}
