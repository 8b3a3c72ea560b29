"""What a .pt2 file says, for any ranks: its graph and its list of tensors, as JSON.

Both are lists of items, each of which belongs to a layer, and is there or another one where that is cut; or to none.
Every item ends with a comma, so that none depends on those after it, but for the last of a list.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.pt2.arguments import CPU, STRIDED, argument
from rightrank.models.emit.pt2.dimensions import Dimensions, strides
from rightrank.models.emit.pt2.fields import Fields, Number
from rightrank.models.emit.pt2.names import Names
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master.slots import Slot, Slots
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.master.values import Expression, Value, unread
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import Node, Ref

# The versions of torch.export's schema and of the operators that are written, those of torch 2.13.
SCHEMA, OPERATORS, TORCH = {"major": 8, "minor": 20}, {"aten": 10}, "2.13.0"
# Numbers of types that no stored tensor has.
_COMPLEX = {"complex32": 9, "complex64": 10, "complex128": 11}
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


class Record(NamedTuple):
    """A record of data: part `part` of a slot, under a tensor's name, and the value that it is."""

    slot: Slot
    part: str
    name: str
    value: str
    key: int
    spec: TensorSpec

    @property
    def parameter(self) -> bool:
        """Whether it is one to torch, which are of floating point: levels that stand for one are not."""
        return self.slot.parameter and DTYPES[self.spec.dtype].floating


@dataclass(frozen=True)
class Item:
    """A piece of a list as it is with its layer whole, and with it cut, where numbers that depend on the rank are
    `Fields`."""

    whole: str
    cut: str = ""
    layer: int | None = None


# Parts that are always the same, and lists of items.
Text: TypeAlias = "tuple[str | list[Item], ...]"


