"""What the ONNX files of a template have in common, for any ranks: nodes, names, and what each layer may be.

A call becomes nodes by its row of the table, and what these are called, and know of their tensors, depends on no other
call and on no rank: of a layer that can be cut the nodes are there twice, whole and factored, with the size of a rank
left open. So a file's size is a sum over its layers.

Where layers compute in eight bits (see `master.integers`), a value on a grid is rounded to it and read from there, both
by nodes of the call that makes it (`QuantizeLinear`, `DequantizeLinear`), and a layer's weight and bias are read from
levels: what runs the file puts integer kernels in the place of calls between such nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.int4 import Int4
from rightrank.models.emit.encoding.int8 import Int8
from rightrank.models.emit.encoding.plain import Plain
from rightrank.models.emit.onnx import protobuf
from rightrank.models.emit.onnx.means import keeps_places, over_places
from rightrank.models.emit.onnx.nodes import NONE, Known, Made, Nodes, no_bfloat16, refused
from rightrank.models.emit.onnx.rows import ROWS
from rightrank.models.emit.onnx.values import Shape, Value
from rightrank.models.emit.onnx.versions import Versions, versions_of
from rightrank.models.emit.torchscript.fold import FOLDED, Fold, folded, folds
from rightrank.models.factor.layer import factor_value
from rightrank.models.master.slots import Slots
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.program.calls import LINEAR, RECURRENT, Convolution, Linear, layer_call
from rightrank.models.program.dtypes import DTYPES
from rightrank.models.program.graph import Argument, Constant, Graph, Input, Node, Ref

PRODUCER = "rightrank"
BATCH = "batch"
_PLAIN, _STORED = Plain(), Int8()
# What is beside a layer's own tensors where it computes in eight bits: the grid between its factors, and for each of
# its calls the bias; and of a value its grid.
INSIDE, BIAS, ON = "inside", "bias", "grid"
# The parts of a grid.
GRID = {"scale": TensorSpec("float32", ()), "zero": TensorSpec("uint8", ())}


class Place(NamedTuple):
    """A tensor of the file: which of the program's, which `side` of its factors, which `part` of its encoding."""

    tensor: str
    side: str = ""
    part: str = ""


@dataclass(frozen=True)
class Written:
    """Nodes as they lie in the file, and the tensors of a few numbers that they read."""

    nodes: bytes = b""
    known: bytes = b""

    def __len__(self) -> int:
        return len(self.nodes) + len(self.known)


@dataclass(frozen=True)
class Step:
    """A call of the program, or what makes a tensor of its parts: the layer that it belongs to, if one that can be cut,
    and what is written where that is whole and where it is factored."""

    layer: int | None
    whole: Written
    factored: Written


@dataclass(frozen=True)
class Integer:
    """A call of a layer that computes in eight bits: the values that it is given, and its bias, by their names in the
    graph, the tensor of that (None: a folded one's) and what the bias is called as a side of the layer."""

    node: Node
    input: str
    bias: str | None
    tensor: str | None
    side: str


