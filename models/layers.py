"""The layers of a program: which weights are matrices that can be factored, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from models.program import Graph, Node, Ref

CONVOLUTION = "aten.convolution.default"
LINEAR = "aten.linear.default"


@dataclass(frozen=True)
class Layer:
    """One weight as the matrix `W ∈ R^{m×n}` of paper 1 (m = k_h·k_w·C_in, n = C_out).

    `calls` are the nodes that apply it; a weight shared by several calls is one layer. `params` is
    m·n; `macs` counts one sample through all calls. `decomposed` layers may be cut; for the others
    `reason` says why not.
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
        """The largest rank whose two factors, (m+n)·r numbers, are fewer than the m·n they replace."""
        return (self.m * self.n - 1) // (self.m + self.n)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Layer:
        return Layer(**{**data, "shape": tuple(data["shape"]), "calls": tuple(data["calls"])})


def find(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Layer, ...]:
    """Every convolution and linear layer in order of first use.

    `shapes` gives each value's shape at some batch size (see `execute.shapes`); MACs are per sample.
    """
    calls: dict[str, list[Node]] = {}
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        weight = weight_of(node, graph)
        if weight is not None:
            calls.setdefault(weight, []).append(node)
        for name in node.inputs():
            if name in graph.tensors and graph.tensors[name] != weight:
                readers.setdefault(graph.tensors[name], []).append(node.op)
    batch = shapes[graph.inputs[0].name][0] if shapes[graph.inputs[0].name] else 1
    return tuple(
        _layer(weight, nodes, readers.get(weight, []), graph, shapes, batch) for weight, nodes in calls.items()
    )


def weight_of(node: Node, graph: Graph) -> str | None:
    """The qualified name of the weight that a convolution or linear call applies, if it is a stored one."""
    if node.op not in (CONVOLUTION, LINEAR) or not isinstance(node.args[1], Ref):
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
    positions = 0
    for node in nodes:
        spatial = shapes[node.args[0].name if transposed else node.outputs[0]]  # type: ignore[union-attr]
        channels = spatial[-1] if linear else spatial[1]
        positions += math.prod(spatial) // channels
    reason = ""
    if transposed:
        kind, reason = f"{kind}-transposed", "transposed convolutions are kept as they are"
    elif groups > 1:
        kind, reason = f"{kind}-grouped", f"its {groups} groups are already small"
    elif readers:
        reason = f"its weight is also read by {readers[0]}"
    elif len({node.op for node in nodes}) > 1:
        reason = "its weight is shared by a convolution and a linear layer"
    elif min(m, n) < 2 or m + n >= m * n:
        reason = "no rank is smaller than the whole"
    return Layer(
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
    )
