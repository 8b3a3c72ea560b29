"""Programs written by `torch.export.save` (.pt2), read without torch's own loader.

That loader opens pickles, and evaluates symbolic sizes as Python. Here the archive may hold only the
entries below; the graph is plain JSON turned into `program.graph.Graph`; sizes are looked at and never evaluated.

    models/<name>.json                              the graph                        read
    data/weights/<name>_weights_config.json         which tensor is where            read
    data/weights/weight_<i>                         raw bytes                        read
    data/constants/<name>_constants_config.json, tensor_<i>                          read
    data/sample_inputs/<name>.pt                    a pickle of the example inputs   never opened
    extra/…                                         whatever the publisher added     never opened
    archive_format, archive_version, byteorder      "pt2", "0", "little"             checked
    version, .data/…                                of the container                 never opened

torch 2.8 has in place of the lists and raw bytes, and torch 2.6 and 2.7 as all of the archive (see `pickled`):

    data/weights/<name>.pt      serialized_state_dict.pt          a dictionary by torch.save       opcodes checked
    data/constants/<name>.pt    serialized_constants.pt           likewise
    models/<name>.json          serialized_exported_program.json  the graph                        read
                                serialized_example_inputs.pt, extra_files/…, version               never opened

Source paths, stack traces and module names in the graph's metadata are left behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rightrank.models.checkpoint import expressions, memory, payload, pickled, regions, strictjson, unread
from rightrank.models.checkpoint.advice import EXPORT
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.calls import Calls
from rightrank.models.checkpoint.fields import choice, integer, mapping, sequence, text
from rightrank.models.checkpoint.limits import JSON_BYTES, Limits
from rightrank.models.checkpoint.payload import Payload
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint
from rightrank.models.program.dtypes import BY_SCHEMA
from rightrank.models.program.graph import Graph, Input, TensorMeta

_HINT = "Save the model again with torch.export.save."
# torch/_export/serde/schema.py, SCHEMA_VERSION: the same from torch 2.6 to 2.13.
_SCHEMA = 8

_RAW = re.compile(r"data/(weights/weight_\d+|constants/tensor_\d+)\Z")
_UNOPENED = re.compile(
    r"(data/sample_inputs/[\w-]+\.pt|extra/.+|\.data/(version|serialization_id)|version"
    r"|serialized_example_inputs\.pt|extra_files/.+)\Z"
)
_MODEL = re.compile(r"models/([\w-]{1,100})\.json\Z")
# The graph, weights and constants of torch 2.6 and 2.7, without a folder.
_FLAT = ("serialized_exported_program.json", "serialized_state_dict.pt", "serialized_constants.pt")
_CONSTANTS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_QUALIFIED = re.compile(r"[A-Za-z0-9_.-]{1,512}\Z")
_OUTPUTS = {
    **dict.fromkeys(("as_int", "as_float", "as_bool", "as_sym_int", "as_sym_float", "as_sym_bool"), "a plain number"),
    "as_string": "a text",
}
# A length, a height or a width.
_LARGEST = 1 << 24
# torch takes a free size to be two at the least where nobody said more.
_USUAL = 2
_FIXED = ("as_none", "as_bool", "as_int", "as_float", "as_string")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Exported:
    """A program as it was written, what the file claims of each tensor value, and the values that the caller would
    keep as statistics of a norm."""

    graph: Graph
    tensors: dict[str, Tensor]
    metas: dict[str, TensorMeta]
    statistics: frozenset[str]


def is_exported(archive: Archive) -> bool:
    return any(name in ("archive_format", _FLAT[0]) or name.startswith("models/") for name in archive)


def read(archive: Archive, limits: Limits) -> Exported:
    """Raises UnsafeCheckpoint, UnsupportedCheckpoint, MalformedCheckpoint."""
    layout = _check_layout(archive)
    weights = _weights(archive, layout, limits)
    program = mapping(strictjson.loads(archive.read(layout.graph, JSON_BYTES), "The graph"), "the program")
    _check_version(program)
    module = mapping(program.get("graph_module"), "the graph module")
    graph = regions.flat(module.get("graph"))
    ranges = _check_expressions(program, graph)
    values = mapping(graph.get("tensor_values"), "the tensor values")
    signature = _Signature(weights.places, values, ranges)
    signature.read_inputs(module)
    nodes = signature.calls.nodes(graph.get("nodes"))
    outputs = signature.outputs(module)
    plain = Graph(
        inputs=tuple(signature.inputs),
        tensors=signature.tensors,
        parameters=frozenset(signature.parameters),
        nodes=nodes,
        outputs=outputs,
        ranges={name: ranges[name] for spec in signature.inputs for name in spec.symbols if name in ranges},
    )
    stored, tensors = memory.as_stored(plain, weights.load(sorted(set(signature.tensors.values()))))
    return Exported(stored, tensors, _metas(values), frozenset(signature.statistics))


@dataclass(frozen=True)
class _Layout:
    """The entries of one plain model: its graph, and its weights and constants, each a list of raw entries (.json) or
    a dictionary by torch.save (.pt)."""

    graph: str
    tensors: tuple[str, str]


@dataclass(frozen=True)
class _Weights:
    """Where each tensor lies, by qualified name: the same for two names of one. `load` takes some of the names."""

    places: Mapping[str, Hashable]
    load: Callable[[Iterable[str]], dict[str, Tensor]]


def _check_layout(archive: Archive) -> _Layout:
    """Every entry has to be one that torch.export.save writes for a single plain model."""
    models = [model[1] for entry in archive if (model := _MODEL.match(entry))]
    flat = _FLAT[0] in archive
    if len(models) + flat != 1:
        raise UnsupportedCheckpoint(f"The archive holds {len(models) + flat} models.", "Save one model per file.")
    if flat:
        layout = _Layout(_FLAT[0], _FLAT[1:])
    else:
        folders = ("data/weights/", "data/constants/")
        pickles = (f"{folders[0]}{models[0]}.pt", f"{folders[1]}{models[0]}.pt")
        lists = (f"{folders[0]}{models[0]}_weights_config.json", f"{folders[1]}{models[0]}_constants_config.json")
        layout = _Layout(f"models/{models[0]}.json", pickles if pickles[0] in archive else lists)
    raw = layout.tensors[0].endswith(".json")
    for entry in archive:
        if entry in _CONSTANTS:
            found = bytes(archive.read(entry, 64)).strip()
            if found != _CONSTANTS[entry]:
                raise UnsupportedCheckpoint(f"The archive's {entry} is {found[:20]!r}, which is not read.", EXPORT)
        elif not (entry in (layout.graph, *layout.tensors) or _UNOPENED.match(entry) or (raw and _RAW.match(entry))):
            raise UnsafeCheckpoint(
                f"The archive has an entry {entry[:80]!r} that a plain exported model does not have.",
                "Compiled code, pickled objects and extra records are refused; upload what torch.export.save writes.",
            )
    return layout


def _weights(archive: Archive, layout: _Layout, limits: Limits) -> _Weights:
    if layout.tensors[0].endswith(".json"):
        payloads = _payloads(archive, layout, limits)
        return _Weights(payloads, lambda names: payload.load(archive, {name: payloads[name] for name in names}))
    found: dict[str, Tensor] = {}
    for entry in layout.tensors:
        for name, tensor in pickled.read(archive, entry, limits).items():
            _check_name(name, found)
            found[name] = tensor
    return _Weights(pickled.places(found), lambda names: {name: pickled.alone(found[name]) for name in names})


def _payloads(archive: Archive, layout: _Layout, limits: Limits) -> dict[str, Payload]:
    """Every tensor by qualified name; tensors at one place get one payload. All raw entries have to be described."""
    found: dict[str, Payload] = {}
    described = set()
    for entry in layout.tensors:
        folder = entry[: entry.rindex("/") + 1]
        config = strictjson.loads(archive.read(entry, JSON_BYTES), f"The list {entry}")
        for qualified, where in payload.parse(config, folder, limits.tensors).items():
            _check_name(qualified, found)
            if not _RAW.match(where.entry):
                raise UnsafeCheckpoint(f"The tensor {qualified} is said to lie in {where.entry[:60]!r}.")
            found[qualified] = where
            described.add(where.entry)
    for entry in archive:
        if _RAW.match(entry) and entry not in described:
            raise UnsafeCheckpoint(f"The archive has an entry {entry!r} that belongs to no tensor.")
    return found


def _check_name(qualified: str, found: Mapping[str, object]) -> None:
    if not _QUALIFIED.match(qualified) or qualified in found:
        raise MalformedCheckpoint(f"The checkpoint has a bad tensor name, {qualified[:60]!r}.", _HINT)


def _check_version(program: Mapping[str, Any]) -> None:
    """With its major version torch says that fields went or changed their meaning; a minor one only adds some."""
    version = mapping(program.get("schema_version"), "the version of its schema")
    major = integer(version.get("major"), "the major version of its schema")
    if major != _SCHEMA:
        raise UnsupportedCheckpoint(
            f"The program is written in version {major} of torch.export's schema; only version {_SCHEMA} is read.",
            f"Export the model again with torch 2.6 to 2.13, which write version {_SCHEMA}.",
        )


def _check_expressions(program: Mapping[str, Any], graph: Mapping[str, Any]) -> dict[str, tuple[int, int | None]]:
    """Every symbolic size is plain, wherever it stands. The ranges of those that the publisher bounded, by name."""
    ranges: dict[str, tuple[int, int | None]] = {}
    for text_, bounds in mapping(program.get("range_constraints"), "the range constraints").items():
        _check_expression(text_)
        found = mapping(bounds, "a range")
        low, high = (
            None if found.get(key) is None else integer(found[key], "a range's bound") for key in ("min_val", "max_val")
        )
        if (name := expressions.symbol_of(text_)) and ((low or 0) > _USUAL or high is not None):
            ranges[name] = low or 0, high
    for meta in mapping(graph.get("tensor_values"), "the tensor values").values():
        meta = mapping(meta, "a tensor value")
        for key in ("sizes", "strides"):
            for size in sequence(meta.get(key), f"a tensor's {key}"):
                _check_size(size)
        _check_size(meta.get("storage_offset"))
    for key in ("sym_int_values", "sym_bool_values", "sym_float_values"):
        for size in mapping(graph.get(key, {}), key).values():
            _check_size(size)
    if graph.get("custom_obj_values"):
        raise UnsafeCheckpoint("The program uses custom objects.", "Only tensors are read.")
    return ranges


def _check_size(size: Any) -> None:
    kind, value = choice(size, "size")
    if kind == "as_expr":
        _check_expression(text(mapping(value, "an expression").get("expr_str"), "an expression"))
    elif kind not in ("as_int", "as_bool", "as_float") or not isinstance(value, (int, float, str)):
        raise MalformedCheckpoint("The program has a size that is neither a number nor an expression.", _HINT)


def _check_expression(text_: str) -> None:
    if not expressions.is_plain(text_):
        raise UnsafeCheckpoint(
            f"The program has a symbolic size {text_[:60]!r} that is not plain arithmetic.",
            "Export with only the batch dimension dynamic.",
        )


def _metas(values: Mapping[str, Any]) -> dict[str, TensorMeta]:
    found = {}
    for name, meta in values.items():
        sizes = (choice(size, "size") for size in meta["sizes"])
        shape = tuple(value if kind == "as_int" and type(value) is int else None for kind, value in sizes)
        dtype = BY_SCHEMA.get(integer(meta.get("dtype"), f"the dtype of {name}"))
        found[name] = TensorMeta(shape, dtype.name if dtype else "")
    return found


class _Signature:
    """What the program takes, and what it gives back."""

    def __init__(
        self, places: Mapping[str, Hashable], values: Mapping[str, Any], ranges: Mapping[str, tuple[int, int | None]]
    ) -> None:
        self.places, self.values, self.ranges = places, values, ranges
        self.calls = Calls()
        self.inputs: list[Input] = []
        self.tensors: dict[str, str] = {}
        self.parameters: set[str] = set()
        self.statistics: set[str] = set()
        self._first: dict[Hashable, str] = {}

    def read_inputs(self, module: Mapping[str, Any]) -> None:
        signature = mapping(module.get("signature"), "the signature")
        for spec in sequence(signature.get("input_specs"), "the inputs"):
            kind, value = choice(spec, "input")
            value = mapping(value, "an input")
            if kind == "parameter":
                self.parameters.add(self._tensor(value, "parameter_name"))
            elif kind == "buffer":
                self._tensor(value, "buffer_name")
            elif kind == "tensor_constant":
                self._tensor(value, "tensor_constant_name")
            elif kind == "user_input":
                self.inputs.append(self._user_input(value))
            elif kind == "constant_input":
                # The export has put it wherever it is read; whoever calls the file does not give it again.
                text(value.get("name"), "the name of an input")
                if choice(value.get("value"), "constant input")[0] not in _FIXED:
                    raise MalformedCheckpoint("An argument that the export fixed is no plain value.", _HINT)
            elif kind == "token":
                raise UnsupportedCheckpoint(
                    "The program's calls are ordered by tokens, which decomposing leaves in it.", unread.AS_EXPORTED
                )
            else:
                raise UnsupportedCheckpoint(
                    f"The program takes an input of kind {kind[:40]!r}, which is not read.",
                    "Its inputs have to be tensors: wrap the model so that forward takes only tensors.",
                )
        if not self.inputs:
            raise UnsupportedCheckpoint("The program takes no input.", EXPORT)

    def _tensor(self, spec: Mapping[str, Any], key: str) -> str:
        """Defines a weight's value name; returns the qualified name under which its tensor is kept."""
        qualified = text(spec.get(key), "the name of a tensor")
        if qualified not in self.places:
            raise MalformedCheckpoint(f"The checkpoint has no data for {qualified[:80]}.", _HINT)
        name = self.calls.define(mapping(spec.get("arg"), "an input").get("name"), "tensor")
        self.tensors[name] = self._first.setdefault(self.places[qualified], qualified)
        return self.tensors[name]

    def _user_input(self, spec: Mapping[str, Any]) -> Input:
        kind, value = choice(spec.get("arg"), "input")
        if kind != "as_tensor":
            raise UnsupportedCheckpoint(
                "The program takes an input that is not a tensor.",
                "Wrap the model so that forward takes only tensors.",
            )
        name = self.calls.define(mapping(value, "an input").get("name"), "tensor")
        meta = mapping(self.values.get(name), f"the input {name}")
        dtype = BY_SCHEMA.get(integer(meta.get("dtype"), f"the dtype of {name}"))
        if dtype is None:
            raise UnsupportedCheckpoint(f"The input {name} has a number type that is not read.")
        return _input(name, dtype.name, meta["sizes"], self.ranges)

    def outputs(self, module: Mapping[str, Any]) -> tuple[str, ...]:
        signature = mapping(module.get("signature"), "the signature")
        found: list[str] = []
        given = 0
        for spec in sequence(signature.get("output_specs"), "the outputs"):
            kind, value = choice(spec, "output")
            value = mapping(value, "an output")
            if kind == "user_output":
                given += 1
                found += self._user_output(given, value)
            elif kind == "buffer_mutation" and _is_statistic(value):
                self.statistics.add(text(mapping(value.get("arg"), "an output").get("name"), "a value"))
            elif kind != "user_input_mutation":
                raise UnsupportedCheckpoint(
                    f"The program has an output of kind {kind[:40]!r}: it changes its own state, or trains.",
                    "Export the model in eval mode, with outputs that are tensors.",
                )
        if not found:
            raise UnsupportedCheckpoint("The program returns no tensor.", EXPORT)
        return tuple(found)

    def _user_output(self, number: int, spec: Mapping[str, Any]) -> Iterator[str]:
        kind, value = choice(spec.get("arg"), "output")
        if kind == "as_tensor":
            name = self.calls.tensor(value).name
            meta = mapping(self.values.get(name), f"the output {name}")
            if integer(meta.get("dtype"), f"the dtype of {name}") not in BY_SCHEMA:
                raise UnsupportedCheckpoint(
                    f"The program's output {number} has a number type that is not returned, such as a complex one.",
                    "Return its absolute values, or torch.view_as_real of it.",
                )
            yield name
        elif kind != "as_none":
            # None says nothing, and goes like the dicts and lists around the tensors; a number would be missed.
            raise UnsupportedCheckpoint(
                f"The program's output {number} is {_OUTPUTS.get(kind, 'something else')} and not a tensor.",
                "Wrap the model so that forward returns only tensors.",
            )