class Model:
    """One template in one encoding. Raises UnsupportedCheckpoint for a program that ONNX cannot hold."""

    def __init__(self, template: Template, encoding: Encoding, folding: bool) -> None:
        self.template, self.encoding = template, encoding
        self.slots = Slots(template)
        self.folds: Mapping[str, Fold] = folds(template) if folding else {}
        gone = {name for fold in self.folds.values() for name in fold.tensors}
        self.tensors = [name for name in self.slots.tensors if name not in gone]
        self._layers = {layer.weight: layer for layer in template.decomposed}
        chosen = template.integers if encoding.arithmetic else None
        self._grids = chosen.grids if chosen is not None else {}
        # The values whose ranges are stored in the file, in order.
        self.grids = tuple(dict.fromkeys(self._grids.values()))
        self._weights = {layer.weight for layer in template.layers}
        graph = template.graph
        self._recurrent = _recurrent(graph)
        self._calls = folded(graph, self.folds)
        self.integers = self._computing(chosen.layers if chosen is not None else ())
        self._integer = {each.node.name: each for calls in self.integers.values() for each in calls}
        self.tensors = [name for name in self.tensors if name not in self._levels_alone()]
        self.outputs = _distinct([name or "output" for name in graph.outputs], {spec.name for spec in graph.inputs})
        self._names = self._of_tensors()
        self._prefix = _prefix({*self._names.values(), *self.outputs, *(spec.name for spec in graph.inputs)})
        self._values: dict[str, Any] = {spec.name: _given(spec) for spec in graph.inputs}
        self.decoding: dict[str, Step] = {}
        for name in self.slots.tensors:
            self._read(name)
        for fold in self.folds.values():
            if fold.weight in self.integers:
                continue
            self._values[fold.value] = self._stored(Place(fold.value), TensorSpec(FOLDED, self._bias_shape(fold)))
        self.starts = self._starts()
        self.steps = [*self._steps()]
        self.ends = self._ends()

    @property
    def versions(self) -> Versions:
        """Of what its files are written in."""
        return versions_of(self.encoding)

    # Tensors.

    def places(self, name: str, factored: bool) -> list[Place]:
        """The tensors of the file that stand for one of the program's."""
        sides = self._layers[name].form.sides if factored else ("",)
        spec = self.template.tensors[name]
        found = [
            Place(name, side, part)
            for side in sides
            for part in self.encoding_of(name).parts(self._spec(name, side, 1 if side else 0, spec))
        ]
        if name in self.integers:
            found += [Place(name, INSIDE, part) for part in GRID if factored]
            biased = [each for each in self.integers[name] if each.bias is not None]
            return found + [Place(name, each.side, part) for each in biased for part in ("", "scale")]
        return found + ([Place(self.folds[name].value)] if name in self.folds else [])

    def spec(self, place: Place, rank: Any) -> TensorSpec:
        """The type and the sizes of a tensor of the file, at a rank or at an array of them."""
        if place.side in (INSIDE, ON):
            return GRID[place.part]
        if place.side.startswith(BIAS):
            return TensorSpec("float32" if place.part else "int32", self.template.tensors[place.tensor].shape[:1])
        if place.tensor not in self.template.tensors:
            return TensorSpec(FOLDED, self._bias_shape(self._fold_of(place.tensor)))
        whole = self._spec(place.tensor, place.side, rank, self.template.tensors[place.tensor])
        found = self.encoding_of(place.tensor).parts(whole)[place.part]
        return self._laid(place, found)

    @property
    def grid_places(self) -> list[Place]:
        """The tensors of the file that are the grids of values."""
        return [Place(value, ON, part) for value in self.grids for part in GRID]

    def grid_of(self, value: str) -> str:
        """The value whose range a value on a grid has."""
        return self._grids[value]

    def name(self, place: Place) -> str:
        """What a tensor is called in the file."""
        return self._names[place]

    def encoding_of(self, name: str) -> Encoding:
        """How a tensor's numbers are written: those of layers' weights by the encoding, others as they are. A layer
        that does not compute in eight bits where others do has its weight in them all the same."""
        if self.encoding.arithmetic and name not in self.integers:
            return _STORED if name in self._weights else _PLAIN
        return self.encoding if self.encoding.exact or name in self._weights else _PLAIN

    def _dequantized(self, name: str) -> bool:
        """Whether levels become numbers by `DequantizeLinear`, which is kept for kernels of integers: a runtime that
        finds none would compute it at each call, and older ones of onnxruntime lose its axis where they move or copy
        it. Of other nodes a runtime makes constants when the file is opened."""
        return name in self.integers and isinstance(self.encoding_of(name), Int8)

    def _constant_anywhere(self, name: str) -> bool:
        """Whether levels become numbers by way of 32 bits, so that OpenVINO makes constants of them when it opens the
        file, as onnxruntime does of all. Those that become floats at once it keeps as levels, for kernels that read
        these: twice as fast for linear layers, but recurrent calls want constants, where others compute in eight bits
        a pass of its own fails on them, and with four bits products with rows of an odd number come out wrong."""
        return self.encoding.arithmetic or isinstance(self.encoding, Int4) or name in self._recurrent

    def _laid(self, place: Place, spec: TensorSpec) -> TensorSpec:
        """Scales lie in one dimension, as `DequantizeLinear` takes them."""
        if place.part and self._dequantized(place.tensor):
            return TensorSpec(spec.dtype, spec.shape[:1])
        return spec

    def _spec(self, name: str, side: str, rank: Any, spec: TensorSpec) -> TensorSpec:
        if not side:
            return spec
        return TensorSpec(spec.dtype, self._layers[name].factor_shapes(rank)[side])

    def _bias_shape(self, fold: Fold) -> tuple[int, ...]:
        return self.template.tensors[fold.norm.mean].shape

    def _fold_of(self, value: str) -> Fold:
        return next(fold for fold in self.folds.values() if fold.value == value)

    def _of_tensors(self) -> dict[Place, str]:
        """A name for each, as it is in the program, with its factor and part behind."""
        taken = {*self.outputs, *(spec.name for spec in self.template.graph.inputs)}
        found: dict[Place, str] = {}
        for tensor in self.tensors:
            layer = self._layers.get(tensor)
            several = self.places(tensor, False) + (self.places(tensor, True) if layer else [])
            for place in several:
                if place in found:
                    continue
                if place.tensor != tensor:
                    wanted = f"{tensor}.folded bias".replace(" ", "_")
                else:
                    wanted = ".".join(each for each in place if each)
                while wanted in taken:
                    wanted += "_"
                taken.add(wanted)
                found[place] = wanted
        for place in self.grid_places:
            wanted = f"grid.{self.grids.index(place.tensor)}.{place.part}"
            while wanted in taken:
                wanted += "_"
            taken.add(wanted)
            found[place] = wanted
        return found

    # What computes in eight bits.

    def _computing(self, weights: Iterable[str]) -> dict[str, list[Integer]]:
        """By the weight, the calls of each layer."""
        owners = {layer.weight: layer for layer in self.template.layers}
        nodes = {node.name: node for node in self._calls}
        found: dict[str, list[Integer]] = {}
        for weight in weights:
            for number, name in enumerate(owners[weight].calls):
                node, call = nodes[name], layer_call(nodes[name])
                assert isinstance(call, (Linear, Convolution)) and isinstance(call.input, Ref)
                bias = call.bias.name if isinstance(call.bias, Ref) else None
                tensor = self.template.graph.stored(call.bias)
                side = f"{BIAS}{number or ''}"
                found.setdefault(weight, []).append(Integer(node, call.input.name, bias, tensor, side))
        return found

    def _levels_alone(self) -> set[str]:
        """Biases that nothing reads but layers that have them as levels."""
        graph = self.template.graph
        apart = {each.tensor for each in self._integer.values()}
        others = {name for node in self._calls if node.name not in self._integer for name in node.inputs()}
        others |= {
            name
            for each in self._integer.values()
            for name in each.node.inputs()
            if name != each.bias and name in graph.tensors
        }
        others |= {*graph.outputs}
        return {name for name in apart if name is not None} - {
            graph.tensors[each] for each in others & {*graph.tensors}
        }

    def _on_grid(self, to: Nodes, value: Value, place: Place) -> Value:
        """A value, rounded, of the grid whose parts lie at this place."""
        scale, zero = (Value(self._names[place._replace(part=part)], *spec) for part, spec in GRID.items())
        levels = to.node("QuantizeLinear", value, scale, zero, dtype="uint8", shape=value.shape)
        return to.node("DequantizeLinear", levels, scale, zero, dtype="float32", shape=value.shape)

    def _starts(self) -> Written:
        """What rounds the program's inputs."""
        to = Nodes(f"{self._prefix}start", "its inputs")
        for spec in self.template.graph.inputs:
            if spec.name in self._grids:
                rounded = self._on_grid(to, self._values[spec.name], Place(self._grids[spec.name], ON))
                self._values[spec.name] = rounded
        return _written(to)

    def _given(self, to: Nodes, each: Integer) -> dict[str, Value]:
        """What a call reads that computes in eight bits: a matrix, since there are kernels of integers for a product of
        two with a weight that is turned round, and the bias from its levels."""
        weight, found = self._weight_of(each), {}
        value = self._values[each.input]
        if each.node.op == LINEAR and value.rank != 2:
            matrix = to.reshape(value, [-1, value.shape[-1]], (None, value.shape[-1]))
            found[each.input] = self._on_grid(to, matrix, Place(self._grids[each.input], ON))
        if each.bias is not None:
            levels, scale = (
                self._stored(place, self.spec(place, 0))
                for place in (Place(weight, each.side), Place(weight, each.side, "scale"))
            )
            found[each.bias] = to.node("DequantizeLinear", levels, scale, dtype="float32", shape=levels.shape, axis=0)
        return found

    def _mean(self, to: Nodes, node: Node) -> Value | None:
        """A mean over all places of values on a grid, for which there is a kernel of integers under one name alone;
        None for any other call."""
        places = over_places(node)
        (made, *_), (source, *_) = (*node.outputs, ""), (*node.inputs(), "")
        if not places or made not in self._grids or source not in self._grids:
            return None
        value: Value = self._values[source]
        if value.rank != 2 + places:
            return None
        shape = (*value.shape[:2], *(1,) * places)
        found = to.node("GlobalAveragePool", value, dtype=value.dtype, shape=shape)
        if keeps_places(node):
            return found
        return to.squeeze(self._on_grid(to, found, Place(self._grids[made], ON)), *range(2, 2 + places))

    def _weight_of(self, each: Integer) -> str:
        return next(weight for weight, calls in self.integers.items() if each in calls)

    def _stored(self, place: Place, spec: TensorSpec, open_rank: bool = False) -> Value:
        shape: Shape = spec.shape
        if open_rank and place.side:
            # What differs between ranks is not known to any row.
            other = self.spec(place, 2).shape
            shape = tuple(size if size == another else None for size, another in zip(spec.shape, other, strict=True))
        return Value(self._names[place], spec.dtype, shape)

    def _read(self, name: str) -> None:
        """The values that a tensor and its factors are, and what makes them of their parts."""
        if name not in self.tensors:
            return
        layer = self._layers.get(name)
        number = f"{self._prefix}t{self.tensors.index(name)}"
        whole = self._decoded(name, "", number)
        self._values |= {value: whole[0] for value, tensor in self.template.graph.tensors.items() if tensor == name}
        factored = []
        if layer is not None:
            for side in layer.form.sides:
                value, written = self._decoded(name, side, f"{number}{side}")
                self._values[factor_value(layer, side).name] = value
                factored.append(written)
        self.decoding[name] = Step(self.slots.position(name), whole[1], _joined(factored))

    def _decoded(self, name: str, side: str, number: str) -> tuple[Value, Written]:
        spec, encoding = self._spec(name, side, 1, self.template.tensors[name]), self.encoding_of(name)
        parts = {
            part: self._stored(place := Place(name, side, part), self._laid(place, each), open_rank=True)
            for part, each in encoding.parts(spec).items()
        }
        references = {part: Ref(f"part {part}") for part in parts}
        calls = encoding.decode("decoded", spec, references)
        if not calls:
            return parts[""], Written()
        to = Nodes(number, "its encoding")
        if self._dequantized(name):
            levels = parts[""]
            given = (levels, parts["scale"], parts.get("zero"))
            made = to.node("DequantizeLinear", *given, dtype="float32", shape=levels.shape, axis=0)
        else:
            values = {references[part].name: value for part, value in parts.items()}
            if self._constant_anywhere(name) and "scale" in parts:
                values[references[""].name] = to.cast(parts[""], "int32")
            for node in calls:
                values[node.outputs[0]] = _row(node, to, values)
            made = values["decoded"]
        return _finished(to, {made.name: number}, (made,))[0], _written(to)

    # Calls.

    def _steps(self) -> Iterator[Step]:
        graph = self.template.graph
        of_call = {call: index for index, layer in enumerate(self.template.decomposed) for call in layer.calls}
        wanted = dict(zip(graph.outputs, self.outputs, strict=True))
        for number, node in enumerate(self._calls):
            name = f"{self._prefix}{number}"
            index = of_call.get(node.name)
            results = {
                each: wanted.get(each, f"{name}_{place}" if place else name)
                for place, each in enumerate(node.outputs)
                if each
            }
            if index is None:
                yield Step(None, self._step((node,), name, results, False), Written())
                continue
            layer = self.template.decomposed[index]
            calls = layer.form.calls(layer, node)
            factored = self._step(calls, name, results, True)
            yield Step(index, self._step((node,), name, results, True), factored)

    def _step(self, calls: Sequence[Node], name: str, results: Mapping[str, str], cut: bool) -> Written:
        """The nodes of a call, or of those that replace it, the results of which get these names. A call that can be
        `cut` makes its results in any case, so that what reads them is the same."""
        last = calls[-1]
        to = Nodes(name, last.op, len(last.outputs))
        values = self._values
        computing = self._integer.get(last.name)
        inner: dict[str, Any] = {} if computing is None else self._given(to, computing)
        for node in calls[:-1]:
            made = _row(node, to, {**_only(values, node), **inner})
            if computing is not None:
                made = self._on_grid(to, made, Place(self._weight_of(computing), INSIDE))
            inner[node.outputs[0]] = made
        made = self._mean(to, last)
        made = _row(last, to, {**_only(values, last), **inner}) if made is None else made
        if computing is not None and computing.input in inner:
            given = values[computing.input]
            made = to.like(made, (*given.shape[:-1], made.shape[-1]), given)
        several = list(made) if isinstance(made, (tuple, list)) else [made]
        found: dict[str, Any] = {}
        for output, value in zip(last.outputs, several, strict=False):
            if output and value is None:
                raise refused(last.op, "only its first result is to be had")
            if output:
                grid = self._grids.get(output) if isinstance(value, Value) else None
                found[output] = value if grid is None else self._on_grid(to, value, Place(grid, ON))
        own = {each for node in to.made for each in node.outputs}
        names: dict[str, str] = {}
        for output, value in found.items():
            if isinstance(value, Value) and (value.name not in own or value.name in names) and cut:
                found[output] = value = to.unary("Identity", value)
                own.add(value.name)
            if isinstance(value, Value) and value.name in own and value.name not in names:
                names[value.name] = results[output]
        renamed = _finished(to, names, tuple(found.values()))
        for output, value in zip(found, renamed, strict=True):
            values[output] = value
        return _written(to, [each.name for each in renamed if isinstance(each, Value)])

    def _ends(self) -> Written:
        """What gives the outputs their names that no call has given."""
        to = Nodes(f"{self._prefix}end", "its outputs")
        for name, output in zip(self.template.graph.outputs, self.outputs, strict=True):
            value = self._values[name]
            if not isinstance(value, Value):
                value = to.constant(value, "int64" if isinstance(value, int) else "float32")
            if value.name != output:
                to.made.append(Made("Identity", (value.name,), (output,), ()))
        return _written(to)

    def inputs(self) -> bytes:
        """What a caller passes."""
        found = [_declared(protobuf.GRAPH["input"], _given(spec), spec.name) for spec in self.template.graph.inputs]
        return b"".join(found)

    def results(self) -> bytes:
        """What a caller gets."""
        found = []
        for name, output in zip(self.template.graph.outputs, self.outputs, strict=True):
            value = self._values[name]
            if isinstance(value, Value):
                found.append(_declared(protobuf.GRAPH["output"], value, output))
        return b"".join(found)