class Document:
    """One template in one encoding."""

    def __init__(self, template: Template, encoding: Encoding) -> None:
        assert template.values is not None
        self._template, self._encoding, self._values = template, encoding, template.values
        self.slots = Slots(template)
        self._names = Names(template, encoding, self.slots)
        layers = template.decomposed
        self._dimensions = Dimensions(self._values.symbols, self._values.unknown)
        self.fields = [Fields() for _ in layers]
        self._ranks: list[NDArray[np.int64]] = [np.arange(1, layer.break_even + 1) for layer in layers]
        self._numbers = {name: number for number, name in enumerate(self.slots.tensors)}
        self._layer_of_call = {call: index for index, layer in enumerate(layers) for call in layer.calls}
        parts = {part for name in self.slots.tensors for part in encoding.parts(template.tensors[name])}
        self.stride = max([1, *(len(layer.form.sides) for layer in layers)]) * max(len(parts), 1)

    # The records of data.

    def records(self, slots: Iterable[Slot]) -> list[Record]:
        """The records of consecutive slots, in order."""
        found: list[Record] = []
        count, last = 0, ""
        for slot in slots:
            count, last = (count if slot.tensor == last else 0), slot.tensor
            for part, spec in self._encoding.parts(TensorSpec(slot.dtype, slot.shape)).items():
                place = (slot.tensor, slot.side, part)
                key = self.stride * self._numbers[slot.tensor] + count
                found.append(Record(slot, part, self._names.tensors[place], self._names.placeholders[place], key, spec))
                count += 1
        return found

    def key_after(self, tensor: int) -> int | None:
        """The first key of the tensor that follows one, by its number; None after the last."""
        return None if tensor + 1 == len(self.slots.tensors) else self.stride * (tensor + 1)

    # Texts.

    @cached_property
    def graph(self) -> Text:
        """The JSON of the program."""
        graph = self._template.graph
        names = self._names.values
        takes = ",".join(f'{{"as_tensor":{{"name":"{names[spec.name]}"}}}}' for spec in graph.inputs)
        gives = ",".join(f'{{"as_tensor":{{"name":"{names[name]}"}}}}' for name in graph.outputs)
        several = [dict(_LEAF) for _ in graph.inputs]
        calling = _tuple([_tuple(several), {"type": "builtins.dict", "context": "[]", "children_spec": []}])
        giving = _tuple([dict(_LEAF) for _ in graph.outputs]) if len(graph.outputs) > 1 else _LEAF
        call = {
            "inputs": [],
            "outputs": [],
            "in_spec": json.dumps([1, calling]),
            "out_spec": json.dumps([1, giving]),
            "forward_arg_names": [names[spec.name] for spec in graph.inputs],
        }
        signature = [f'{{"user_input":{{"arg":{{"as_tensor":{{"name":"{names[s.name]}"}}}}}}}}' for s in graph.inputs]
        results = [f'{{"user_output":{{"arg":{{"as_tensor":{{"name":"{names[n]}"}}}}}}}}' for n in graph.outputs]
        return (
            '{"graph_module":{"graph":{"inputs":[',
            [*self._each_tensor(_as_input), Item(takes + ",")],
            f'],"outputs":[{gives}],"nodes":[',
            [*self._nodes],
            '],"tensor_values":{',
            [*self._each_tensor(self._tensor_value), *self._computed],
            '},"sym_int_values":{',
            self._numbers_of("int"),
            '},"sym_bool_values":{',
            self._numbers_of("bool"),
            '},"is_single_tensor_return":false,"custom_obj_values":{},"sym_float_values":{',
            self._numbers_of("float"),
            '}},"signature":{"input_specs":[',
            [*self._each_tensor(_specified), *(Item(each + ",") for each in signature)],
            f'],"output_specs":[{",".join(results)}]}},"module_call_graph":[{{"fqn":"","signature":{_dumped(call)}}}],'
            f'"metadata":{{}},"treespec_namedtuple_fields":{{}}}},"opset_version":{_dumped(OPERATORS)}'
            ',"range_constraints":{',
            [*self._bounds],
            f'}},"schema_version":{_dumped(SCHEMA)},"verifiers":["TRAINING"],"torch_version":"{TORCH}"'
            ',"guards_code":[]}',
        )

    @cached_property
    def weights(self) -> Text:
        """The JSON that says where each tensor lies."""
        return '{"config":{', self._each_tensor(self._placed), "}}"

    def _each_tensor(self, item: Callable[[Record, str], str]) -> list[Item]:
        """What an item says of each stored tensor, of its description (see `_meta`)."""
        found: dict[str, list[str]] = {name: ["", ""] for name in self.slots.tensors}
        layers = self._template.decomposed
        for cut, slots in enumerate((self._whole, self._cut)):
            for record in self.records(slots):
                index = self.slots.position(record.slot.tensor)
                if cut and index is None:
                    continue
                shape: Sequence[Any] = record.spec.shape
                if cut and index is not None:
                    layer = layers[index]
                    shapes = dict(zip(layer.form.sides, layer.form.shapes(layer, self._ranks[index]), strict=True))
                    spec = TensorSpec(record.slot.dtype, shapes[record.slot.side])
                    shape = self._encoding.parts(spec)[record.part].shape
                fields = self.fields[index] if cut and index is not None else None
                meta = self._meta(record.spec.dtype, shape, None, record.parameter, index, fields)
                found[record.slot.tensor][cut] += item(record, meta)
        return [Item(whole, cut, self.slots.position(name)) for name, (whole, cut) in found.items()]

    @cached_property
    def _whole(self) -> list[Slot]:
        return [*self.slots.at([0] * len(self._template.decomposed))]

    @cached_property
    def _cut(self) -> list[Slot]:
        return [*self.slots.at([1] * len(self._template.decomposed))]

    @cached_property
    def _by_tensor(self) -> list[dict[str, list[Slot]]]:
        """The slots of each tensor, whole and cut."""
        found: list[dict[str, list[Slot]]] = []
        for slots in (self._whole, self._cut):
            found.append({})
            for slot in slots:
                found[-1].setdefault(slot.tensor, []).append(slot)
        return found

    def _meta(
        self,
        dtype: str,
        shape: Sequence[Expression | Number],
        apart: Sequence[Expression] | None = None,
        parameter: bool = False,
        layer: int | None = None,
        fields: Fields | None = None,
    ) -> str:
        """A tensor's description."""
        ranks: Number = 0 if layer is None else self._ranks[layer]
        number = DTYPES[dtype].schema if dtype in DTYPES else _COMPLEX[dtype]

        def sizes(several: Sequence[Expression | Number]) -> str:
            return ",".join(self._dimensions.size(_plain(each), ranks, fields) for each in several)

        return (
            f'{{"dtype":{number},"sizes":[{sizes(shape)}],"requires_grad":{str(parameter).lower()},"device":{CPU},'
            f'"strides":[{sizes(strides([_plain(each) for each in shape]) if apart is None else apart)}],'
            f'"storage_offset":{{"as_int":0}},"layout":{STRIDED}}}'
        )

    def _tensor_value(self, record: Record, meta: str) -> str:
        return f'"{record.value}":{meta},'

    def _placed(self, record: Record, meta: str) -> str:
        said = f'"path_name":"weight_{record.key}","is_param":{str(record.parameter).lower()},"use_pickle":false'
        return f'"{record.name}":{{{said},"tensor_meta":{meta}}},'

    # Values that calls make.

    @property
    def _computed(self) -> Iterator[Item]:
        """The descriptions of what is computed, and last of the inputs."""
        values, names = self._values, self._names.values
        for name in self.slots.tensors:
            index = self.slots.position(name)
            whole, cut = "".join(self._made_of_parts(slot, None) for slot in self._by_tensor[0][name]), ""
            if index is not None:
                cut = "".join(self._made_of_parts(slot, index) for slot in self._by_tensor[1][name])
            yield Item(whole, cut, index)
        for node in self._template.graph.nodes:
            index = self._layer_of_call.get(node.name)
            inner = ""
            if index is not None:
                for call in self._calls_of(index, node)[:-1]:
                    for name in call.outputs:
                        value = values.tensors[name]
                        fields = self.fields[index]
                        meta = self._meta(value.dtype, value.shape, value.strides, False, index, fields)
                        inner += f'"{names[name]}":{meta},'
            made = ""
            for result, name in enumerate(node.outputs):
                found = values.tensors.get(name or unread(node.name, result))
                if found is not None:
                    made += f'"{names[name or unread(node.name, result)]}":{self._described(found)},'
            yield Item(made, inner + made if index is not None else "", index)
        for spec, sizes in zip(self._template.graph.inputs, values.inputs, strict=True):
            yield Item(f'"{names[spec.name]}":{self._described(Value(spec.dtype, sizes))},')

    def _described(self, value: Value) -> str:
        return self._meta(value.dtype, value.shape, value.strides)

    def _made_of_parts(self, slot: Slot, index: int | None) -> str:
        """The descriptions of what is made on the way from a tensor's parts to itself, all of its own sizes."""
        shape: Sequence[Any] = slot.shape
        fields = None
        if index is not None:
            layer, fields = self._template.decomposed[index], self.fields[index]
            shapes = dict(zip(layer.form.sides, layer.form.shapes(layer, self._ranks[index]), strict=True))
            shape = shapes[slot.side]
        found = ""
        for node in self._decoding(slot):
            meta = self._meta(slot.dtype, shape, None, False, index, fields)
            found += f'"{self._names.values[node.outputs[0]]}":{meta},'
        return found

    def _numbers_of(self, kind: str) -> list[Item]:
        names = self._names.values
        return [
            Item(f'"{names[name]}":{self._dimensions.number(kind, value)},')
            for name, (found, value) in self._values.numbers.items()
            if found == kind
        ]

    @property
    def _bounds(self) -> Iterator[Item]:
        ranges = self._template.graph.ranges
        for name in (*self._values.symbols, *self._values.unknown):
            low, high = ranges.get(name, (0, None))
            yield Item(f'"{name}":{{"min_val":{low},"max_val":{"null" if high is None else high}}},')
        for node in self._template.graph.nodes:
            unknown = self._values.inner.get(node.name, ())
            cut = "".join(f'"{name}":{{"min_val":0,"max_val":null}},' for name in unknown)
            if cut:
                yield Item("", cut, self._layer_of_call[node.name])

    # Calls.

    @property
    def _nodes(self) -> Iterator[Item]:
        for name in self.slots.tensors:
            index = self.slots.position(name)
            whole = "".join(map(self._call, self._decoded(self._by_tensor[0][name])))
            cut = "" if index is None else "".join(map(self._call, self._decoded(self._by_tensor[1][name])))
            yield Item(whole, cut, index)
        for node in self._template.graph.nodes:
            index = self._layer_of_call.get(node.name)
            cut = "" if index is None else "".join(map(self._call, self._calls_of(index, node)))
            yield Item(self._call(node), cut, index)

    def _decoded(self, slots: Iterable[Slot]) -> Iterator[Node]:
        for slot in slots:
            yield from self._decoding(slot)

    def _decoding(self, slot: Slot) -> tuple[Node, ...]:
        """The calls that make a tensor of its parts."""
        spec = TensorSpec(slot.dtype, slot.shape)
        parts = {part: Ref(_part(slot, part)) for part in self._encoding.parts(spec)}
        if slot.side:
            index = self.slots.position(slot.tensor)
            assert index is not None
            value = factor_value(self._template.decomposed[index], slot.side).name
        else:
            value = self._stored_value[slot.tensor]
        return self._encoding.decode(value, spec, parts)

    @cached_property
    def _stored_value(self) -> dict[str, str]:
        return {name: value for value, name in reversed([*self._template.graph.tensors.items()])}

    @cached_property
    def _called(self) -> dict[str, str]:
        """All names that a call may read."""
        parts = {
            _part(slot, part): self._names.placeholders[slot.tensor, slot.side, part]
            for slots in (self._whole, self._cut)
            for slot in slots
            for part in self._encoding.parts(TensorSpec(slot.dtype, slot.shape))
        }
        return self._names.values | parts

    def _calls_of(self, index: int, node: Node) -> tuple[Node, ...]:
        layer: Layer = self._template.decomposed[index]
        return layer.form.calls(layer, node)

    def _call(self, node: Node) -> str:
        """A call's item."""
        names = self._values.arguments.get(node.op, "abcdefgh")
        given = [(name, value, 1) for name, value in zip(names, node.args, strict=False)]
        given += [(name, value, 2) for name, value in node.kwargs]
        inputs = ",".join(
            f'{{"name":"{name}","arg":{argument(value, self._called, self._kind)},"kind":{kind}}}'
            for name, value, kind in given
        )
        outputs = [self._names.values[name or unread(node.name, n)] for n, name in enumerate(node.outputs)]
        if node.listed:
            made = '{"as_tensors":[' + ",".join(f'{{"name":"{name}"}}' for name in outputs) + "]}"
        elif kind := self._kind(node.outputs[0]):
            made = f'{{"as_sym_{kind}":{{"as_name":"{outputs[0]}"}}}}'
        else:
            made = ",".join(f'{{"as_tensor":{{"name":"{name}"}}}}' for name in outputs)
        target = f"_{node.op}" if node.op.startswith("operator.") else node.op
        target = f"torch.ops.{target}" if target.startswith("aten.") else target
        name = self._names.calls.get(node.name, outputs[0])
        return (
            f'{{"target":"{target}","inputs":[{inputs}],"outputs":[{made}],"metadata":{{}},'
            f'"is_hop_single_tensor_return":null,"name":"{name}"}},'
        )

    def _kind(self, value: str) -> str:
        return self._values.numbers[value][0] if value in self._values.numbers else ""


def _as_input(record: Record, meta: str) -> str:
    return f'{{"as_tensor":{{"name":"{record.value}"}}}},'


def _specified(record: Record, meta: str) -> str:
    arg = f'"arg":{{"name":"{record.value}"}}'
    if record.parameter:
        return f'{{"parameter":{{{arg},"parameter_name":"{record.name}"}}}},'
    return f'{{"buffer":{{{arg},"buffer_name":"{record.name}","persistent":true}}}},'


def _part(slot: Slot, part: str) -> str:
    return f"part {part} of {slot.side} of {slot.tensor}"


def _plain(size: Any) -> Any:
    """A size without a type of numpy's; one that is the same at all ranks as a number."""
    if isinstance(size, np.ndarray):
        return int(size[0]) if size.ndim and (size == size[0]).all() and len(size) > 1 else size
    return int(size) if isinstance(size, np.integer) else size


def _tuple(several: Sequence[Any]) -> dict[str, Any]:
    return {"type": "builtins.tuple", "context": "null", "children_spec": list(several)}


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
