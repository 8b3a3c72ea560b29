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


# A layer's.
Call: TypeAlias = Linear | Convolution


def layer_call(node: Node) -> Call | None:
    """The call of a layer; None for any other."""
    if node.op == LINEAR:
        return Linear.of(node)
    return Convolution.of(node) if node.op == CONVOLUTION else None