def _recurrent(graph: Graph) -> set[str]:
    """The stored tensors that recurrent calls read, or of which alone is made what they read."""
    read: set[str] = set()
    varying = graph.varying
    for node in reversed(graph.nodes):
        if node.op in RECURRENT or not read.isdisjoint(node.outputs):
            read |= {*node.inputs()} - varying
    return {graph.tensors[name] for name in read if name in graph.tensors}


def _given(spec: Input) -> Value:
    shape: Shape = tuple(
        (BATCH if dim == 0 else f"{spec.name}_{dim}") if size is None else size for dim, size in enumerate(spec.shape)
    )
    return Value(spec.name, spec.dtype, shape)


def _only(values: Mapping[str, Any], node: Node) -> dict[str, Any]:
    return {name: values[name] for name in node.inputs() if name in values}


def _row(node: Node, to: Nodes, values: Mapping[str, Any]) -> Any:
    """What a call makes, by its row."""
    row = ROWS.get(node.op)
    if row is None:
        raise refused(node.op, "there is no operator like it here")
    to.op = node.op
    arguments = [_evaluated(each, values) for each in node.args]
    named = {key: _evaluated(value, values) for key, value in node.kwargs}
    found = row(to, *arguments, **named)
    for each in found if isinstance(found, (tuple, list)) else (found,):
        if isinstance(each, Value) and each.dtype == NONE:
            raise no_bfloat16()
    return found


