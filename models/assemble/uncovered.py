"""The parameters that no layer covers: what no plan makes smaller, and the calls that read it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rightrank.models.master.template import Template
from rightrank.models.program.graph import Graph
from rightrank.models.program.operators import names

# So many tensors are named, the largest.
NAMED = 10
# What only says how numbers lie, or which of them: who reads the result of such a call reads the tensor.
_LYING = names(
    "aten",
    """
    view _unsafe_view reshape permute t numpy_T mT expand contiguous clone alias detach unsqueeze chunk _to_copy
    flatten: using_ints
    transpose: int
    squeeze: default dim dims
    slice: Tensor
    select: int
    split: Tensor
    split_with_sizes
    unbind: int
    to: dtype dtype_layout device other
    """,
)
CALLER = "whoever calls the program"


@dataclass(frozen=True)
class Parameter:
    """A parameter of so many numbers, `params`, which are a `share` of the original's. `read_by` are the
    operators that read it; of a layer that stays whole the `reason` says why."""

    name: str
    params: int
    share: float
    read_by: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Uncovered:
    """All parameters that are not the weight of a layer which can be cut, the largest first."""

    share: float
    tensors: tuple[Parameter, ...]

    @property
    def params(self) -> int:
        return sum(each.params for each in self.tensors)

    def to_json(self) -> dict[str, Any]:
        """The largest, and of the others how many there are and their numbers."""
        others = self.tensors[NAMED:]
        return {
            "params": self.params,
            "share": self.share,
            "tensors": [{**asdict(each), "read_by": list(each.read_by)} for each in self.tensors[:NAMED]],
            "others": {"tensors": len(others), "params": sum(each.params for each in others)},
        }


def uncovered(template: Template) -> Uncovered:
    """What no layer of a template covers. Shares are of the original's parameters, zero channels included."""
    graph, whole = template.graph, template.original.params
    covered = {layer.weight for layer in template.decomposed}
    reasons = {layer.weight: layer.reason for layer in template.layers}
    readers = _readers(graph)
    found = []
    for name in (graph.parameters & graph.read) - covered:
        params = math.prod(template.tensors[name].shape)
        found.append(Parameter(name, params, params / whole, readers[name], reasons.get(name, "")))
    found.sort(key=lambda each: (-each.params, each.name))
    return Uncovered(sum(each.params for each in found) / whole, tuple(found))


def _readers(graph: Graph) -> dict[str, tuple[str, ...]]:
    """For each stored tensor, by qualified name, the operators that read it, in the order of the calls."""
    # For each value the stored tensors that it is, or is a part of.
    of: dict[str, frozenset[str]] = {value: frozenset([name]) for value, name in graph.tensors.items()}
    found: dict[str, dict[str, None]] = {name: {} for name in graph.tensors.values()}
    for node in graph.nodes:
        read = frozenset[str]().union(*(of.get(name, frozenset()) for name in node.inputs()))
        if node.op in _LYING:
            of.update((name, read) for name in node.outputs if name)
            continue
        for name in read:
            found[name][operator(node.op)] = None
    for value in graph.outputs:
        for name in of.get(value, ()):
            found[name][CALLER] = None
    return {name: tuple(ops) for name, ops in found.items()}


def operator(op: str) -> str:
    """What people call it: `embedding` for `aten.embedding.default`."""
    return op.split(".")[1]
