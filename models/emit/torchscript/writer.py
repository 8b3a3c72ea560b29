"""Plan → the bytes of a TorchScript file.

The archive is written directly from the graph: code as text, one record per tensor copied from the
master's memory map, and the pickle that ties them together. Nothing is traced, so nothing depends on
the process, the clock or the machine: same master, same plan, same bytes. No source path is in it.

Layout, all entries stored (not compressed), tensor data aligned to 64 bytes:

    variant/data/<key>              raw little-endian elements; key 2i for tensor i or its down factor,
                                    2i+1 for its up factor
    variant/data.pkl                one object: the module with its attributes
    variant/code/__torch__.py       its class, `forward` included
    variant/constants.pkl           an empty tuple
    variant/version, byteorder
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.torchscript import archive, code, pickle
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import WIDTHS, TensorFile

STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage", "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage",
    "int8": "CharStorage", "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
TOP = "variant"
SIDES = ("down", "up")
VERSION = b"10\n"
# Besides those of tensors (see `Script.text_records`).
RECORDS = 5


class Cut(Protocol):
    """What has to be known of a plan: its ranks, and whether it is the network as uploaded."""

    @property
    def ranks(self) -> tuple[int, ...]: ...

    @property
    def original(self) -> bool: ...


@dataclass(frozen=True)
class Slot:
    """The place in the file of a tensor, or of one of its factors: attribute, record key, and where it lies
    in the master.

    Of the master's tensor the `rows` from … to are taken, of an up factor along its second axis. `side` is "down" or
    "up" for a factor.
    """

    tensor: str
    attribute: str
    key: int
    source: str
    dtype: str
    shape: tuple[int, ...]
    parameter: bool
    rows: tuple[int, int] | None = None
    side: str = ""

    def taken(self, stored: Any) -> Any:
        """What the file has of the master's tensor, an array or a torch tensor."""
        if self.rows is None:
            return stored
        if self.side != "up":
            return stored[slice(*self.rows)]
        if stored.ndim != 3:
            raise ValueError(
                "The master is of an earlier version, which kept factors otherwise: delete it and upload it again."
            )
        return stored[:, slice(*self.rows)]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * WIDTHS[self.dtype]


def check(template: Template) -> None:
    """Raises UnsupportedCheckpoint where the original's file would be larger than the format holds."""
    size, records = Script(template).sizes[0], len(template.tensors) + RECORDS
    if size > archive.LARGEST or records > archive.MOST:
        raise UnsupportedCheckpoint(
            f"The original would be a file of {size:,} bytes with {records:,} records; "
            f"{archive.LARGEST:,} and {archive.MOST:,} are the most.",
            "Upload it in half precision, or in parts.",
        )