def _evaluated(argument: Argument, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, tuple):
        return [_evaluated(each, values) for each in argument]
    if isinstance(argument, Constant):
        return argument.value
    return argument


def _finished(to: Nodes, names: Mapping[str, str], values: Sequence[Any]) -> tuple[Any, ...]:
    """Gives results their names, in the nodes that make and read them; the values by these."""

    def of(name: str) -> str:
        return names.get(name, name)

    to.made = [
        replace(node, inputs=tuple(map(of, node.inputs)), outputs=tuple(map(of, node.outputs))) for node in to.made
    ]
    return tuple(replace(each, name=of(each.name)) if isinstance(each, Value) else each for each in values)


def _written(to: Nodes, results: Iterable[str] = ()) -> Written:
    """The bytes of nodes, and of the tensors that they read or that are among the results."""
    from onnx import helper

    nodes = []
    for made in to.made:
        attributes = {
            key: DTYPES[value].onnx if key == "to" and isinstance(value, str) else value
            for key, value in made.attributes
        }
        # Some versions of onnxruntime name the nodes that they put in after those that they replace.
        name = next(filter(None, made.outputs))
        node = helper.make_node(made.op, made.inputs, made.outputs, name, None, None, None, **attributes)
        nodes.append(protobuf.whole(protobuf.GRAPH["node"], node.SerializeToString(deterministic=True)))
    read = {name for made in to.made for name in made.inputs} | {*results}
    return Written(b"".join(nodes), b"".join(_constant(each) for each in to.known.values() if each.name in read))


