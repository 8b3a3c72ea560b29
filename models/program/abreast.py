"""A program on several batches, call by call: each call on all of them before the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from rightrank.models.program import execute
from rightrank.models.program.graph import Node
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples

# A batch is of so many samples that its largest value is about so many numbers: 32 MiB in single precision. What is
# larger malloc gets from the kernel anew for every call, which can take as long as the call.
NUMBERS = 1 << 23


class Abreast:
    """Of each batch the `values` at the point that has been reached."""

    def __init__(self, program: Program, batches: Sequence[Batch]) -> None:
        graph = program.graph
        stored = {value: program.tensors[name] for value, name in graph.tensors.items()}
        names = [spec.name for spec in graph.inputs]
        self.values: list[dict[str, Any]] = [stored | dict(zip(names, each, strict=True)) for each in batches]
        self._expiring = execute.last_uses(graph)

    def call(self, node: Node) -> Iterator[Any]:
        """What a call makes of each batch, one after the other."""
        for values in self.values:
            yield perform(node, values)

    def keep(self, node: Node, number: int, result: Any) -> None:
        """Notes what the call has made of a batch, and drops what nothing reads any more."""
        values = self.values[number]
        execute.store(node, result, values)
        for name in self._expiring.get(node.name, ()):
            del values[name]

    def replace(self, name: str, value: Any) -> None:
        """From now on another value for all of them."""
        for values in self.values:
            values[name] = value

    def step(self, node: Node) -> None:
        """Performs a call."""
        for number, result in enumerate(self.call(node)):
            self.keep(node, number, result)


def perform(node: Node, values: dict[str, Any]) -> Any:
    """What a call makes of these values, which lie on the CPU."""
    device = torch.device("cpu")
    arguments = [execute.evaluate(a, values, device) for a in node.args]
    keywords = {key: execute.evaluate(value, values, device) for key, value in node.kwargs}
    return execute.resolve(node.op)(*arguments, **keywords)


def batches(program: Program, samples: Samples) -> list[Batch]:
    """All of them, in batches of which no value is large (see `NUMBERS`)."""
    return [each for group in samples.apart() if len(group) for each in group.parts(at_once(program, group))]


def at_once(program: Program, samples: Samples) -> int:
    """How many samples such a batch has: a power of two."""
    largest = max(max(program.values(group), default=1) for group in samples.apart() if len(group))
    return 1 << max(0, (NUMBERS // max(largest, 1)).bit_length() - 1)
