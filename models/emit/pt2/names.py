"""What values and tensors are called in a file: as in the graph, where that is a plain name, or much like it."""

from __future__ import annotations

import keyword
import re

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master.slots import Slots
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.master.values import unread
from rightrank.models.program.graph import Node, Ref, fresh

MOST = 200
# What the code that torch makes of a graph calls something else.
RESERVED = frozenset({"self", "torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree", "operator"})


class Names:
    """Those of one template in one encoding; they are the same at all ranks.

    `values` are the names of the graph's values, of factors and of what lies between their calls, and of what encodings
    make; `calls` those of calls of several results; `placeholders` and `tensors` those of stored tensors as values and
    in the list of tensors, by tensor, side and part.
    """

    def __init__(self, template: Template, encoding: Encoding, slots: Slots) -> None:
        graph = template.graph
        self.values: dict[str, str] = {}
        self.calls: dict[str, str] = {}
        self.placeholders: dict[tuple[str, str, str], str] = {}
        self.tensors: dict[tuple[str, str, str], str] = {}
        self._taken: set[str] = set()
        stored = {name: value for value, name in reversed([*graph.tensors.items()])}
        plain = [*(spec.name for spec in graph.inputs), *(stored[name] for name in slots.tensors)]
        plain += [name for node in graph.nodes for name in node.outputs if name]
        # Those that can stay as they are do, before others take names like theirs.
        for name in sorted(plain, key=lambda name: not _is_plain(name)):
            self._value(name)
        for node in graph.nodes:
            self._call(node)
        layers = {layer.weight: layer for layer in template.decomposed}
        for layer in template.decomposed:
            for node in graph.nodes:
                if node.name in layer.calls:
                    for inner in layer.form.calls(layer, node)[:-1]:
                        self._call(inner)
        qualified: set[str] = set()
        for name in slots.tensors:
            self._stored(name, "", stored[name], template.tensors[name], encoding, qualified)
        for name, layer in layers.items():
            for side in layer.form.sides if name in slots.tensors else ():
                self._factor(layer, side, stored[name], template.tensors[name], encoding, qualified)
        for value, name in graph.tensors.items():
            if name in stored and stored[name] in self.values:
                self.values[value] = self.values[stored[name]]

    def _value(self, name: str, like: str = "") -> str:
        if name not in self.values:
            self.values[name] = self._fresh(like or name)
        return self.values[name]

    def _call(self, node: Node) -> None:
        several = node.listed or len(node.outputs) != 1
        for result, name in enumerate(node.outputs):
            self._value(name or unread(node.name, result))
        if several:
            self.calls[node.name] = self._fresh(node.name)

    def _factor(
        self, layer: Layer, side: str, value: str, spec: TensorSpec, encoding: Encoding, qualified: set[str]
    ) -> None:
        name = factor_value(layer, side).name
        self._value(name, f"{self.values[value]}_{side}")
        self._stored(layer.weight, side, name, spec, encoding, qualified)

    def _stored(
        self, tensor: str, side: str, value: str, spec: TensorSpec, encoding: Encoding, qualified: set[str]
    ) -> None:
        """The names of a stored tensor's parts, and of the calls that make it of them."""
        parts = encoding.parts(spec)
        nodes = encoding.decode(value, spec, {part: Ref("") for part in parts})
        for part in parts:
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", "_".join(each for each in (tensor, side, part) if each))
            self.tensors[tensor, side, part] = fresh(name, qualified)
            if nodes:
                self.placeholders[tensor, side, part] = self._fresh(f"{self.values[value]}_{part or 'stored'}")
            else:
                self.placeholders[tensor, side, part] = self.values[value]
        for node in nodes:
            self._call(node)

    def _fresh(self, name: str) -> str:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)[:MOST]
        return fresh(plain if _is_plain(plain) else f"t_{plain}", self._taken)


def _is_plain(name: str) -> bool:
    named = name.isascii() and name.isidentifier() and len(name) <= MOST
    return named and not keyword.iskeyword(name) and name not in RESERVED
