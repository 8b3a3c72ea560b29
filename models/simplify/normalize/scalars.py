"""Numbers that TorchScript takes for something else than torch does, as tensors without dimensions.

TorchScript turns a bool that is passed as a number into an integer, and has no kernel for a number in a call's first
tensor's place. In promotion of types a tensor without dimensions counts for as little as a number does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.program.graph import Argument, Constant, Graph, Node, Ref, TensorMeta
from rightrank.models.program.operators import SYMBOLIC
from rightrank.models.simplify.normalize.binding import schema

# What makes a truth of sizes.
_TRUTHS = frozenset(f"operator.{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_"))
_TRUTHS |= {"torch.sym_not"}
_MADE_FLOAT = frozenset({"operator.truediv", "torch.sym_float", "torch.sym_sqrt"})
_POWER = 8
# The same call with tensors where numbers stood.
_OF_TENSORS = {f"aten.where.{overload}": "aten.where.self" for overload in ("Scalar", "ScalarSelf", "ScalarOther")} | {
    f"aten.bitwise_{name}.{overload}": f"aten.bitwise_{name}.Tensor"
    for name in ("and", "or", "xor")
    for overload in ("Scalar", "Scalar_Tensor")
}
_CPU = ("device", Constant("device", "cpu"))


def as_tensors(graph: Graph, metas: Mapping[str, TensorMeta]) -> Graph:
    """The same graph without numbers that could be taken otherwise; `metas` say of values of which dtype they are."""
    numbers = _Numbers(graph, metas)
    return graph.replace(nodes=tuple(each for node in graph.nodes for each in numbers.rewrite(node)))


class _Numbers:
    def __init__(self, graph: Graph, metas: Mapping[str, TensorMeta]) -> None:
        self._metas = metas
        self._sizes = {name for node in graph.nodes if node.op in SYMBOLIC for name in node.outputs}
        self._floats: set[str] = set()
        self._truths = {name for node in graph.nodes if node.op in _TRUTHS for name in node.outputs}

    def rewrite(self, node: Node) -> Iterator[Node]:
        """The call, after those that make the tensors which it now takes."""
        if node.op in SYMBOLIC:
            yield from self._of_sizes(node)
            return
        if node.op == "aten.full.default":
            typed = dict(node.kwargs)
            if self._true(node.args[1]) and typed.get("dtype") is None:
                typed["dtype"] = Constant("dtype", "bool")
            yield Node(node.name, node.op, node.args, tuple(typed.items()), node.outputs)
            return
        kinds = [str(parameter.type) for parameter in schema(node.op).arguments]
        args = list(node.args)
        scalars = [i for i, value in enumerate(args) if kinds[i] in ("number", "Scalar") and self._number(value)]
        op = _OF_TENSORS.get(node.op) if any(self._true(args[i]) for i in scalars) else None
        for index, value in enumerate(args):
            first = kinds[index] == "Tensor" and self._number(value) and (index == 0 or self._true(value))
            if first or (op and index in scalars):
                name = f"number {index} of {node.name}"
                made = (("dtype", Constant("dtype", self._dtype(value, args))), _CPU)
                yield Node(name, "aten.full.default", ((), value), made, (name,))
                args[index] = Ref(name)
        yield Node(node.name, op or node.op, tuple(args), node.kwargs, node.outputs, node.listed)

    def _of_sizes(self, node: Node) -> Iterator[Node]:
        """Arithmetic on sizes; which of them are no integers is noted."""
        floating = any(self._float(value) for value in node.args)
        if node.op in _MADE_FLOAT or (floating and node.op not in (_TRUTHS | {"torch.sym_int"})):
            self._floats.update(node.outputs)
        if node.op != "operator.pow" or floating:
            yield node
            return
        # TorchScript's power of integers is a float.
        base, times = node.args
        if type(times) is not int or not 1 <= times <= _POWER:
            raise UnsupportedCheckpoint(
                "The program takes a size to a power that is not read.",
                f"Write a power from 1 to {_POWER}, or one with a point: x.shape[0] ** 0.5.",
            )
        before = base
        for step in range(2, times):
            name = f"power {step} of {node.name}"
            yield Node(name, "operator.mul", (before, base), (), (name,))
            before = Ref(name)
        op, args = ("operator.pos", (base,)) if times == 1 else ("operator.mul", (before, base))
        yield Node(node.name, op, args, (), node.outputs)

    def _float(self, value: Argument) -> bool:
        return isinstance(value, float) or (isinstance(value, Ref) and value.name in self._floats)

    def _true(self, value: Argument) -> bool:
        return isinstance(value, bool) or (isinstance(value, Ref) and value.name in self._truths)

    def _number(self, value: Argument) -> bool:
        return isinstance(value, (bool, int, float)) or (isinstance(value, Ref) and value.name in self._sizes)

    def _dtype(self, value: Argument, others: list[Argument]) -> str:
        if self._true(value):
            return "bool"
        if not self._float(value):
            return "int64"
        double = any(
            isinstance(o, Ref) and o.name in self._metas and self._metas[o.name].dtype == "float64" for o in others
        )
        return "float64" if double else "float32"
