"""One walk over a graph that finds which channels are constant, and which can only be removed together.

The walk runs the program on the meta device, so that every rule sees shapes and sizes as they are. What
no rule understands pins the channels that it reads: they stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rightrank.models.program import execute
from rightrank.models.program.graph import Argument, Node, Ref, references
from rightrank.models.program.program import Program
from rightrank.models.simplify.zeros.channels import Channels, Units


@dataclass(frozen=True)
class Product:
    """A call of a layer, with the unit of each of its output channels; `zero` are the channels whose column is
    zero. `columns` is what the call reads along the weight's second axis, None where that stays as it is."""

    node: Node
    weight: str
    bias: str | None
    units: Tensor
    zero: Tensor
    columns: Channels | None
    padded: bool


@dataclass(frozen=True)
class Resize:
    """An integer of a call that counts channels: argument `position`, in it `element` where it is a list."""

    node: str
    position: int
    element: int | None
    units: Tensor


Claim: TypeAlias = Mapping[int, Tensor]
Rule: TypeAlias = "Callable[[Flow, Node, list[Any], Any], bool]"


class Flow:
    """What the walk found. `products` and `resizes` are what a removal has to change besides `claims`: for every
    stored tensor and each call that reads it, the units along the axes that a removal would shorten."""

    def __init__(self, program: Program, threshold: float | None) -> None:
        self.program = program
        self.threshold = threshold
        self.units = Units()
        self.channels: dict[str, Channels] = {}
        self.claims: dict[str, list[Claim]] = {}
        self.products: list[Product] = []
        self.resizes: list[Resize] = []
        self.constant: set[int] = set()

    def walk(self, rules: Mapping[str, Rule]) -> Flow:
        meta = without_data(self.program)

        def visit(node: Node, arguments: list[Any], result: Any) -> Any:
            if not self._understands(rules.get(node.op), node, arguments, result):
                self.keep(node)
            return result

        with torch.no_grad():
            meta.run(meta.example(2, device="meta"), visit)
        for name in self.program.graph.outputs:
            self._keep(name, "it is an output of the program")
        for name, claims in self.claims.items():
            self._settle(name, claims)
        return self

    def _understands(self, rule: Rule | None, node: Node, arguments: list[Any], result: Any) -> bool:
        """An operand that no rule foresaw must not stop a model from being read: its channels stay."""
        try:
            return rule is not None and understandable(node) and rule(self, node, arguments, result)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False

    def of(self, argument: Argument) -> Channels | None:
        """The channels of a computed value, where known."""
        return self.channels.get(argument.name) if isinstance(argument, Ref) else None

    def stored(self, argument: Argument) -> str | None:
        """The qualified name of a stored tensor."""
        return self.program.graph.stored(argument)

    def tensor(self, argument: Argument) -> Tensor | None:
        """A stored tensor; None for anything else."""
        name = self.stored(argument)
        return None if name is None else self.program.tensors[name]

    def claim(self, argument: Argument, claim: Claim) -> None:
        """A call reads a stored tensor that has channels along these axes."""
        name = self.stored(argument)
        if name is not None:
            self.claims.setdefault(name, []).append(claim)

    def give(self, node: Node, channels: Channels) -> bool:
        """The channels of the node's result."""
        self.channels[node.outputs[0]] = channels
        self.constant.update(channels.units[channels.known].tolist())
        return True

    def keep(self, node: Node) -> None:
        """Everything that this call reads stays as it is."""
        for name in node.inputs():
            self._keep(name, f"{node.op} reads it")

    def _keep(self, name: str, reason: str) -> None:
        if name in self.channels:
            self.units.pin(self.channels[name].units.tolist(), reason)
        self.claim(Ref(name), {})

    def _settle(self, name: str, claims: list[Claim]) -> None:
        """All calls that read a tensor have to agree on what becomes of it."""
        for claim in claims:
            for axis, units in claim.items():
                if claim.keys() == claims[0].keys():
                    self.units.tie(claims[0][axis], units)
                else:
                    self.units.pin(units.tolist(), f"{name} is also read by another kind of call")
        if any(claim.keys() != claims[0].keys() for claim in claims):
            self.units.pin((u for units in claims[0].values() for u in units.tolist()), f"{name} is read in two ways")


def without_data(program: Program) -> Program:
    """The program on the meta device (see `execute.without_data`)."""
    return program.with_tensors(execute.without_data(program.graph, program.tensors))


# What torch takes by keyword only; an argument that a rule looks for by position is never among them.
_KEYWORDS = frozenset(
    ["alpha", "approximate", "copy", "device", "dtype", "layout", "memory_format", "non_blocking", "pin_memory"]
)


def understandable(node: Node) -> bool:
    """Whether only the first result is read, and no keyword hides what a rule has to see."""
    given = dict(node.kwargs)
    return not node.listed and not any(node.outputs[1:]) and given.keys() <= _KEYWORDS and plain(tuple(given.values()))


def keywords(node: Node) -> dict[str, Any]:
    """The keyword arguments of a call that computes none of them."""
    return {key: execute.evaluate(value, {}, torch.device("cpu")) for key, value in node.kwargs}


def plain(arguments: tuple[Argument, ...]) -> bool:
    """Whether none of the arguments is computed."""
    return not any(True for argument in arguments for _ in references(argument))
