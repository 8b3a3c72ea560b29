"""What a TorchScript file says, for any ranks: its tensors in order, its code, its pickle.

Records of data have a key: for tensor i those from `STRIDE`·i on, the whole tensor or its factors in their order, and
of each the parts that its encoding makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from rightrank.models.card import FILE
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.torchscript import code, pickle
from rightrank.models.factor.layer import factor_value
from rightrank.models.master.slots import Slot, Slots
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import Node, Ref

TOP, EXTRA = "variant", f"extra/{FILE}"
VERSION = b"10\n"
# Besides those of tensors (see `text_records`).
RECORDS = 5
# Fewer keys would do for a network that has no factors; but a key is never another's.
STRIDE = 2


class DataRecord(NamedTuple):
    """A record of data: part `part` of a slot, under an attribute of the module."""

    slot: Slot
    part: str
    attribute: str
    key: int
    spec: TensorSpec

    @property
    def name(self) -> str:
        return record_name(self.key)

    @property
    def parameter(self) -> bool:
        """Whether it is one to torch, which are of floating point: levels that stand for one are not."""
        return self.slot.parameter and DTYPES[self.spec.dtype].floating


class Script:
    """One template in one encoding."""

    def __init__(self, template: Template, encoding: Encoding) -> None:
        self._template, self.encoding = template, encoding
        self.slots = Slots(template)
        graph, layers = template.graph, template.decomposed
        sides = dict.fromkeys(("down", "up", *(side for layer in layers for side in layer.form.sides)))
        parts = {part for name in self.slots.tensors for part in encoding.parts(template.tensors[name])}
        suffixes = {_suffix(side, part) for side in ("", *sides) for part in {"", *parts}}
        self._attributes = code.attribute_names(self.slots.tensors, suffixes)
        self.stride = max([STRIDE, *(len(layer.form.sides) for layer in layers)]) * max(len(parts), 1)
        self._names = code.value_names(graph) | {
            value: self._expression(name, "", template.tensors[name])
            for value, name in graph.tensors.items()
            if name in self._attributes
        }
        # A stored tensor's device is a constant to `torch.jit.freeze`, which then folds what depends on it alone.
        whole = [name for name in self.slots.tensors if self.slots.position(name) is None]
        first = next((f"self.{self._attribute(name, '', self._first(name))}" for name in whole), None)
        self._names[code.DEVICE] = f"{first or self._names[graph.inputs[0].name]}.device"
        self._numbers = {name: number for number, name in enumerate(self.slots.tensors)}
        self._decoded = frozenset(
            name
            for name in self.slots.tensors
            if self._expression(name, "", template.tensors[name]) != f"self.{self._attribute(name, '', '')}"
        )
        self._layer_of_call = {call: index for index, layer in enumerate(layers) for call in layer.calls}

    def records(self, slots: Iterable[Slot]) -> list[DataRecord]:
        """The records of consecutive slots, in order."""
        found: list[DataRecord] = []
        index, count, last = -1, 0, ""
        for slot in slots:
            if slot.tensor != last:
                index, count, last = self._numbers[slot.tensor], 0, slot.tensor
            for part, spec in self.encoding.parts(TensorSpec(slot.dtype, slot.shape)).items():
                attribute = self._attribute(slot.tensor, slot.side, part)
                found.append(DataRecord(slot, part, attribute, self.stride * index + count, spec))
                count += 1
        return found

    def key_after(self, tensor: int) -> int | None:
        """The first key of the tensor that follows one, by its number; None after the last."""
        return None if tensor + 1 == len(self.slots.tensors) else self.stride * (tensor + 1)

    def source(self, ranks: Sequence[int], records: Sequence[DataRecord]) -> bytes:
        """The module's class as TorchScript text."""
        graph = self._template.graph
        results = ", ".join(self._names[name] for name in graph.outputs)
        lines = [
            "class Variant(Module):\n",
            f"  __parameters__ = [{quoted(r.attribute for r in records if r.parameter)}]\n",
            f"  __buffers__ = [{quoted(r.attribute for r in records if not r.parameter)}]\n",
            *(declared(record) for record in records),
            "  training : bool\n  _is_full_backward_hook : Optional[bool]\n",
            "  def forward(self: __torch__.Variant",
            *(f",\n    {self._names[spec.name]}: Tensor" for spec in graph.inputs),
            f") -> {_type(len(graph.outputs))}:\n",
            *(self.decoding(record.slot) for record in records if self.leads(record)),
            *(factored if index is not None and ranks[index] else dense for index, dense, factored in self.calls),
            f"    return {results if len(graph.outputs) == 1 else f'({results})'}\n",
        ]
        return "".join(lines).encode()

    def leads(self, record: DataRecord) -> bool:
        """Whether a record is the first of a tensor that has to be made of its parts."""
        return record.slot.tensor in self._decoded and record.part == self._first(record.slot.tensor)

    def decoding(self, slot: Slot) -> str:
        """The lines that make a tensor of its parts."""
        spec = TensorSpec(slot.dtype, slot.shape)
        parts = self.encoding.parts(spec)
        references = {part: Ref(f"part {part} of {slot.tensor}") for part in parts}
        value = f"{slot.side} of {slot.tensor}"
        nodes = self.encoding.decode(value, spec, references)
        expressions = {references[part].name: f"self.{self._attribute(slot.tensor, slot.side, part)}" for part in parts}
        last = self._expression(slot.tensor, slot.side, spec)
        return self._lines(nodes, self._names | expressions, last)

    @cached_property
    def calls(self) -> list[tuple[int | None, str, str]]:
        """For every call the layer that it belongs to, if any, and its lines as it is and with the layer factored."""
        found = []
        for node in self._template.graph.nodes:
            index, factored = self._layer_of_call.get(node.name), ""
            if index is not None:
                layer = self._template.decomposed[index]
                spec = self._template.tensors[layer.weight]
                sides = {
                    factor_value(layer, side).name: self._expression(layer.weight, side, spec)
                    for side in layer.form.sides
                }
                nodes = layer.form.calls(layer, node)
                factored = self._lines(nodes, self._names | sides, self._names[_first_of(node)])
            found.append((index, code.call(node, self._names), factored))
        return found

    def object(self, records: Iterable[DataRecord]) -> bytes:
        """The pickle of the module's attributes."""
        memo = pickle.Memo()
        state = [("training", pickle.FALSE), ("_is_full_backward_hook", pickle.NONE)]
        state += [entry(memo, record) for record in records]
        return pickle.HEAD + pickle.instance("__torch__", "Variant", state) + pickle.END

    def text_records(self, ranks: Sequence[int], records: Sequence[DataRecord]) -> list[tuple[str, bytes]]:
        return [
            ("data.pkl", self.object(records)),
            ("code/__torch__.py", self.source(ranks, records)),
            ("constants.pkl", pickle.HEAD + pickle.EMPTY_TUPLE + pickle.END),
            ("version", VERSION),
            ("byteorder", b"little"),
            *self.extra(),
        ]

    def extra(self) -> list[tuple[str, bytes]]:
        """The card, where torch.jit.load looks for extra files."""
        return [(EXTRA, self._template.card.encode())] if self._template.card else []

    def _first(self, name: str) -> str:
        """The name of a tensor's first part."""
        return next(iter(self.encoding.parts(self._template.tensors[name])))

    def _attribute(self, tensor: str, side: str, part: str) -> str:
        return self._attributes[tensor] + _suffix(side, part)

    def _expression(self, tensor: str, side: str, spec: TensorSpec) -> str:
        """How the code calls a stored tensor, or one of its factors."""
        parts = {part: Ref(part) for part in self.encoding.parts(spec)}
        attribute = self._attribute(tensor, side, "")
        return f"d_{attribute}" if self.encoding.decode("", spec, parts) else f"self.{attribute}"

    def _lines(self, nodes: Sequence[Node], names: dict[str, str], last: str) -> str:
        """Calls one after the other, the last of which makes what the code calls `last`."""
        if not nodes:
            return ""
        names = dict(names)
        for step, node in enumerate(nodes[:-1], 1):
            names[node.outputs[0]] = last + "_" * step
        names[_first_of(nodes[-1])] = last
        return "".join(code.call(node, names) for node in nodes)


def _first_of(node: Node) -> str:
    """The first of a call's results that is read."""
    return next(name for name in node.outputs if name)


def entry(memo: pickle.Memo, record: DataRecord) -> tuple[str, bytes]:
    """A record's attribute, and its tensor's pickle."""
    kind, shape = DTYPES[record.spec.dtype].storage, record.spec.shape
    tensor = pickle.tensor(memo, kind, str(record.key), math.prod(shape), shape, contiguous(shape), record.parameter)
    return record.attribute, tensor


@lru_cache(4096)
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of an array whose elements lie in order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def record_name(key: int) -> str:
    return f"{TOP}/data/{key}"


def declared(record: DataRecord) -> str:
    """An attribute's declaration."""
    return f"  {record.attribute} : Tensor\n"


def quoted(names: Iterable[str]) -> str:
    return "".join(f'"{name}", ' for name in names)


@lru_cache(256)
def _suffix(side: str, part: str) -> str:
    return "".join(f"_{each}" for each in (side, part) if each)


def _type(outputs: int) -> str:
    return "Tensor" if outputs == 1 else f"Tuple[{', '.join(['Tensor'] * outputs)}]"