def _constant(known: Known) -> bytes:
    opening = protobuf.tensor_opening(known.name.encode(), DTYPES[known.dtype].onnx, known.shape, len(known.data))
    return opening + known.data


def _joined(several: Iterable[Written]) -> Written:
    all_of_them = list(several)
    return Written(b"".join(each.nodes for each in all_of_them), b"".join(each.known for each in all_of_them))


def _declared(field: int, value: Value, name: str) -> bytes:
    """An input or an output; a size of which nothing is known has no name."""
    from onnx import helper

    info = helper.make_tensor_value_info(name, DTYPES[value.dtype].onnx, list(value.shape))
    return protobuf.whole(field, info.SerializeToString(deterministic=True))


def _distinct(names: Sequence[str], taken: Iterable[str]) -> list[str]:
    """Names of outputs, of which none is an input's or another's."""
    known, found = set(taken), []
    for name in names:
        while name in known:
            name += "_"
        known.add(name)
        found.append(name)
    return found


def _prefix(taken: Iterable[str]) -> str:
    """What the names of values begin with, that no other name begins with."""
    prefix = ""
    several = list(taken)
    while any(
        name.startswith(prefix) and name[len(prefix) :][:1].isdigit() or name.startswith(f"{prefix}t")
        for name in several
    ):
        prefix += "_"
    return prefix
