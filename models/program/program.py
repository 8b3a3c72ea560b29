"""A program: a graph and the tensors that it reads, with what follows from both found once.

A pass over programs is a function `Program → (Program, report)`; one that changes nothing gives back the very program
that it was given.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.program import execute
from rightrank.models.program.calls import Recurrent, layer_call
from rightrank.models.program.graph import Graph, Node, Ref
from rightrank.models.program.points import Points, points
from rightrank.models.program.samples import Samples

GRAPH, WEIGHTS = "program.json", "weights.safetensors"
# A recurrent call makes about so many times its gates' numbers.
INSIDE = 8


@dataclass(frozen=True, eq=False)
class Program:
    """`tensors` by qualified name: at least those that the graph names."""

    graph: Graph
    tensors: Mapping[str, Tensor]

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor value, stored ones too, at a free batch of two; found without computing any.

        Raises what torch's operators raise where calls do not fit together.
        """
        stored = {value: tuple(self.tensors[name].shape) for value, name in self.graph.tensors.items()}
        return execute.shapes(self.graph, self.tensors) | stored

    @cached_property
    def points(self) -> Points | None:
        """What all values are at several sizes of what is free (see `points`); None where it runs at no other."""
        return points(self)

    def shapes_for(self, inputs: Sequence[Tensor]) -> Mapping[str, tuple[int, ...]]:
        """The shape of every value that is computed from these inputs, found without computing any."""
        return execute.shapes(self.graph, self.tensors, inputs=inputs)

    def values(self, samples: Samples) -> list[int]:
        """How many numbers each value has that is computed, for each of some samples of one shape.

        By what a value has for two of them, since not every value has its samples in its first dimension.
        """
        shapes, count = self.shapes, 2
        if self.graph.batch is not None:
            count = self.graph.batch
        elif self.graph.free:
            some = next(samples.parts(2))
            shapes, count = self.shapes_for(some), max(len(samples[:2]), 1)
        sizes = [math.prod(s) for name, s in shapes.items() if name not in self.graph.tensors]
        for node in self.graph.nodes:
            call = layer_call(node)
            if isinstance(call, Recurrent) and (weight := self.graph.stored(call.weight)) is not None:
                # Such a call is also performed step by step (see `factor.recurrent`), which makes these as well.
                given = shapes.get(call.input.name, ()) if isinstance(call.input, Ref) else ()
                sizes += [math.prod(given[:-1]) * len(self.tensors[weight])] * INSIDE
        return [size // count for size in sizes]

    @cached_property
    def users(self) -> Mapping[str, Sequence[Node]]:
        """Each value name with the nodes that read it, in order, without repeats."""
        return self.graph.users()

    @cached_property
    def parameters(self) -> int:
        """How many parameters the program reads."""
        return execute.parameters(self.graph, self.tensors)

    def run(self, inputs: Sequence[Tensor], visit: execute.Visitor | None = None) -> list[Tensor]:
        """The outputs on `inputs` (see `execute.run`)."""
        return execute.run(self.graph, self.tensors, inputs, visit=visit)

    def example(self, batch: int, device: str = "cpu") -> list[Tensor]:
        """Standard normal (for integers: zero) inputs of the declared shapes."""
        return execute.example_inputs(self.graph, batch, device)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Program:
        """The same graph over other tensors."""
        return Program(self.graph, tensors)

    def read_once(self, name: str) -> bool:
        """Whether one call alone reads the stored tensor, once, and nobody else gets it."""
        values = {value for value, stored in self.graph.tensors.items() if stored == name}
        readers = {node.name: node for value in values for node in self.users.get(value, ())}
        reads = [value for node in readers.values() for value in node.inputs() if value in values]
        return len(reads) == 1 and not values & {*self.graph.outputs}

    def differing(self, other: Program) -> frozenset[str]:
        """The names of this program's tensors that the other has not, or has otherwise."""
        return frozenset(name for name, tensor in self.tensors.items() if not _same(tensor, other.tensors.get(name)))

    def save(self, folder: Path) -> None:
        """Writes it to `folder`, for `open`."""
        (folder / GRAPH).write_text(json.dumps(self.graph.to_json(), separators=(",", ":")))
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, folder / WEIGHTS)

    @staticmethod
    def open(folder: Path) -> Program:
        """The program that `save` wrote to `folder`."""
        graph = Graph.from_json(json.loads((folder / GRAPH).read_bytes()))
        return Program(graph, load_file(folder / WEIGHTS))


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    if tensor is other:
        return True
    if other is None or (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    # By their bytes: zero is equal to minus zero.
    one, two = (each.contiguous().reshape(-1).view(torch.uint8) for each in (tensor, other))
    return torch.equal(one, two)