class Script:
    """What the file says, for any ranks; built once per template."""

    def __init__(self, template: Template) -> None:
        self._template = template
        graph = template.graph
        read = {name for node in graph.nodes for name in node.inputs()} | set(graph.outputs)
        used = dict.fromkeys(graph.tensors[value] for value in graph.tensors if value in read)
        self._tensors = list(used)
        self._attributes = code.attribute_names(used)
        self._names = code.value_names(graph) | {
            value: f"self.{self._attributes[qualified]}"
            for value, qualified in graph.tensors.items()
            if qualified in self._attributes
        }
        position = {layer.name: index for index, layer in enumerate(template.decomposed)}
        self._layer_of_weight = {layer.weight: position[layer.name] for layer in template.decomposed}
        # A stored tensor's device is a constant to `torch.jit.freeze`, which then folds what depends on it alone.
        whole = [f"self.{self._attributes[name]}" for name in self._tensors if name not in self._layer_of_weight]
        self._names[code.DEVICE] = f"{(whole or [self._names[graph.inputs[0].name]])[0]}.device"
        self._layer_of_corrected = {name: position[layer] for name, layer in template.corrected.items()}
        self._layer_of_call = {call: index for index, layer in enumerate(template.decomposed) for call in layer.calls}

    def slots(self, ranks: Sequence[int]) -> Iterator[Slot]:
        knot = self._template.knot(ranks)
        factors = "" if knot is None else "tuned/"
        for index, name in enumerate(self._tensors):
            spec = self._template.tensors[name]
            attribute = self._attributes[name]
            parameter = name in self._template.graph.parameters and "float" in spec.dtype
            position = self._layer_of_weight.get(name)
            rank = 0 if position is None else ranks[position]
            if position is None or not rank:
                source, row = self._place(name, ranks, knot)
                yield Slot(name, attribute, 2 * index, source, spec.dtype, spec.shape, parameter, row)
                continue
            layer = self._template.decomposed[position]
            for key, side, shape in zip((2 * index, 2 * index + 1), SIDES, layer.factor_shapes(rank), strict=True):
                source = f"{factors}{side}/{layer.name}"
                yield Slot(name, f"{attribute}_{side}", key, source, spec.dtype, shape, parameter, (0, rank), side)

    def _place(self, name: str, ranks: Sequence[int], knot: int | None) -> tuple[str, tuple[int, int] | None]:
        """Where in the master a tensor lies that is not two factors, and in which row."""
        tuned, corrected = self._template.tuned, self._layer_of_corrected.get(name)
        if tuned is not None and knot is not None:
            if name in tuned.statistics:
                return f"knots/{name}", (knot, knot + 1)
            return f"tuned/{name}" if name in tuned.tensors else self._template.entry(name), None
        if corrected is not None and (rank := ranks[corrected]):
            return f"corrected/{name}", (rank - 1, rank)
        return self._template.entry(name), None

    def source(self, ranks: Sequence[int], slots: Sequence[Slot]) -> bytes:
        """The module's class as TorchScript text."""
        graph = self._template.graph
        results = ", ".join(self._names[name] for name in graph.outputs)
        lines = [
            "class Variant(Module):\n",
            f"  __parameters__ = [{_quoted(s.attribute for s in slots if s.parameter)}]\n",
            f"  __buffers__ = [{_quoted(s.attribute for s in slots if not s.parameter)}]\n",
            *(f"  {slot.attribute} : Tensor\n" for slot in slots),
            "  training : bool\n  _is_full_backward_hook : Optional[bool]\n",
            "  def forward(self: __torch__.Variant",
            *(f",\n    {self._names[spec.name]}: Tensor" for spec in graph.inputs),
            f") -> {_type(len(graph.outputs))}:\n",
            *(factored if index is not None and ranks[index] else dense for index, dense, factored in self._calls),
            f"    return {results if len(graph.outputs) == 1 else f'({results})'}\n",
        ]
        return "".join(lines).encode()

    @cached_property
    def _calls(self) -> list[tuple[int | None, str, str]]:
        """For every call the layer that it belongs to, if any, and its lines as it is and as two factors."""
        calls = []
        for node in self._template.graph.nodes:
            index, factored = self._layer_of_call.get(node.name), ""
            if index is not None:
                layer = self._template.decomposed[index]
                factor = f"self.{self._attributes[layer.weight]}"
                factored = code.factored_call(node, self._names, layer, f"{factor}_down", f"{factor}_up")
            calls.append((index, code.call(node, self._names), factored))
        return calls

    def object(self, slots: Iterable[Slot]) -> bytes:
        """The pickle of the module's attributes."""
        memo = pickle.Memo()
        state = [("training", pickle.FALSE), ("_is_full_backward_hook", pickle.NONE)]
        state += [_entry(memo, slot) for slot in slots]
        return pickle.HEAD + pickle.instance("__torch__", "Variant", state) + pickle.END

    @cached_property
    def sizes(self) -> tuple[int, list[NDArray[np.int64]]]:
        """Exact bytes of the file with every layer dense, and what each layer adds to that at every rank.

        A layer's array goes from 0 (dense: 0) to its break-even rank; a negative entry saves. Data records
        start at multiples of 64, and lines and pickled fields of one layer do not depend on another, nor on
        its rank: so a file's size is a sum over its layers.
        """
        layers, count = self._template.decomposed, len(self._template.decomposed)
        dense = self._text_bytes([0] * count)
        more = self._more_text()
        tables = [np.full(layer.break_even + 1, extra) for layer, extra in zip(layers, more, strict=True)]
        total = dense + archive.END.size + (archive.padding(0, _record(0)) if self._tensors else 0)
        for index, name in enumerate(self._tensors):
            spec, key, after = self._template.tensors[name], 2 * index, 2 * index + 2
            following = None if index + 1 == len(self._tensors) else after
            whole = int(_span(np.array([math.prod(spec.shape) * WIDTHS[spec.dtype]]), key, following)[0])
            total += whole
            position = self._layer_of_weight.get(name)
            if position is None:
                continue
            layer, ranks = layers[position], np.arange(1, layers[position].break_even + 1)
            numbers = ranks * WIDTHS[spec.dtype]
            factored = _span(numbers * layer.m, key, key + 1) + _span(numbers * layer.n, key + 1, following)
            tables[position][1:] += factored - whole
        for table in tables:
            table[0] = 0
        return total, tables

    def _more_text(self) -> list[int]:
        """The bytes of text that each layer takes more as two factors than whole."""
        count = len(self._template.decomposed)
        memo = pickle.Memo()
        for slot in (whole := list(self.slots([0] * count))):
            _entry(memo, slot)  # what is written once for all is so by now
        more = [0] * count
        for sign, slots in ((-1, whole), (1, list(self.slots([1] * count)))):
            for slot in slots:
                index = self._layer_of_weight.get(slot.tensor)
                if index is not None:
                    name, value = _entry(memo, slot)
                    text = f"  {slot.attribute} : Tensor\n{_quoted([slot.attribute])}"
                    more[index] += sign * (len(pickle.string(name)) + len(value) + len(text.encode()))
        for index, plain, factored in self._calls:
            if index is not None:
                more[index] += len(factored.encode()) - len(plain.encode())
        return more

    def _text_bytes(self, ranks: Sequence[int]) -> int:
        records = self.text_records(ranks, list(self.slots(ranks)))
        return sum(archive.LOCAL.size + archive.CENTRAL.size + 2 * len(f"{TOP}/{n}") + len(t) for n, t in records)

    def text_records(self, ranks: Sequence[int], slots: Sequence[Slot]) -> list[tuple[str, bytes]]:
        return [
            ("data.pkl", self.object(slots)),
            ("code/__torch__.py", self.source(ranks, slots)),
            ("constants.pkl", pickle.HEAD + pickle.EMPTY_TUPLE + pickle.END),
            ("version", VERSION),
            ("byteorder", b"little"),
        ]


