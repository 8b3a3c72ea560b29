"""What the values of a program are like, besides its stored tensors: types and sizes, also where these are free.

A format that describes every value, as torch.export's does, takes it from here. It is found once, at ingest, by running
the program on shapes alone (see `assemble.values`), since what writes files has no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

# A size: a number; the name of a free one, or of one that only running tells; the rank of the layer that a value lies
# within; or a function of sizes, by the name that torch.export gives it: ("Mul", 2, "s0").
Expression: TypeAlias = "int | str | tuple[Expression, ...]"

RANK = "#"


@dataclass(frozen=True)
class Value:
    """A tensor's type, and its sizes; its strides where its numbers do not lie in order."""

    dtype: str
    shape: tuple[Expression, ...]
    strides: tuple[Expression, ...] | None = None


@dataclass(frozen=True)
class Values:
    """`tensors` by value name: all that calls make, those between the calls of a layer's factors too, and by `unread`
    the results that nobody reads. `numbers` are what arithmetic on sizes makes, each an int, a float or a bool.
    `inputs` are the sizes of the inputs; `symbols` the names of those that are free, with what they were in the first
    run; `unknown` those that only running tells, and `inner` such as only the calls have that stand in place of one, by
    its name. `arguments` are the names of each operator's arguments, in order: of the program's calls, and of those
    that factors and encodings add.
    """

    tensors: Mapping[str, Value]
    numbers: Mapping[str, tuple[str, Expression]]
    symbols: Mapping[str, int]
    unknown: tuple[str, ...]
    inner: Mapping[str, tuple[str, ...]]
    arguments: Mapping[str, tuple[str, ...]]
    inputs: tuple[tuple[Expression, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "tensors": {
                name: [value.dtype, value.shape, *([] if value.strides is None else [value.strides])]
                for name, value in self.tensors.items()
            },
            "numbers": dict(self.numbers),
            "symbols": dict(self.symbols),
            "unknown": list(self.unknown),
            "inner": {call: list(names) for call, names in self.inner.items()},
            "arguments": {op: list(names) for op, names in sorted(self.arguments.items())},
            "inputs": list(self.inputs),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Values:
        return Values(
            tensors={
                name: Value(dtype, *(tuple(map(_expression, each)) for each in sizes))
                for name, (dtype, *sizes) in data["tensors"].items()
            },
            numbers={name: (kind, _expression(each)) for name, (kind, each) in data["numbers"].items()},
            symbols=dict(data["symbols"]),
            unknown=tuple(data["unknown"]),
            inner={call: tuple(names) for call, names in data["inner"].items()},
            arguments={op: tuple(names) for op, names in data["arguments"].items()},
            inputs=tuple(tuple(map(_expression, each)) for each in data["inputs"]),
        )


def unread(node: str, result: int) -> str:
    """The name of a call's result that has none."""
    return f"{node}.{result}"


def _expression(data: Any) -> Expression:
    return tuple(map(_expression, data)) if isinstance(data, list) else data
