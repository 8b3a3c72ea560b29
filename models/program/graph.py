"""A program: a graph of ATen calls, and the tensors that it reads.

The graph is plain data, so that one form serves every stage: the strict reader fills it in from
untrusted JSON without importing torch's own deserialiser, the interpreter runs it, the emitter
prints it as TorchScript, and the store keeps it as JSON. No symbolic expression is ever evaluated:
a size that depends on the batch is a value computed by a node (`aten.sym_size.int`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Ref:
    """The value called `name`: a program input, a tensor of the program, or a node's output."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that only torch has a type for, by name: `Constant("dtype", "float32")`."""

    type: Literal["dtype", "layout", "device", "memory_format"]
    value: str


Argument: TypeAlias = "Ref | Constant | None | bool | int | float | str | tuple[Argument, ...]"

# A text that a call may pass ("reflect", "bij,bjd->bid"): read as it is, and between quotes it is a literal.
TEXT = re.compile(r"[A-Za-z0-9_ ,.>-]{0,128}\Z")


@dataclass(frozen=True, slots=True)
class Node:
    """One call. `op` is `aten.<name>.<overload>`, or `operator.<name>` on integers.

    `outputs` names the results; where `listed`, the call returns a list of that many tensors
    (`aten.split`, `aten.unbind`), otherwise one value or a fixed tuple. An empty name is a result
    that nobody reads.
    """

    name: str
    op: str
    args: tuple[Argument, ...]
    kwargs: tuple[tuple[str, Argument], ...]
    outputs: tuple[str, ...]
    listed: bool = False

    def inputs(self) -> Iterator[str]:
        """Every value name read, in order, repeated when read twice."""
        for argument in (*self.args, *(value for _, value in self.kwargs)):
            yield from references(argument)


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor the caller passes. `shape` has None where any size will do: in dimension 0 that is the batch, in others
    a length, height or width, of which `example` has a size that goes with those of the other inputs. `symbols` has
    the names of what is free: sizes of one name are the same; "" where the size is fixed, or has no name."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()

    def sizes(self, batch: int) -> tuple[int, ...]:
        """A shape that the program takes, with `batch` samples where any number will do."""
        example = self.example or (batch,) * len(self.shape)
        pairs = enumerate(zip(self.shape, example, strict=True))
        return tuple((batch if dim == 0 else usual) if size is None else size for dim, (size, usual) in pairs)


