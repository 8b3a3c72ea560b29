"""What a TorchScript file of the second writer says, for any ranks.

A small network drowns in what is no weight: 300 bytes a tensor. So here

* a batch norm that follows a layer alone is part of it (see `fold`; not in the network as uploaded);
* tensors share one storage for each type, but for large ones, which have a record of their own;
* vectors (biases, scales) are one tensor, which the code splits;
* text and pickle are deflated to a size that is a sum (see `text`), and names are short.

The order of records is that of `storages`: large tensors first, at multiples of 64, then what is shared.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.levels import SCALE
from rightrank.models.emit.encoding.packing import PACKINGS
from rightrank.models.emit.encoding.plain import Plain
from rightrank.models.emit.torchscript import code
from rightrank.models.emit.torchscript.fold import FOLDED, Fold, folded, folds
from rightrank.models.emit.torchscript.phrases import (
    CODED,
    declared,
    in_class,
    in_function,
    in_list,
    listed,
    scaling,
    unpacking,
)
from rightrank.models.emit.torchscript.pickle import HEAD, string
from rightrank.models.emit.torchscript.pieces import (
    FIRST,
    HOOKS,
    REBUILD,
    entry,
    in_pickle,
    merged,
    number_template,
    persistent,
    wide,
)
from rightrank.models.emit.torchscript.registers import registers
from rightrank.models.emit.torchscript.text import Part, Quote, Text
from rightrank.models.emit.vectors import TIMES
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master.slots import Slots
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import Node, Ref

TOP, PLAIN = "v", Plain()
# What the code calls the functions that make numbers of levels, by the axis along which the bases lie.
ALONG = ("r", "c")
# A tensor that takes more bytes, at full rank, has a record of its own.
LARGE = 1 << 16
# Vectors of more numbers are tensors like others.
LONG = 1 << 12
# What the code calls the tensors of vectors, split: one for each type, of sizes that are fixed or depend on ranks, and
# of scales or others.
SPLIT = "pqstuyabghijkmno" + "ABCDEFGHIJKLMNOP"


class Kind(NamedTuple):
    """What a layer is in a file: factored or whole, and by which packing its coded levels lie (0 without)."""

    factored: bool
    packing: int = 0


class Place(NamedTuple):
    """A tensor of the file: which of the program's, which `side` of its factors, which `part` of its encoding."""

    tensor: str
    side: str = ""
    part: str = ""


@dataclass(frozen=True)
class Stored:
    """A tensor with an attribute of its own. `alone`: in a record of its own; `coded`: in that of coded levels, as rows
    of bytes (see `packing`); `bases`: the axis along which its bases lie, where it lies basis after basis."""

    place: Place
    attribute: str
    dtype: str
    parameter: bool
    alone: bool
    coded: bool
    bases: int | None = None


class Group(NamedTuple):
    """Vectors that are one tensor: of one type, of sizes that are fixed or vary with ranks.

    `scales` are stored as `TIMES` what they are, `held` in half precision are those that calls take as float32, and
    `parameters` those that learning changes. Those that are `rounded` are levels of eight bits (see `emit.vectors`):
    their steps are a vector among the scales.
    """

    dtype: str
    varied: bool
    scales: bool = False
    held: bool = False
    parameters: bool = False
    rounded: bool = False


# Scales of fixed sizes, beside coded levels; and vectors of eight bits there, whose steps are one vector of scales.
SCALES, ROUNDED = Group("float16", False, scales=True, held=True), Group("int8", False, rounded=True)
STEPS = Place("steps of vectors")


@dataclass(frozen=True)
class Vector:
    """A vector, and its number in the tensor that holds all of its group."""

    place: Place
    group: Group
    number: int


