"""The calls of layers and norms with their arguments by name, as torch's schemas have them.

`simplify.normalize` gives each of them one spelling, so that these few classes are all that is to be known. Without
torch, since the writer of files reads calls too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from rightrank.models.program.graph import Argument, Node, Ref

CONVOLUTION = "aten.convolution.default"
LINEAR = "aten.linear.default"
EMBEDDING = "aten.embedding.default"
PRODUCT = "aten.matmul.default"
BATCH_NORM = "aten.batch_norm.default"
RECURRENT = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
# Gives back what it is given.
HANDED = "aten.alias.default"

# Stride, padding and dilation of a convolution, each with a number for every dimension.
Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Linear:
    """A call of `LINEAR`."""

    input: Argument
    weight: Argument
    bias: Argument = None

    @staticmethod
    def of(node: Node) -> Linear:
        return Linear(*node.args, **dict(node.kwargs))


@dataclass(frozen=True, slots=True)
class Convolution:
    """A call of `CONVOLUTION`, of any number of dimensions, transposed or not."""

    input: Argument
    weight: Argument
    bias: Argument
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @staticmethod
    def of(node: Node) -> Convolution:
        given, named = _given(node)
        return Convolution(*given, **named)

    @property
    def geometry(self) -> Geometry:
        return self.stride, self.padding, self.dilation


@dataclass(frozen=True, slots=True)
class Embedding:
    """A call of `EMBEDDING`: rows of the weight (V, D) by their numbers, which are the `input`. What else its schema
    has is for gradients alone."""

    weight: Argument
    input: Argument

    @staticmethod
    def of(node: Node) -> Embedding:
        return Embedding(*node.args[:2])

    @property
    def bias(self) -> None:
        """It has none."""


@dataclass(frozen=True, slots=True)
class Product:
    """A call of `PRODUCT`: x·W with a weight (C_in, C_out), a linear layer's transposed."""

    input: Argument
    weight: Argument

    @staticmethod
    def of(node: Node) -> Product:
        return Product(*node.args)

    @property
    def bias(self) -> None:
        """It has none."""


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A call of one of `RECURRENT` of one level and one direction, by its name there (lstm, gru, …). The layer's weight
    is that of the inputs, (G·H, C_in) for G gates; by the `hidden` one, (G·H, H), it multiplies what it made a step
    before. An LSTM may have a `projection` (P, H) of what it makes, and then that is (G·H, P)."""

    cell: str
    input: Argument
    state: Argument
    weight: Argument
    hidden: Argument
    bias: Argument = None
    hidden_bias: Argument = None
    projection: Argument = None
    batch_first: bool = False

    @staticmethod
    def of(node: Node) -> Recurrent | None:
        """None where there are several levels or directions."""
        if node.kwargs or len(node.args) != 9:
            return None
        data, state, params, biased, levels, _, _, both, batch_first = node.args
        assert isinstance(params, tuple)
        count = 4 if biased else 2
        if levels != 1 or both or len(params) not in (count, count + 1):
            return None
        bias, hidden_bias = params[2:4] if biased else (None, None)
        projection = params[count] if len(params) > count else None
        cell = node.op.split(".")[1]
        return Recurrent(cell, data, state, params[0], params[1], bias, hidden_bias, projection, bool(batch_first))

    @property
    def args(self) -> tuple[Argument, ...]:
        params = (self.weight, self.hidden, self.bias, self.hidden_bias, self.projection)
        given = tuple(each for each in params if each is not None)
        return self.input, self.state, given, self.bias is not None, 1, 0.0, False, False, self.batch_first


@dataclass(frozen=True, slots=True)
class Handed:
    """A call of `HANDED` that hands a stored weight on to a recurrent call, which multiplies by it inside itself: what
    it multiplies is no value of the program."""

    weight: Argument

    @staticmethod
    def of(node: Node) -> Handed:
        return Handed(*node.args)

    @property
    def input(self) -> None:
        """It has none."""

    @property
    def bias(self) -> None:
        """It has none."""


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """A call of `BATCH_NORM`; without stored statistics `running_mean` and `running_var` are None."""

    input: Argument
    weight: Argument
    bias: Argument
    running_mean: Argument
    running_var: Argument
    training: bool
    momentum: float
    eps: float
    cudnn_enabled: bool

    @staticmethod
    def of(node: Node) -> BatchNorm:
        given, named = _given(node)
        return BatchNorm(*given, **named)

    @property
    def args(self) -> tuple[Argument, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)


def _given(node: Node) -> tuple[Any, Any]:
    """Arguments by position and by name; a reader has checked that they are of the schema's types."""
    return node.args, dict(node.kwargs)


# A layer's. Embeddings, products and transposed convolutions apply a weight that lies the other way round, the others
# one of (C_out, C_in, …).
Call: TypeAlias = Linear | Convolution | Embedding | Product | Recurrent | Handed


def layer_call(node: Node) -> Call | None:
    """The call of a layer, if its weight is a stored one; None for any other."""
    if node.op == LINEAR:
        return Linear.of(node)
    if node.op == CONVOLUTION:
        return Convolution.of(node)
    if node.op == EMBEDDING and len(node.args) >= 2:
        return Embedding.of(node)
    if node.op in RECURRENT:
        return Recurrent.of(node)
    if node.op == HANDED:
        return Handed.of(node)
    return Product.of(node) if node.op == PRODUCT and len(node.args) == 2 and not node.kwargs else None


def transposed(call: Call) -> bool:
    """Whether it is a transposed convolution."""
    return isinstance(call, Convolution) and call.transposed


def receivers(nodes: Iterable[Node]) -> dict[str, Node]:
    """The recurrent calls by the values, of other calls, that they multiply by inside themselves."""
    found: dict[str, Node] = {}
    for node in nodes:
        call = Recurrent.of(node) if node.op in RECURRENT else None
        inner = () if call is None else (call.hidden, call.projection)
        found |= {each.name: node for each in inner if isinstance(each, Ref)}
    return found


def turned(call: Call) -> bool:
    """Whether a call reads its weight the other way round: the weight's first axis is that of the inputs."""
    return isinstance(call, (Embedding, Product)) or transposed(call)
