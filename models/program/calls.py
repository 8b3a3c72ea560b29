"""The calls of layers and norms with their arguments by name, as torch's schemas have them.

`simplify.normalize` gives each of them one spelling, so that these few classes are all that is to be known. Without
torch, since the writer of files reads calls too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from rightrank.models.program.graph import Argument, Node

CONVOLUTION = "aten.convolution.default"
LINEAR = "aten.linear.default"
EMBEDDING = "aten.embedding.default"
PRODUCT = "aten.matmul.default"
BATCH_NORM = "aten.batch_norm.default"

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


# A layer's. The first two apply a weight (C_out, C_in, …), but for a transposed convolution; it and the others one that
# lies the other way round.
Call: TypeAlias = Linear | Convolution | Embedding | Product


def layer_call(node: Node) -> Call | None:
    """The call of a layer, if its weight is a stored one; None for any other."""
    if node.op == LINEAR:
        return Linear.of(node)
    if node.op == CONVOLUTION:
        return Convolution.of(node)
    if node.op == EMBEDDING and len(node.args) >= 2:
        return Embedding.of(node)
    return Product.of(node) if node.op == PRODUCT and len(node.args) == 2 and not node.kwargs else None


def transposed(call: Call) -> bool:
    """Whether it is a transposed convolution."""
    return isinstance(call, Convolution) and call.transposed


def turned(call: Call) -> bool:
    """Whether a call reads its weight the other way round: the weight's first axis is that of the inputs."""
    return isinstance(call, (Embedding, Product)) or transposed(call)