class Compact:
    """One template in one encoding."""

    def __init__(self, template: Template, encoding: Encoding, folding: bool) -> None:
        self.template, self.encoding = template, encoding
        # A product may round otherwise where its numbers lie otherwise: those of the original lie as torch puts them.
        self.aligned = not folding
        self.slots = Slots(template)
        self.folds: Mapping[str, Fold] = folds(template) if folding else {}
        gone = {name for fold in self.folds.values() for name in fold.tensors}
        self.tensors = [name for name in self.slots.tensors if name not in gone]
        self._layers = {layer.weight: layer for layer in template.decomposed}
        self._weights = {layer.weight for layer in template.layers if template.tensors[layer.weight].dtype == FOLDED}
        self._weights |= template.tables if encoding.coded else set()
        self._alike = template.alike if encoding.coded else frozenset()
        self._nodes = folded(template.graph, self.folds)
        packings = len(PACKINGS) if encoding.coded else 1
        # What a layer that can be cut may be; whole and as its numbers are first.
        self.kinds = [Kind(factored, packing) for factored in (False, True) for packing in range(packings)]
        self.stored: dict[Place, Stored] = {}
        self.vectors: dict[Place, Vector] = {}
        self._members: dict[Group, list[Vector]] = {}
        # What a cut asks for again and again.
        self._places_of: dict[tuple[str, bool], list[Place]] = {}
        self._present: dict[tuple[str, bool], list[Stored]] = {}
        self._varying: dict[tuple[Place, int], list[tuple[int, str]]] = {}
        for number, name in enumerate(self.tensors):
            for place, spec, varied in self._places(name):
                if not self._packed(place, spec):
                    self.stored[place] = self._stored(place, spec, number)
                elif (whole := self._whole(place, spec)) is not None:
                    self.vectors[place] = whole  # of as many numbers: one stands for the other
                else:
                    self._pack(place, spec.dtype, varied)
            if name in self.folds:
                self._pack(Place(self.folds[name].value), FOLDED, False, name)
        if ROUNDED in self._members:
            self._put(STEPS, SCALES)

    def _whole(self, place: Place, spec: TensorSpec) -> Vector | None:
        """The whole layer's vector, where one of a factor's has as many numbers at every rank."""
        found = self.vectors.get(Place(place.tensor, "", place.part)) if place.side else None
        if found is None or self._varies(place):
            return None
        return found if self.alike(place) or self.size_of(found) == spec.shape[0] else None

    def alike(self, place: Place) -> bool:
        """Whether it is one scale for all outputs."""
        return place.tensor in self._alike and place.part == SCALE and not self._varies(place)

    def _varies(self, place: Place) -> bool:
        return bool(place.side) and self.shape(place, 1) != self.shape(place, 2)

    def wide(self, name: str) -> bool:
        """Whether a vector of this name, or the scales and the folded bias of this weight, are float32 beside levels,
        where half precision will do for others."""
        return name in self.template.wide

    def _pack(self, place: Place, dtype: str, varied: bool, owner: str = "") -> None:
        """`owner` is the weight that a folded bias is of."""
        if self._rounds(place):
            self._put(place, ROUNDED)
            return
        stored, single = dtype, dtype == FOLDED or bool(place.part)
        if self.encoding.coded and single:
            stored = FOLDED if self.wide(owner or place.tensor) else "float16"
        held = stored == "float16" and single
        learns = not place.part and (place.tensor in self.template.graph.parameters or place.tensor not in self.tensors)
        self._put(place, Group(stored, varied, bool(place.part) and self.encoding.coded, held, learns))

    def _rounds(self, place: Place) -> bool:
        return self.encoding.coded and not place.part and place.tensor in self.template.vectors

    def _put(self, place: Place, group: Group) -> None:
        self.vectors[place] = Vector(place, group, len(self._members.setdefault(group, [])))
        self._members[group].append(self.vectors[place])

    # What there is.

    def sides(self, name: str) -> tuple[str, ...]:
        """Those of a tensor's factors, none where it is no layer's that can be cut."""
        return self._layers[name].form.sides if name in self._layers else ()

    def encoding_of(self, name: str) -> Encoding:
        """How a tensor's numbers are written: those of layers' weights by the encoding, others as they are."""
        return self.encoding if self.encoding.exact or name in self._weights else PLAIN

    def shape(self, place: Place, rank: Any) -> tuple[Any, ...]:
        """The shape of a stored part at a rank of its layer (or ranks); of a whole tensor whatever that is."""
        return self._spec(place, rank).shape

    def _spec(self, place: Place, rank: Any = 1) -> TensorSpec:
        spec = self.template.tensors[place.tensor]
        if place.side:
            spec = TensorSpec(spec.dtype, self._layers[place.tensor].factor_shapes(rank)[place.side])
        return self.encoding_of(place.tensor).parts(spec)[place.part]

    def _places(self, name: str) -> Iterable[tuple[Place, TensorSpec, bool]]:
        """Every part of a tensor, whole and as factors, at full rank, and whether its size depends on the rank."""
        full = self._layers[name].rank if name in self._layers else 0
        for side in ("", *self.sides(name)):
            parts = self.encoding_of(name).parts(self._spec_of(name, side, full or 1))
            for part, spec in parts.items():
                place = Place(name, side, part)
                yield place, spec, self._varies(place)

    def _spec_of(self, name: str, side: str, rank: Any) -> TensorSpec:
        spec = self.template.tensors[name]
        return TensorSpec(spec.dtype, self._layers[name].factor_shapes(rank)[side]) if side else spec

    def _packed(self, place: Place, spec: TensorSpec) -> bool:
        """Whether a part is one of the vectors: one number for each slice along the first axis of a weight or a factor,
        or a tensor of one dimension that is no layer's weight, or what the template says of others."""
        if self._rounds(place):
            return True
        if not DTYPES[spec.dtype].floating or not all(spec.shape):
            return False
        if place.part:
            slices = self._spec_of(place.tensor, place.side, self._rank(place)).shape[0]
            return math.prod(spec.shape) == spec.shape[0] == slices
        return len(spec.shape) == 1 and spec.shape[0] <= LONG and not place.side and place.tensor not in self._layers

    def _rank(self, place: Place) -> int:
        return self._layers[place.tensor].rank if place.side else 1

    def _stored(self, place: Place, spec: TensorSpec, number: int) -> Stored:
        letter = "defghijk"[self.sides(place.tensor).index(place.side)] if place.side else "w"
        attribute = f"{letter}{number}" + (f"_{place.part}" if place.part else "")
        coded = not place.part and self.encoding.coded and place.tensor in self._weights
        size = math.prod(spec.shape) * DTYPES[spec.dtype].width
        parameter = place.tensor in self.template.graph.parameters and DTYPES[spec.dtype].floating
        dtype = CODED if coded else spec.dtype
        bases = None
        if self.encoding.nested and place.side and not place.part and place.tensor in self._weights:
            bases = self._layers[place.tensor].axis_of_bases(place.side)
        return Stored(place, attribute, dtype, parameter and not coded, size > LARGE and not coded, coded, bases)

    def rows(self, place: Place, packing: int, rank: Any) -> tuple[Any, int]:
        """How many rows of how many bytes coded levels are: a basis a row, or of a whole weight an output."""
        shape, axis = self._shape_and_axis(place, rank)
        return shape[axis], PACKINGS[packing].width(math.prod(shape[:axis] + shape[axis + 1 :]))

    def _shape_and_axis(self, place: Place, rank: Any) -> tuple[tuple[Any, ...], int]:
        shape = self._spec_of(place.tensor, place.side, rank).shape
        if not place.side:
            return shape, 0
        one, two = (self._spec_of(place.tensor, place.side, each).shape for each in (1, 2))
        return shape, next(at for at, (less, more) in enumerate(zip(one, two, strict=True)) if less != more)

    def present(self, name: str, factored: bool) -> list[Stored]:
        """The parts of a tensor with attributes of their own, in a file where its layer is factored, or is not."""
        if (found := self._present.get((name, factored))) is None:
            places = self.places(name, factored)
            found = self._present[name, factored] = [self.stored[place] for place in places if place in self.stored]
        return found

    def places(self, name: str, factored: bool) -> list[Place]:
        """All parts of a tensor, where its layer is factored or is not."""
        if (found := self._places_of.get((name, factored))) is None:
            found = self._places_of[name, factored] = [
                Place(name, side, part)
                for side in (self.sides(name) if factored else ("",))
                for part in self.encoding_of(name).parts(self._spec_of(name, side, 1))
            ]
        return found

    def members(self, group: Group) -> list[Vector]:
        """The vectors of one tensor, in order."""
        return self._members[group]

    @cached_property
    def standing(self) -> Mapping[Place, list[Place]]:
        """For each vector, by its own place, all that it may stand for."""
        found: dict[Place, list[Place]] = {}
        for place, each in self.vectors.items():
            found.setdefault(each.place, []).append(place)
        return found

    def size_of(self, vector: Vector, rank: Any = 1) -> Any:
        """How many numbers a vector has."""
        if self.alike(vector.place):
            return 1
        if vector.place.tensor in self.template.tensors:
            shape = self.shape(vector.place, rank)
            return math.prod(shape) if vector.group.rounded else shape[0]
        if vector.place == STEPS:
            return len(self._members[ROUNDED])
        return self.template.tensors[self._folded[vector.place.tensor].weight].shape[0]

    @cached_property
    def _folded(self) -> Mapping[str, Fold]:
        """Folded norms by what their bias is called."""
        return {fold.value: fold for fold in self.folds.values()}

    @cached_property
    def groups(self) -> list[Group]:
        """The tensors of vectors that there are; last those of which another has the steps."""
        return sorted(self._members, key=lambda group: group.rounded)

    @cached_property
    def attributed(self) -> set[str]:
        """The program's tensors that have attributes of their own."""
        return {place.tensor for place in self.stored}

    @cached_property
    def shared(self) -> list[str]:
        """The types of the storages that tensors share, in the order of their records."""
        found = [group.dtype for group in self.groups]
        found += [each.dtype for each in self.stored.values() if not each.alone and not each.coded]
        return list(dict.fromkeys(found))

    @cached_property
    def coded(self) -> bool:
        """Whether there are coded levels."""
        return any(each.coded for each in self.stored.values())

    @property
    def storages(self) -> list[str]:
        """The type of every storage that tensors share, in the order of their records; last that of coded levels."""
        return [*self.shared, *([CODED] if self.coded else [])]

    @cached_property
    def alone(self) -> list[Place]:
        return [place for place, each in self.stored.items() if each.alone]

    def key(self, place: Place) -> str:
        """The record of a tensor that is alone; always of as many characters."""
        return self._keys[place]

    @cached_property
    def _keys(self) -> Mapping[Place, str]:
        return {place: f"{len(self.storages) + number:05d}" for number, place in enumerate(self.alone)}

    # The code.

    def _named(self, group: Group) -> str:
        """What the code calls the tensor of a group's vectors, split."""
        return SPLIT[self.groups.index(group)]

    def attribute(self, group: Group) -> str:
        """The attribute that holds that tensor."""
        return f"{self._named(group)}_"

    def _opened(self, group: Group) -> str:
        """That tensor in the numbers that calls take."""
        stored = f"self.{self.attribute(group)}"
        if group.rounded:
            counts = "".join(f"{self.size_of(vector)}, " for vector in self.members(group))
            steps = self.expression(STEPS)
            steps = f"torch.repeat_interleave({steps}, torch.tensor([{counts}], device={stored}.device))"
            return f"torch.mul(torch.to({stored}, {DTYPES[FOLDED].script}), {steps})"
        if group.held:
            stored = f"torch.to({stored}, {DTYPES[FOLDED].script})"
        return f"torch.mul({stored}, {1 / TIMES!r})" if group.scales else stored

    def expression(self, place: Place) -> str:
        """How the code calls a part."""
        shape = self.shape(place, 1) if place.tensor in self.template.tensors else (0,)
        if place in self.vectors:
            vector = self.vectors[place]
            named = f"{self._named(vector.group)}[{vector.number}]"
            if len(shape) == 1:
                return named
            others = shape[1:] if vector.group.rounded else (1,) * len(shape[1:])
            return f"torch.reshape({named}, [-1, {', '.join(map(str, others))}])"
        return f"self.{self.stored[place].attribute}"

    def _value(self, name: str, side: str, packing: int = 0) -> str:
        """A tensor, or one of its factors, as an expression."""
        if (stored := self.stored.get(Place(name, side))) is not None and stored.coded:
            return self._decoded(stored, packing)
        spec = self._spec_of(name, side, 1)
        encoding = self.encoding_of(name)
        places = {part: Place(name, side, part) for part in encoding.parts(spec)}
        refs = {part: Ref(f"part {part}") for part in places}
        names = {refs[part].name: self.expression(place) for part, place in places.items()}
        nodes = encoding.decode("", spec, refs)
        if not nodes:
            return names[refs[""].name]
        for node in nodes:
            names[node.outputs[0]] = code.expression(node, names)
        return names[nodes[-1].outputs[0]]

    def _decoded(self, stored: Stored, packing: int) -> str:
        """Coded levels, times what they stand for: a call of one of the module's functions (see `unpacking`)."""
        shape, axis = self._shape_and_axis(stored.place, 1)
        sizes = [str(-1 if at == axis else size) for at, size in enumerate(shape)]
        scale = self.vectors[Place(stored.place.tensor, stored.place.side, SCALE)]
        count = math.prod(shape[:axis] + shape[axis + 1 :])
        levels = f"self.l{packing}(self.{stored.attribute}, {count})"
        return f"self.{ALONG[axis]}({levels}, {self._named(scale.group)}[{scale.number}], [{', '.join(sizes)}])"

    @cached_property
    def _names(self) -> dict[str, str]:
        graph = self.template.graph
        names = registers(graph, self._nodes)
        for value, name in graph.tensors.items():
            if name in self.template.tensors and name in self.tensors:
                names[value] = self._value(name, "")
        for fold in self.folds.values():
            names[fold.value] = self.expression(Place(fold.value))
        whole = [each for place, each in self.stored.items() if not place.side and not self.sides(place.tensor)]
        first = f"self.{whole[0].attribute}" if whole else None
        if first is None and self.groups:
            first = f"self.{self.attribute(self.groups[0])}"
        names[code.DEVICE] = f"{first or names[graph.inputs[0].name]}.device"
        return names

    @cached_property
    def code(self) -> Text:
        """The module's class."""
        graph, names, layers = self.template.graph, self._names, self.template.decomposed
        index_of = {layer.weight: index for index, layer in enumerate(layers)}
        parts: list[Part] = []

        def add(text: str, quote: Quote | None = None) -> None:
            if text:
                parts.append(Part(((text.encode(),),), None, quote))

        def either(index: int, of: Callable[[Kind], str], quote: Quote | None = None) -> None:
            texts = [of(kind) for kind in self.kinds]
            if any(texts):
                parts.append(Part(tuple((each.encode(),) if each else None for each in texts), index, quote))

        def attributes(line: Callable[[str], str], wanted: Callable[[Stored], bool], quote: Quote) -> None:
            for name in self.tensors:

                def lines(kind: Kind, name: str = name) -> str:
                    return "".join(line(each.attribute) for each in self.present(name, kind.factored) if wanted(each))

                if name in index_of:
                    either(index_of[name], lines, quote)
                else:
                    add(lines(Kind(False)), quote)

        add("class Variant(Module):\n  __parameters__ = [")
        attributes(listed, lambda each: each.parameter, in_list)
        add("".join(listed(self.attribute(group)) for group in self.groups if group.parameters), in_list)
        add("]\n  __buffers__ = [", in_list)
        add("".join(listed(self.attribute(group)) for group in self.groups if not group.parameters), in_list)
        attributes(listed, lambda each: not each.parameter, in_list)
        add("]\n" + "".join(declared(self.attribute(group)) for group in self.groups))
        attributes(declared, lambda each: True, in_class)
        if self.coded:
            for packing in range(len(PACKINGS)):
                add(unpacking(packing), in_class)
            add(scaling(bool(self._alike)), in_class)
        head = "  training : bool\n  _is_full_backward_hook : Optional[bool]\n  def forward(self: __torch__.Variant"
        inputs = "".join(f",\n    {names[spec.name]}: Tensor" for spec in graph.inputs)
        count = len(graph.outputs)
        kind = "Tensor" if count == 1 else f"Tuple[{', '.join(['Tensor'] * count)}]"
        add(f"{head}{inputs}) -> {kind}:\n", in_class)
        for group in self.groups:
            add(f"    {self._named(group)} = torch.split_with_sizes({self._opened(group)}, [", in_function)
            for vector in self.members(group):
                if not group.varied:
                    add(f"{self.size_of(vector)}, ")
                else:
                    place = vector.place
                    along = f"torch.size(self.{self.stored[Place(place.tensor, place.side)].attribute}, 0), "
                    either(index_of[place.tensor], functools.partial(_if_factored, along, "0, "))
            add("], 0)\n")
        layer_of_call = {call: index for index, layer in enumerate(layers) for call in layer.calls}
        for node in self._nodes:
            index = layer_of_call.get(node.name)
            if index is None:
                add(code.call(node, names), in_function)
                continue
            either(index, functools.partial(self._layer_lines, layers[index], node), in_function)
        results = ", ".join(names[name] for name in graph.outputs)
        add(f"    return {results if count == 1 else f'({results})'}\n", in_function)
        return Text(parts, flat=False)

    def _layer_lines(self, layer: Layer, node: Node, kind: Kind) -> str:
        """A call of a layer, as what it is."""
        names, last = dict(self._names), self._names[next(name for name in node.outputs if name)]
        if not kind.factored:
            own = next(value for value, name in self.template.graph.tensors.items() if name == layer.weight)
            return code.call(node, names | {own: self._value(layer.weight, "", kind.packing)})
        for side in layer.form.sides:
            names[factor_value(layer, side).name] = self._value(layer.weight, side, kind.packing)
        nodes = layer.form.calls(layer, node)
        for step, each in enumerate(nodes[:-1], 1):
            names[each.outputs[0]] = last + "_" * step
        return "".join(code.call(each, names) for each in nodes)

    # The pickle.

    @cached_property
    def pickle(self) -> Text:
        """The module's attributes; the fields of a part are those of the tensors in it (see `fields`)."""
        index_of = {layer.weight: index for index, layer in enumerate(self.template.decomposed)}
        head: list[bytes | int] = [HEAD + b"c__torch__\nVariant\n)\x81}("]
        head.append(entry("", REBUILD) + entry("", HOOKS) + entry("", b"\x89q\x02") + entry("", b"\x88q\x03"))
        for number, dtype in enumerate(self.storages):
            head += [string("") + persistent(dtype, f"{number:05d}") + b"J", 4, b"tQq" + bytes([FIRST + number])]
        head.append(entry("training", b"h\x02") + entry("_is_full_backward_hook", b"N"))
        parts = [Part((tuple(merged(head)),))]
        for group in self.groups:
            memo = bytes([FIRST + self.shared.index(group.dtype)])
            called, flag = string(self.attribute(group)), b"\x03" if group.parameters else b"\x02"
            parts.append(
                Part(
                    ((called + b"h\0(h" + memo + b"J", 4, b"(J", 4, b"t(K\x01th" + flag + b"h\x01tR"),), None, in_pickle
                )
            )
        for name in self.tensors:
            templates = []
            for kind in self.kinds if name in index_of else self.kinds[:1]:
                several = [self._tensor(each, kind.packing) for each in self.present(name, kind.factored)]
                templates.append(tuple(merged(piece for each in several for piece in each)) or None)
            if any(templates):
                parts.append(Part(tuple(templates), index_of.get(name), in_pickle))
        parts.append(Part(((b"ub.",),)))
        return Text(parts, flat=True)

    def _tensor(self, stored: Stored, packing: int) -> tuple[bytes | int, ...]:
        flag = b"h\x03" if stored.parameter else b"h\x02"
        found: list[bytes | int]
        if stored.alone:
            key = self.key(stored.place)
            found = [string(stored.attribute) + b"h\0(" + persistent(stored.dtype, key) + b"J", 4, b"tQK\0"]
        else:
            number = len(self.shared) if stored.coded else self.shared.index(stored.dtype)
            found = [string(stored.attribute) + b"h\0(h" + bytes([FIRST + number]) + b"J", 4]
        found.append(b"(")
        for each in zip(*(self.layout(stored, packing, rank) for rank in self._ranks(stored)), strict=True):
            found.extend([b"t("] if each[0] is None else number_template(each))
        found.append(b"t" + flag + b"h\x01tR")
        return tuple(merged(found))

    def _ranks(self, stored: Stored) -> tuple[int, int]:
        layer = self._layers.get(stored.place.tensor) if stored.place.side else None
        return (1, layer.rank) if layer is not None else (1, 1)

    def layout(self, stored: Stored, packing: int, rank: int) -> list[int | None]:
        """Sizes and strides in the file, with None between them."""
        if stored.coded:
            return _laid(self.rows(stored.place, packing, rank))
        return _laid(self.shape(stored.place, rank), stored.bases or 0)

    def fields(self, stored: Stored, packing: int, shape: Sequence[int], offset: int) -> list[bytes]:
        """What fills the template of a tensor that has this shape in the file: its offset (or how many elements its
        record has), and what of its sizes and strides depends on the rank."""
        found = [struct.pack("<i", math.prod(shape) if stored.alone else offset)]
        if (varying := self._varying.get((stored.place, packing))) is None:
            several = zip(*(self.layout(stored, packing, rank) for rank in self._ranks(stored)), strict=True)
            varying = self._varying[stored.place, packing] = [
                (number, "<H" if wide(extremes) == 2 else "<i")
                for number, extremes in enumerate(several)
                if extremes[0] != extremes[1]
            ]
        if varying:
            values = _laid(shape, stored.bases or 0)
            found += [struct.pack(kind, values[number]) for number, kind in varying]
        return found


def _laid(shape: Sequence[int], first: int = 0) -> list[int | None]:
    """Sizes, None, and the strides of what lies by one axis first, and then by the others."""
    strides, stride = [1] * len(shape), 1
    for axis in sorted(range(len(shape)), key=lambda axis: (axis != first, axis), reverse=True):
        strides[axis] = stride
        stride *= shape[axis]
    return [*shape, None, *strides]


def _if_factored(cut: str, whole: str, kind: Kind) -> str:
    return cut if kind.factored else whole
