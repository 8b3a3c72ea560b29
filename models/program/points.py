"""What the values of a program are at several sizes of what is free, found without computing any.

One free size after the other is another than usual, so that it shows which of the values' sizes depend on it. Where a
program runs at no other size of something that its inputs leave free, nothing can be said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rightrank.models.program import execute
from rightrank.models.program.graph import Graph, Input, Node

if TYPE_CHECKING:
    from rightrank.models.program.program import Program

USUAL = 2
# A prime, so that what it divides is a multiple of the batch.
OTHER = 1009
# What the batch is called where no size besides it is free.
BATCH = "s0"


@dataclass(frozen=True)
class Seen:
    """A tensor at one point: sizes, and the strides of its numbers."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Points:
    """`symbols` are the free sizes' names with their number at each point; `sizes` those of each input, as numbers and
    names. At each point `tensors` has what each call's results are, in their order, by the call's name: a tensor as
    `Seen`, a number as it is, and `given` what the inputs are. `dtypes` are by call too."""

    symbols: Mapping[str, tuple[int, ...]]
    sizes: tuple[tuple[int | str, ...], ...]
    given: Sequence[tuple[Seen, ...]]
    tensors: Sequence[Mapping[str, tuple[Any, ...]]]
    dtypes: Mapping[str, tuple[str, ...]]


def points(program: Program) -> Points | None:
    """None where the program runs at no other size of what is free."""
    graph = program.graph
    sizes = tuple(_named(graph, spec, number) for number, spec in enumerate(graph.inputs))
    usual: dict[str, int] = {}
    for spec, named in zip(graph.inputs, sizes, strict=True):
        for size, example in zip(named, spec.sizes(USUAL), strict=True):
            if isinstance(size, str):
                usual.setdefault(size, example)
    batch = next((named[0] for named in sizes if named and isinstance(named[0], str)), None)
    meta = execute.without_data(graph, program.tensors)
    if batch is not None:
        usual[batch] = _within(graph, batch, USUAL)
    found = [_run(graph, meta, sizes, usual)]
    taken = [usual]
    for name in usual:
        for size in _others(graph, name, usual[name], name == batch):
            chosen = {**usual, name: size}
            try:
                found.append(_run(graph, meta, sizes, chosen))
            except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
                continue
            taken.append(chosen)
            break
        else:
            return None
    return Points(
        {name: tuple(each[name] for each in taken) for name in usual},
        sizes,
        [given for given, _, _ in found],
        [tensors for _, tensors, _ in found],
        found[0][2],
    )


def _named(graph: Graph, spec: Input, number: int) -> tuple[int | str, ...]:
    """An input's sizes, each a number or a name: those of one name are the same."""
    batch = next(
        (each.symbols[0] for each in graph.inputs if each.symbols and each.shape[0] is None and each.symbols[0]), BATCH
    )
    found: list[int | str] = []
    for dim, size in enumerate(spec.shape):
        name = spec.symbols[dim] if spec.symbols else ""
        if size is not None:
            found.append(size)
        elif dim == 0:
            found.append(batch)
        else:
            found.append(name or f"s{number}_{dim}")
    return tuple(found)


def _within(graph: Graph, name: str, size: int) -> int:
    low, high = graph.ranges.get(name, (0, None))
    return max(low, size if high is None else min(size, high))


def _others(graph: Graph, name: str, usual: int, batch: bool) -> list[int]:
    """Other sizes, best first: such as tell most, then such as more programs take."""
    tried = [OTHER, 3] if batch else [2 * usual + 1, 3 * usual, 2 * usual, usual - 1, usual // 2, usual + 1]
    low, high = graph.ranges.get(name, (0, None))
    return [size for size in tried if size != usual and max(low, 1) <= size and (high is None or size <= high)]


def _run(
    graph: Graph, meta: Mapping[str, Tensor], sizes: Sequence[Sequence[int | str]], chosen: Mapping[str, int]
) -> tuple[tuple[Seen, ...], dict[str, tuple[Any, ...]], dict[str, tuple[str, ...]]]:
    found: dict[str, tuple[Any, ...]] = {}
    dtypes: dict[str, tuple[str, ...]] = {}

    def note(node: Node, arguments: list[Any], result: Any) -> Any:
        several = result if isinstance(result, (tuple, list)) else (result,)
        found[node.name] = tuple(seen(each) for each in several)
        dtypes[node.name] = tuple(dtype_of(each) for each in several)
        return result

    inputs = [
        torch.empty(
            [chosen[s] if isinstance(s, str) else s for s in named], dtype=getattr(torch, spec.dtype), device="meta"
        )
        for spec, named in zip(graph.inputs, sizes, strict=True)
    ]
    with torch.no_grad():
        execute.run(graph, meta, inputs, visit=note)
    return tuple(seen(each) for each in inputs), found, dtypes


def seen(value: Any) -> Any:
    return Seen(tuple(value.shape), tuple(value.stride())) if isinstance(value, Tensor) else value


def dtype_of(value: Any) -> str:
    """Empty for a number."""
    return str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else ""