@dataclass(frozen=True, slots=True)
class TensorMeta:
    """What a file says of a tensor value: its sizes (None where they depend on the batch), and its dtype ("" for one
    that is not read)."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Graph:
    """The calls in execution order.

    `tensors` maps the value names of weights, buffers and constants to their fully qualified names
    (`p_conv1_weight` → `conv1.weight`); several value names may share one tensor. `parameters` are
    the qualified names that count as parameters. `ranges` are the least and the most (None: none) of free sizes, by
    their symbols, where the publisher bounded them.
    """

    inputs: tuple[Input, ...]
    tensors: Mapping[str, str]
    parameters: frozenset[str]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)

    @property
    def batch(self) -> int | None:
        """The batch size that the program was exported for, by its first input that has dimensions; None where any will
        do."""
        sizes = [spec.shape[0] for spec in self.inputs if spec.shape]
        return None if None in sizes or not sizes else sizes[0]

    @property
    def free(self) -> bool:
        """Whether sizes besides the batch are free, so that shapes differ from sample to sample."""
        return any(None in spec.shape[1:] for spec in self.inputs)

    @property
    def batched(self) -> tuple[bool, ...]:
        """Which inputs have the batch as their first dimension; others, such as a scale, are for all samples."""
        return tuple(bool(spec.shape) and spec.shape[0] == self.batch for spec in self.inputs)

    def replace(self, **changes: Any) -> Graph:
        return dataclasses.replace(self, **changes)

    def stored(self, argument: Argument) -> str | None:
        """The qualified name of the stored tensor that an argument is; None for anything else."""
        return self.tensors.get(argument.name) if isinstance(argument, Ref) else None

    @property
    def read(self) -> frozenset[str]:
        """The qualified names of the stored tensors that a call reads, or that are an output."""
        values = {name for node in self.nodes for name in node.inputs()} | {*self.outputs}
        return frozenset(self.tensors[name] for name in values if name in self.tensors)

    @property
    def varying(self) -> frozenset[str]:
        """The values that depend on an input: these, and what is made of them."""
        found = {spec.name for spec in self.inputs}
        for node in self.nodes:
            if not found.isdisjoint(node.inputs()):
                found.update(filter(None, node.outputs))
        return frozenset(found)

    def live(self) -> Graph:
        """Only the calls that an output depends on; results that nobody reads lose their name. Parameters stay, as
        they count; buffers that nobody reads go."""
        read = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if not read.isdisjoint(node.outputs):
                outputs = tuple(name if name in read else "" for name in node.outputs)
                kept.append(dataclasses.replace(node, outputs=outputs))
                read.update(node.inputs())
        tensors = {
            name: qualified for name, qualified in self.tensors.items() if name in read or qualified in self.parameters
        }
        return self.replace(nodes=tuple(reversed(kept)), tensors=tensors)

    def users(self) -> dict[str, list[Node]]:
        """Each value name with the nodes that read it, in order, without repeats."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs()):
                found.setdefault(name, []).append(node)
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [[i.name, i.dtype, list(i.shape), *_said(i.example, i.symbols)] for i in self.inputs],
            "tensors": dict(self.tensors),
            "parameters": sorted(self.parameters),
            "nodes": [
                {
                    "name": node.name,
                    "op": node.op,
                    "args": [_encode(a) for a in node.args],
                    "kwargs": {key: _encode(value) for key, value in node.kwargs},
                    "outputs": list(node.outputs),
                    **({"listed": True} if node.listed else {}),
                }
                for node in self.nodes
            ],
            "outputs": list(self.outputs),
            **({"ranges": {name: list(bounds) for name, bounds in self.ranges.items()}} if self.ranges else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Graph:
        """The inverse of `to_json`; for JSON that this project wrote, not for uploaded JSON."""
        return Graph(
            inputs=tuple(Input(n, d, tuple(s), *map(tuple, more)) for n, d, s, *more in data["inputs"]),
            tensors=dict(data["tensors"]),
            parameters=frozenset(data["parameters"]),
            nodes=tuple(
                Node(
                    name=n["name"],
                    op=n["op"],
                    args=tuple(_decode(a) for a in n["args"]),
                    kwargs=tuple((k, _decode(v)) for k, v in n["kwargs"].items()),
                    outputs=tuple(n["outputs"]),
                    listed=n.get("listed", False),
                )
                for n in data["nodes"]
            ),
            outputs=tuple(data["outputs"]),
            ranges={name: (low, high) for name, (low, high) in data.get("ranges", {}).items()},
        )


def _said(*several: tuple[Any, ...]) -> list[list[Any]]:
    """Without those at the end that say nothing."""
    while several and not several[-1]:
        several = several[:-1]
    return [list(each) for each in several]


def fresh(name: str, taken: set[str]) -> str:
    """The name, or one like it, that is not taken; it is then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def references(argument: Argument) -> Iterator[str]:
    """The value names inside an argument."""
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, tuple):
        for item in argument:
            yield from references(item)


def substitute(argument: Argument, names: Mapping[str, str]) -> Argument:
    """The argument with every value name in `names` replaced."""
    if isinstance(argument, Ref):
        return Ref(names.get(argument.name, argument.name))
    if isinstance(argument, tuple):
        return tuple(substitute(item, names) for item in argument)
    return argument


def _encode(argument: Argument) -> Any:
    if isinstance(argument, Ref):
        return {"ref": argument.name}
    if isinstance(argument, Constant):
        return {argument.type: argument.value}
    if isinstance(argument, tuple):
        return [_encode(item) for item in argument]
    if isinstance(argument, float) and (argument != argument or abs(argument) == float("inf")):
        return {"float": repr(argument)}
    return argument


def _decode(data: Any) -> Argument:
    if isinstance(data, list):
        return tuple(_decode(item) for item in data)
    if isinstance(data, dict):
        ((key, value),) = data.items()
        if key == "ref":
            return Ref(value)
        if key == "float":
            return float(value)
        return Constant(key, value)
    return data  # type: ignore[no-any-return]
