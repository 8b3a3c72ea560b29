"""Plan → the bytes of an ONNX file.

A model of `onnx.proto`, in which the graph has first its nodes, then the tensors of a few numbers that they read, then
the program's own, whose numbers are views into the master. Of inputs and outputs the batch is free where the program's
is. A file's size is a sum: what its length takes less than the longest a text at the end makes up for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.card import FILE
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.int4 import INT4
from rightrank.models.emit.encoding.w8a8 import W8A8
from rightrank.models.emit.format import Data, Sizes, Writer
from rightrank.models.emit.kept import Kept
from rightrank.models.emit.onnx import elements, integers, protobuf
from rightrank.models.emit.onnx.model import ON, PRODUCER, Model, Place, Step, Written
from rightrank.models.emit.taken import taken
from rightrank.models.emit.torchscript.compact_writer import folded, scaled
from rightrank.models.errors import PrecisionError, UnsupportedCheckpoint
from rightrank.models.master import ranges
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.quantise.activations import Grid, grid

if TYPE_CHECKING:
    from rightrank.models.emit.format import Network

FILLER = "filler"
# What a file says of itself that computes in eight bits.
COMPUTES = "It computes in int8: open it with onnxruntime's default options."


class OnnxWriter:
    """ONNX files of one template."""

    def __init__(self, template: Template, encoding: Encoding, original: bool) -> None:
        self._template = template
        folding = not original
        self._ranges = encoding.ranges if isinstance(encoding, W8A8) else None
        self._model = _KEPT.of(template, (encoding.name, folding), lambda: Model(template, encoding, folding))

    def sizes(self) -> Sizes:
        model, layers = self._model, self._template.decomposed
        tables = [np.zeros(layer.break_even + 1, dtype=np.int64) for layer in layers]
        total = len(_head(model)) + len(_opset(model)) + _graph_opening_size() + len(_filler(0))
        total += len(_graph_name()) + len(model.inputs()) + len(model.results()) + len(model.ends)
        card = len(self._card())
        total += len(model.starts) + sum(int(self._bytes(place, 0)) for place in model.grid_places)
        for step in (*model.steps, *model.decoding.values()):
            total += len(step.whole)
            if step.layer is not None:
                tables[step.layer][1:] += len(step.factored) - len(step.whole)
        for name in model.tensors:
            dense = sum(int(self._bytes(place, 0)) for place in model.places(name, False))
            total += dense
            position = model.slots.position(name)
            if position is not None:
                ranks = np.arange(1, layers[position].break_even + 1, dtype=np.int64)
                for place in model.places(name, True):
                    tables[position][1:] += self._bytes(place, ranks)
                tables[position][1:] -= dense
        return Sizes(total + card, tables, card=card)

    def _card(self) -> bytes:
        """The card, among what a file says about itself."""
        card = self._template.card
        return _about(FILE, card.encode()) if card else b""

    def _bytes(self, place: Place, rank: Any) -> NDArray[np.int64]:
        spec = self._model.spec(place, rank)
        return protobuf.tensor_size(self._model.name(place).encode(), spec.shape, elements.bytes_of(spec))

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        model = self._model
        ranks = list(ranks) or [0] * len(self._template.decomposed)
        steps = [_chosen(step, ranks) for step in model.decoding.values()] + [model.starts]
        steps += [_chosen(step, ranks) for step in model.steps] + [model.ends]
        before = b"".join([*(each.nodes for each in steps), _graph_name(), *(each.known for each in steps)])
        after = model.inputs() + model.results()
        tensors = [*self._tensors(master, ranks, changes)]
        size = len(before) + len(after) + sum(len(opening) + data.nbytes for opening, data in tensors)
        opening = protobuf.opening(protobuf.MODEL["graph"], size)
        yield _head(model) + opening + before
        for start, data in tensors:
            yield start
            yield np.ascontiguousarray(data).reshape(-1).view(np.uint8).data if data.size else b""
        yield after + _opset(model) + self._card() + _filler(_graph_opening_size() - len(opening))

    def _tensors(
        self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None
    ) -> Iterator[tuple[bytes, NDArray[Any]]]:
        model, template = self._model, self._template
        knot = template.knot(ranks)
        knots = template.integers.around(template.params_at(ranks)) if template.integers else ()

        def one(name: str) -> NDArray[Any]:
            (slot,) = model.slots.of(name, 0, ranks, knot)
            return taken(slot, master, changes)

        def on(value: str) -> Grid:
            return grid(*ranges.value(model.grid_of(value), knots, self._ranges, changes))

        norms = folded(model.folds, one)
        for name in model.tensors:
            position = model.slots.position(name)
            rank = 0 if position is None else ranks[position]
            scale: NDArray[np.float64] | None = None
            bias: NDArray[Any] | None = None
            if name in model.folds:
                scale, bias = norms[name]
            slots = [*model.slots.of(name, rank, ranks, knot)]
            parts: dict[Place, NDArray[Any]] = {}
            encoding = model.encoding_of(name)
            taking = {slot.side: taken(slot, master, changes) for slot in slots}
            if scale is not None:
                taking[slots[-1].side] = scaled(taking[slots[-1].side], scale)
            if isinstance(encoding, W8A8):
                calls = model.integers[name]
                biases = [
                    None if each.bias is None else bias if each.tensor is None else one(each.tensor) for each in calls
                ]
                bases = ranges.bases(name, knots, self._ranges, changes)[:rank] if rank else None
                parts |= integers.layer(
                    name,
                    calls,
                    taking,
                    encoding,
                    [None if each is None else np.ascontiguousarray(each).view(np.float32) for each in biases],
                    [on(each.input).scale for each in calls],
                    bases,
                )
            else:
                for side, array in taking.items():
                    for part, each in encoding.encode(array, slots[0].dtype).items():
                        parts[Place(name, side, part)] = each
            for place in model.places(name, bool(rank)):
                data = parts.get(place, bias)
                assert data is not None
                yield self._written(place, rank, data)
        for value in model.grids:
            for place, data in integers.places(value, ON, on(value)).items():
                yield self._written(place, 0, data)

    def _written(self, place: Place, rank: int, data: NDArray[Any]) -> tuple[bytes, NDArray[Any]]:
        """What precedes a tensor's numbers, and these."""
        name, spec = self._model.name(place), self._model.spec(place, rank)
        data = elements.packed(data) if spec.dtype == INT4 else data
        opening = protobuf.tensor_opening(name.encode(), elements.number_of(spec.dtype), spec.shape, data.nbytes)
        return opening, data