def _entry(memo: pickle.Memo, slot: Slot) -> tuple[str, bytes]:
    """A slot's attribute, and its tensor's pickle."""
    kind, strides = STORAGES[slot.dtype], contiguous(slot.shape)
    tensor = pickle.tensor(memo, kind, str(slot.key), slot.count, slot.shape, strides, slot.parameter)
    return slot.attribute, tensor


@lru_cache(4096)
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of an array whose elements lie in order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _span(data: NDArray[np.int64], key: int, following: int | None) -> NDArray[np.int64]:
    """All that a data record of so many bytes takes in the file, up to where the data of the next one begin."""
    end, record = data, archive.LOCAL.size + archive.CENTRAL.size + 2 * len(_record(key))
    return record + (end if following is None else end + archive.padding(end, _record(following)))


def _record(key: int) -> str:
    return f"{TOP}/data/{key}"


def write(folder: Path, plan: Cut, file: BinaryIO, refit: Path | None = None) -> None:
    """The variant at `plan` of the master in `folder`, as a TorchScript file, to `file`.

    What the file `refit` has for this plan (see `improve.refit`) takes the place of the master's; not in the
    original, which nothing changes.
    """
    template, ranks = Template.open(folder), plan.ranks
    if plan.original and template.uploaded is not None:
        template, ranks = template.uploaded, ()
    master = TensorFile(folder / "master.safetensors")
    better = None if refit is None or plan.original else TensorFile(refit)
    file.writelines(pieces(Script(template), master, ranks, better))


def pieces(
    script: Script, master: TensorFile, ranks: Sequence[int], refit: TensorFile | None = None
) -> Iterator[archive.Data]:
    """The file's bytes in order, most of them views into the master: a cut is a copy of prefixes."""
    return archive.pieces(_records(script, master, ranks, refit))


def _records(
    script: Script, master: TensorFile, ranks: Sequence[int], refit: TensorFile | None
) -> Iterator[tuple[str, archive.Data, bool]]:
    slots = list(script.slots(ranks))
    for slot in slots:
        if refit is not None and slot.source in refit:
            array = refit.array(slot.source, WIDTHS[slot.dtype])
        else:
            array = slot.taken(master.array(slot.source, WIDTHS[slot.dtype]))
        data: NDArray[Any] = np.ascontiguousarray(array)
        yield _record(slot.key), data.reshape(-1).view(np.uint8).data if data.size else b"", True
    for name, text in script.text_records(ranks, slots):
        yield f"{TOP}/{name}", text, False


def _quoted(names: Iterable[str]) -> str:
    return "".join(f'"{name}", ' for name in names)


def _type(outputs: int) -> str:
    return "Tensor" if outputs == 1 else f"Tuple[{', '.join(['Tensor'] * outputs)}]"