def _is_statistic(mutation: Mapping[str, Any]) -> bool:
    """Whether the buffer is a batch-norm statistic, which only training updates."""
    return text(mutation.get("buffer_name"), "a buffer").rpartition(".")[2] in _STATISTICS


def _input(name: str, dtype: str, sizes: Iterable[Any], ranges: Mapping[str, Any]) -> Input:
    """An input of these sizes. Of those that are free it has what the export took for an example: any other could be
    one that the program does not take. Their names are kept where there is something to tell by them: of which of them
    are the same, or of the ranges that they have."""
    shape: list[int | None] = []
    example: list[int] = []
    symbols: list[str] = []
    for index, size in enumerate(sizes):
        kind, value = choice(size, "size")
        if kind == "as_int":
            if type(value) is not int or value < 0:
                raise MalformedCheckpoint(f"The input {name} has a negative size.", _HINT)
            shape.append(value)
            example.append(value)
            symbols.append("")
            continue
        value = mapping(value, "an expression")
        symbols.append(expressions.symbol_of(text(value.get("expr_str"), "an expression")))
        if index == 0 and not symbols[0]:
            raise UnsupportedCheckpoint(
                f"The program takes only some batch sizes of {name}, such as multiples of a number.",
                'Export it for any batch size, torch.export.Dim("batch"), or for one that is fixed.',
            )
        usual = 1 if index == 0 else _example(name, index, value.get("hint"))
        shape.append(None)
        example.append(usual)
    told = None in shape[1:] or not ranges.keys().isdisjoint(symbols)
    return Input(name, dtype, tuple(shape), tuple(example) if None in shape[1:] else (), tuple(symbols) if told else ())


def _example(name: str, index: int, hint: Any) -> int:
    """The size that a free one had in the export."""
    kind, value = choice(hint, "hint") if hint is not None else ("", None)
    if kind != "as_int" or type(value) is not int or not 0 < value <= _LARGEST:
        raise UnsupportedCheckpoint(
            f"The file does not say which size dimension {index} of {name} had when it was exported.",
            "Export the model with torch.export.Dim for what is free, and save it with torch.export.save.",
        )
    return value