def _chosen(step: Step, ranks: Sequence[int]) -> Written:
    return step.factored if step.layer is not None and ranks[step.layer] else step.whole


def _head(model: Model) -> bytes:
    """What a file begins with; one that computes in eight bits says so."""
    fields = protobuf.MODEL
    head = protobuf.integer(fields["ir_version"], model.versions.layout) + protobuf.whole(
        fields["producer_name"], PRODUCER.encode()
    )
    return head + (protobuf.whole(fields["doc_string"], COMPUTES.encode()) if model.integers else b"")


def _graph_name() -> bytes:
    return protobuf.whole(protobuf.GRAPH["name"], PRODUCER.encode())


def _graph_opening_size() -> int:
    """The most that precedes the graph."""
    return 1 + protobuf.LONGEST


def _opset(model: Model) -> bytes:
    """Of ONNX's own operators."""
    return protobuf.whole(protobuf.MODEL["opset_import"], protobuf.integer(2, model.versions.operators))


def _filler(length: int) -> bytes:
    """A text about the file with so many letters more, which say nothing."""
    return _about(FILLER, b"-" * length)


def _about(key: str, text: bytes) -> bytes:
    """A text about the file."""
    entry = protobuf.whole(1, key.encode()) + protobuf.whole(2, text)
    return protobuf.whole(protobuf.MODEL["metadata_props"], entry)


_KEPT: Kept[Model] = Kept()


class Onnx:
    """The first version of its writer."""

    name, version = "onnx", 1
    suffix, media_type = ".onnx", "application/x-onnx"
    separate = bounds = False

    def available(self) -> str:
        """Empty where files can be written and run here; else why not."""
        missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
        return f"{' and '.join(missing)} are not installed here" if missing else ""

    def check(self, template: Template, encoding: Encoding) -> None:
        """Raises UnsupportedCheckpoint for a program with a call that ONNX has no nodes for, or whose file would be
        larger than a message can be, and PrecisionError for coded levels."""
        size = self.writer(template, encoding, original=True).sizes().whole
        if size > protobuf.LARGEST:
            raise UnsupportedCheckpoint(
                f"The original would be an ONNX file of {size:,} bytes; {protobuf.LARGEST:,} are the most.",
                "Ask for another format, or upload it in half precision.",
            )

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        if encoding.coded:
            raise PrecisionError(
                "ONNX files have no coded levels: onnxruntime reads numbers as they are.",
                "Ask for float32, float16 or int8, or for the format torchscript.",
            )
        if find_spec("onnx") is None:
            raise UnsupportedCheckpoint(
                "This server has no ONNX.", "Install rightrank[onnx], or ask for another format."
            )
        return OnnxWriter(template, encoding, original)

    def load(self, path: Path) -> Network:
        from rightrank.models.emit.onnx.session import session

        return session(path)
