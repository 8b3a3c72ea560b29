"""The layers of a program: which weights are matrices that can be factored, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from rightrank.models.program.graph import Graph, Node, Ref, references

CONVOLUTION = "aten.convolution.default"
LINEAR = "aten.linear.default"

Form: TypeAlias = Literal["channel", "spatial"]
# The work of a decomposition grows with the cube of this.
WIDE = 6144
# The first factor of a k_h×1 convolution has all the columns of its input, so with a stride the two may have more MACs
# than the whole at the same number of parameters: half as many more with a stride of two.
DEAR = 1.5
# Stride, padding and dilation of a convolution, each with a number for every dimension.
Geometry: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Layer:
    """One weight as the matrix `W ∈ R^{m×n}` that is decomposed, and what it costs.

    In the channel form, which is paper 1's, m = k_h·k_w·C_in and n = C_out: the two factors are a convolution
    like the layer's with r outputs, and one of 1×1. In the spatial form (arXiv:1405.3866) m = C_in·k_h and
    n = C_out·k_w: one of k_h×1, then one of 1×k_w.

    `calls` are the nodes that apply it; a weight shared by several calls is one layer. `macs` counts one sample
    through all calls, which have so many `positions`. `columns` are the positions of the first factor in the
    spatial form; 0 where the layer does not take that: it can where its kernel has rows and columns, and does where
    neither side of the matrix is too `WIDE` to decompose and strides do not make it `DEAR` in MACs. `decomposed`
    layers may be cut; for the others `reason` says why not.
    """

    name: str
    weight: str
    kind: str
    shape: tuple[int, ...]
    m: int
    n: int
    calls: tuple[str, ...]
    positions: int
    decomposed: bool
    reason: str = ""
    form: Form = "channel"
    columns: int = 0

    @property
    def outputs(self) -> int:
        """C_out."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """What one output is a weighted sum of: C_in·k_h·k_w numbers."""
        return math.prod(self.shape[1:])

    @property
    def params(self) -> int:
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        return self.params * self.positions

    @property
    def rank(self) -> int:
        """The number of bases, R = min(m, n)."""
        return min(self.m, self.n)

    @property
    def break_even(self) -> int:
        """The largest rank whose two factors, (m+n)·r numbers, are fewer than those they replace."""
        return (self.params - 1) // self.width

    @property
    def width(self) -> int:
        """The parameters of one basis."""
        return self.m + self.n

    @property
    def basis_macs(self) -> int:
        """The multiply-accumulates of one basis."""
        return self.m * (self.columns if self.form == "spatial" else self.positions) + self.n * self.positions

    def spatial(self) -> Layer:
        """The same layer in the spatial form; only where `columns` says that it can take it."""
        outputs, inputs, height, width = self.shape
        return replace(self, form="spatial", m=inputs * height, n=outputs * width)

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The weights of the two calls that replace the layer at a rank."""
        if self.form == "spatial":
            outputs, inputs, height, width = self.shape
            return (rank, inputs, height, 1), (outputs, rank, 1, width)
        return (rank, *self.shape[1:]), (self.outputs, rank, *(1 for _ in self.shape[2:]))

    def geometries(self, geometry: Geometry) -> tuple[Geometry, Geometry]:
        """Those of the two convolutions that replace one of this geometry."""
        stride, padding, dilation = geometry
        ones, zeros = (1,) * len(stride), (0,) * len(stride)
        if self.form == "channel":
            return geometry, (ones, zeros, ones)
        return (
            ((stride[0], 1), (padding[0], 0), (dilation[0], 1)),
            ((1, stride[1]), (0, padding[1]), (1, dilation[1])),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Layer:
        return Layer(**{**data, "shape": tuple(data["shape"]), "calls": tuple(data["calls"])})


def geometry_of(node: Node) -> Geometry:
    """What a call of `CONVOLUTION` says of it."""
    stride, padding, dilation = (tuple(argument) for argument in node.args[3:6])  # type: ignore[arg-type]
    return stride, padding, dilation  # type: ignore[return-value]


def find(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Layer, ...]:
    """Every convolution and linear layer in order of first use.

    `shapes` gives each value's shape at some batch size (see `execute.shapes`); MACs are per sample.
    """
    calls: dict[str, list[Node]] = {}
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        weight = weight_of(node, graph, shapes)
        if weight is not None:
            calls.setdefault(weight, []).append(node)
        others = node.args if weight is None else (node.args[:1], node.args[2:])
        for name in references((*others, *(value for _, value in node.kwargs))):
            if name in graph.tensors:
                readers.setdefault(graph.tensors[name], []).append(node.op)
    for name in graph.outputs:
        if name in graph.tensors:
            readers.setdefault(graph.tensors[name], []).append("whoever calls the program")
    free = [each.name for each in graph.inputs if None in each.shape[:1]]  # a timestep, say, is no batch
    given = shapes[free[0] if free else graph.inputs[0].name]
    batch = given[0] if given else 1
    return tuple(
        _layer(weight, nodes, readers.get(weight, []), graph, shapes, batch) for weight, nodes in calls.items()
    )


def weight_of(node: Node, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The qualified name of the weight that a convolution or linear call applies, if it is a stored one.

    torch's linear takes any bias that broadcasts; what is no number for each output cannot be told how a cut moved
    the outputs, so a call with such a bias is no layer.
    """
    if node.op not in (CONVOLUTION, LINEAR) or not isinstance(node.args[1], Ref):
        return None
    bias = node.args[2] if len(node.args) > 2 else None
    if node.op == LINEAR and isinstance(bias, Ref) and shapes[bias.name] != shapes[node.args[1].name][:1]:
        return None
    return graph.tensors.get(node.args[1].name)


def _layer(
    weight: str,
    nodes: list[Node],
    readers: list[str],
    graph: Graph,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int,
) -> Layer:
    first = nodes[0]
    value = next(name for name, qualified in graph.tensors.items() if qualified == weight)
    shape = shapes[value]
    linear = first.op == LINEAR
    kind = "linear" if linear else f"conv{len(shape) - 2}d"
    transposed = not linear and any(node.args[6] for node in nodes)
    groups = 1 if linear else max(int(node.args[8]) for node in nodes)  # type: ignore[arg-type]
    n, m = shape[0], math.prod(shape[1:])
    positions = columns = 0
    for node in nodes:
        given, made = shapes[node.args[0].name], shapes[node.outputs[0]]  # type: ignore[union-attr]
        size = given if transposed else made
        positions += math.prod(size) // max(size[-1] if linear else size[1], 1)
        if kind == "conv2d" and min(shape[2:]) > 1:
            columns += made[0] * made[2] * given[3]
    reason = ""
    if transposed:
        kind, reason = f"{kind}-transposed", "transposed convolutions are kept as they are"
    elif groups > 1:
        kind, reason = f"{kind}-grouped", f"its {groups} groups are already small"
    elif readers:
        reason = f"its weight is also read by {readers[0]}"
    elif len({node.op for node in nodes}) > 1:
        reason = "its weight is shared by a convolution and a linear layer"
    elif weight not in graph.parameters:
        reason = "its weight is a buffer, not a parameter"
    elif min(m, n) < 2 or m + n >= m * n:
        reason = "no rank is smaller than the whole"
    layer = Layer(
        name=weight.removesuffix(".weight"),
        weight=weight,
        kind=kind,
        shape=tuple(shape),
        m=m,
        n=n,
        calls=tuple(node.name for node in nodes),
        positions=max(1, positions // batch),
        decomposed=not reason,
        reason=reason,
        columns=columns // batch if not reason else 0,
    )
    return layer if layer.columns and _suits(layer.spatial()) else replace(layer, columns=0)


def _suits(layer: Layer) -> bool:
    """Whether a layer may be in the spatial form that it is given in."""
    return max(layer.m, layer.n) <= WIDE and layer.basis_macs * layer.break_even <= DEAR * layer.macs
