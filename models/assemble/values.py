"""Types and sizes of all of a program's values (see `master.values`), by laws that hold at several points.

A size that is a multiple of what is free, or of a product of such, or one that is so many more than it, is written
so; what arithmetic on sizes makes is written as that arithmetic. Any other size, such as that of a strided convolution
whose input is of any height, is one that only running tells, and has a name of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, count
from typing import Any

import torch

from rightrank.models.emit.encoding import ENCODINGS
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master.template import TensorSpec
from rightrank.models.master.values import RANK, Expression, Value, Values, unread
from rightrank.models.program import execute
from rightrank.models.program.graph import Node, Ref, references
from rightrank.models.program.operators import SYMBOLIC
from rightrank.models.program.points import Points, Seen, dtype_of, seen
from rightrank.models.program.program import Program
from rightrank.models.simplify.normalize.binding import schema

# Ranks that shapes between factors are found at.
RANKS = (3, 1013)
# Of how many sizes another may be the product.
FACTORS = 3
# What arithmetic on sizes is called among torch.export's functions; of two numbers, or one.
_FUNCTIONS = {
    "operator.add": "Add",
    "operator.mul": "Mul",
    "operator.floordiv": "FloorDiv",
    "operator.mod": "PythonMod",
    "operator.eq": "Equality",
    "operator.ne": "Unequality",
    "operator.lt": "StrictLessThan",
    "operator.le": "LessThan",
    "operator.gt": "StrictGreaterThan",
    "operator.ge": "GreaterThan",
    "operator.and_": "And",
    "operator.or_": "Or",
    "torch.sym_not": "Not",
    "torch.sym_max": "Max",
    "torch.sym_min": "Min",
    "torch.sym_float": "ToFloat",
}

Vector = tuple[int, ...]


class _Untold(Exception):
    """Something of which nothing can be said."""


def values(program: Program, layers: Sequence[Layer]) -> Values | None:
    """What the values of a program are like, with those between the factors of layers that can be cut; None where that
    cannot be told."""
    points = program.points
    if points is None:
        return None
    try:
        return _Described(program, points, layers).found()
    except _Untold:
        return None


@dataclass
class _Laws:
    """Sizes at all points, as expressions."""

    bases: list[tuple[Vector, Expression]]
    taken: set[str]
    unknown: list[str] = field(default_factory=list)
    known: dict[Vector, Expression] = field(default_factory=dict)

    def of(self, vector: Vector) -> Expression:
        """That of a size; where no law fits it has a name of its own from here on."""
        found = self.law(vector)
        if found is None:
            found = name = next(name for number in count() if (name := f"u{number}") not in self.taken)
            self.taken.add(name)
            self.unknown.append(name)
            self.note(vector, name)
        return found

    def note(self, vector: Vector, expression: Expression) -> None:
        self.known[vector] = expression
        self.bases.append((vector, expression))

    def apart(self) -> _Laws:
        """The same, from where on what gets a name is known to nobody else."""
        return _Laws([*self.bases], self.taken, [], {**self.known})

    def law(self, vector: Vector) -> Expression | None:
        if len(set(vector)) == 1:
            return vector[0]
        if vector not in self.known:
            found = self._multiple(vector) or self._more(vector)
            if found is None:
                return None
            self.known[vector] = found
        return self.known[vector]

    def _multiple(self, vector: Vector) -> Expression | None:
        for number in range(1, FACTORS + 1):
            for several in combinations_with_replacement(self.bases, number):
                product = [math.prod(sizes) for sizes in zip(*(base for base, _ in several), strict=True)]
                if not all(product) or any(size % whole for size, whole in zip(vector, product, strict=True)):
                    continue
                times = {size // whole for size, whole in zip(vector, product, strict=True)}
                if len(times) == 1:
                    return _product(times.pop(), [expression for _, expression in several])
        return None

    def _more(self, vector: Vector) -> Expression | None:
        for base, expression in self.bases:
            more = {size - other for size, other in zip(vector, base, strict=True)}
            if len(more) == 1 and isinstance(expression, str):
                return ("Add", more.pop(), expression)
        return None


def _product(times: int, several: Sequence[Expression]) -> Expression:
    factors: list[Expression] = [times] if times != 1 else []
    for each in several:
        factors += each[1:] if isinstance(each, tuple) and each[0] == "Mul" else [each]
    return factors[0] if len(factors) == 1 else ("Mul", *factors)


class _Described:
    """A program's values."""

    def __init__(self, program: Program, points: Points, layers: Sequence[Layer]) -> None:
        self._program, self._points, self._layers = program, points, layers
        # The usual sizes count twice, for another rank the second time.
        self._places = [0, *range(len(points.tensors))]
        self._ranks = [RANKS[0], RANKS[1], *[RANKS[0]] * (len(points.tensors) - 1)]
        symbols = [(self._spread(sizes), name) for name, sizes in points.symbols.items()]
        self._laws = _Laws([*symbols, (tuple(self._ranks), RANK)], {*points.symbols, *program.graph.ranges})
        self._laws.known.update(self._laws.bases)
        self._tensors: dict[str, Value] = {}
        self._numbers: dict[str, tuple[str, Expression]] = {}
        self._unknown: dict[str, tuple[str, ...]] = {}

    def found(self) -> Values:
        points, graph = self._points, self._program.graph
        of_call = {call: layer for layer in self._layers if layer.decomposed for call in layer.calls}
        called = list(graph.nodes)
        for node in graph.nodes:
            at = [tensors[node.name] for tensors in points.tensors]
            for result, several in enumerate(zip(*(at[place] for place in self._places), strict=True)):
                name = (node.outputs[result] if result < len(node.outputs) else "") or unread(node.name, result)
                self._result(node, name, several, points.dtypes[node.name][result], self._laws)
        for node in graph.nodes:
            if node.name in of_call:
                inner = of_call[node.name].form.calls(of_call[node.name], node)
                self._inside(of_call[node.name], node, inner[:-1])
                called += inner
        for encoding in ENCODINGS.values():
            spec = TensorSpec("float32", (2, 2))
            called += encoding.decode("", spec, {part: Ref(part) for part in encoding.parts(spec)})
        return Values(
            self._tensors,
            self._numbers,
            {name: sizes[0] for name, sizes in points.symbols.items()},
            tuple(self._laws.unknown),
            {call: names for call, names in self._unknown.items() if names},
            arguments(called),
            tuple(tuple(sizes) for sizes in points.sizes),
        )

    def _spread(self, several: Sequence[int]) -> Vector:
        return tuple(several[place] for place in self._places)

    def _result(self, node: Node, name: str, several: Sequence[Any], dtype: str, laws: _Laws) -> None:
        """One of a call's results, at all points."""
        if isinstance(several[0], Seen):
            if len({len(each.shape) for each in several}) > 1:
                raise _Untold
            shape = tuple(laws.of(sizes) for sizes in zip(*(each.shape for each in several), strict=True))
            self._tensors[name] = Value(dtype, shape, _strides(several, laws))
        else:
            self._numbers[name] = self._number(node, several)

    def _number(self, node: Node, several: Sequence[Any]) -> tuple[str, Expression]:
        kind = type(several[0]).__name__
        if len(set(several)) == 1:
            return kind, several[0]
        if kind == "int" and (law := self._laws.law(tuple(several))) is not None:
            return kind, law
        expression = self._arithmetic(node)
        if kind == "int":
            self._laws.note(tuple(several), expression)
        return kind, expression

    def _arithmetic(self, node: Node) -> Expression:
        kinds = {self._numbers[name][0] for name in node.inputs() if name in self._numbers}
        given: list[Expression] = []
        for argument in node.args:
            if isinstance(argument, Ref):
                given.append(self._numbers[argument.name][1])
            elif isinstance(argument, int):
                given.append(argument)
            else:
                raise _Untold
        match node.op, given:
            case "operator.sub", [one, other]:
                return ("Add", one, ("Mul", -1, other))
            case "operator.neg", [one]:
                return ("Mul", -1, one)
            case "operator.truediv", [one, other] if kinds == {"int"}:
                return ("IntTrueDiv", one, other)
            case "torch.sym_int", [one] if kinds == {"float"}:
                return ("TruncToInt", one)
            case op, _ if op in _FUNCTIONS:
                return (_FUNCTIONS[op], *given)
        raise _Untold

    def _inside(self, layer: Layer, node: Node, calls: Sequence[Node]) -> None:
        """What calls between a layer's factors make, in place of a call."""
        results: dict[str, list[Any]] = {}
        for place, rank in zip(self._places, self._ranks, strict=True):
            values = self._given(layer, rank, calls, place)
            for call in calls:
                arguments = [execute.evaluate(each, values, torch.device("meta")) for each in call.args]
                values[call.outputs[0]] = execute.resolve(call.op)(*arguments)
                results.setdefault(call.outputs[0], []).append(values[call.outputs[0]])
        laws = self._laws.apart()
        for name, several in results.items():
            self._result(node, name, [seen(each) for each in several], dtype_of(several[0]), laws)
        self._unknown[node.name] = tuple(laws.unknown)

    def _given(self, layer: Layer, rank: int, calls: Sequence[Node], place: int) -> dict[str, Any]:
        """What calls read, as shapes alone: a layer's factors of a rank, and what the program makes at a point."""
        graph, tensors = self._program.graph, self._program.tensors
        weight = tensors[layer.weight]
        values = {
            factor_value(layer, side).name: torch.empty(shape, dtype=weight.dtype, device="meta")
            for side, shape in layer.factor_shapes(rank).items()
        }
        wanted = {name for call in calls for each in call.args for name in references(each)} - values.keys()
        for name, stored in graph.tensors.items():
            if name in wanted:
                values[name] = tensors[stored].to("meta")
        for spec, given in zip(graph.inputs, self._points.given[place], strict=True):
            if spec.name in wanted:
                values[spec.name] = _empty(given, spec.dtype)
        for node in graph.nodes:
            pairs = zip(node.outputs, self._points.tensors[place][node.name], strict=False)
            for (name, made), dtype in zip(pairs, self._points.dtypes[node.name], strict=False):
                if name in wanted:
                    values[name] = _empty(made, dtype) if isinstance(made, Seen) else made
        return values


def _strides(several: Sequence[Seen], laws: _Laws) -> tuple[Expression, ...] | None:
    """None where numbers lie in order, or where it cannot be told how they do."""
    if all(each.strides == _in_order(each.shape) for each in several):
        return None
    found = [laws.law(strides) for strides in zip(*(each.strides for each in several), strict=True)]
    return None if None in found else tuple(each for each in found if each is not None)


def _empty(tensor: Seen, dtype: str) -> Any:
    return torch.empty_strided(tensor.shape, tensor.strides, dtype=getattr(torch, dtype), device="meta")


def _in_order(shape: Sequence[int]) -> Vector:
    """The strides of numbers that lie in order."""
    return tuple(math.prod(max(size, 1) for size in shape[dim + 1 :]) for dim in range(len(shape)))


def arguments(nodes: Iterable[Node]) -> Mapping[str, tuple[str, ...]]:
    """The names of the arguments of each operator that is called."""
    operators = {node.op for node in nodes if node.op not in SYMBOLIC or node.op.startswith("aten.")}
    return {op: tuple(argument.name for argument in schema(op).arguments) for op in sorted(operators)}
