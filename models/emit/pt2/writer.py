"""Plan → the bytes of a .pt2 file, as torch.export.save would write one (see `checkpoint.exported`, which reads it).

Layout, all entries stored, tensor data first and aligned to 64 bytes:

    archive/data/weights/weight_<key>                 raw little-endian elements
    archive/data/weights/model_weights_config.json    which tensor is where
    archive/data/constants/model_constants_config.json    that there are no others
    archive/models/model.json                         the graph
    archive/data/sample_inputs/model.pt               empty: torch takes it for no example
    archive/archive_format, archive_version, .data/version, byteorder
    archive/extra/card.json                           the card, where there is one
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.card import FILE
from rightrank.models.emit import archive
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.format import Data, Sizes, Writer
from rightrank.models.emit.kept import Kept
from rightrank.models.emit.pt2.document import Document, Item
from rightrank.models.emit.taken import taken
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.master.slots import Slot
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.program.dtypes import DTYPES

if TYPE_CHECKING:
    from rightrank.models.emit.format import Network

TOP, EXTRA = "archive", f"extra/{FILE}"
WEIGHTS, GRAPH = f"{TOP}/data/weights/model_weights_config.json", f"{TOP}/models/model.json"
REST = (
    (f"{TOP}/data/constants/model_constants_config.json", b'{"config":{}}'),
    (f"{TOP}/data/sample_inputs/model.pt", b""),
    (f"{TOP}/archive_format", b"pt2"),
    (f"{TOP}/archive_version", b"0"),
    (f"{TOP}/.data/version", b"6\n"),
    (f"{TOP}/byteorder", b"little"),
)


_KEPT: Kept[Document] = Kept()


class Pt2Writer:
    """The .pt2 files of one template."""

    def __init__(self, template: Template, encoding: Encoding) -> None:
        self._template, self._encoding = template, encoding
        self._document = _KEPT.of(template, encoding.name, lambda: Document(template, encoding))

    def sizes(self) -> Sizes:
        document, template = self._document, self._template
        layers = template.decomposed
        tables = [np.zeros(layer.break_even + 1, dtype=np.int64) for layer in layers]
        total = archive.END.size
        if document.slots.tensors:
            total += archive.padding(0, _record(0))
        for number, name in enumerate(document.slots.tensors):
            after, spec = document.key_after(number), template.tensors[name]
            dense = int(self._data(number, [spec], after))
            total += dense
            position = document.slots.position(name)
            if position is not None:
                layer = layers[position]
                ranks = np.arange(1, layer.break_even + 1, dtype=np.int64)
                factors = [TensorSpec(spec.dtype, shape) for shape in layer.form.shapes(layer, ranks)]
                tables[position][1:] += self._data(number, factors, after) - dense

        for items in (part for part in (*document.weights, *document.graph) if not isinstance(part, str)):
            for item in items:
                if item.layer is not None:
                    cut = document.fields[item.layer].fill(item.cut, layers[item.layer].break_even)
                    tables[item.layer][1:] += len(cut.encode()) - len(item.whole.encode())
        card = sum(archive.stored(entry, text) for entry, text in self._extra())
        for entry, text in (*self._texts([0] * len(layers)), *REST):
            total += archive.stored(entry, text)
        return Sizes(total + card, tables, card=card)

    def _extra(self) -> list[tuple[str, bytes]]:
        """The card, where torch.export.load looks for extra files."""
        card = self._template.card
        return [(f"{TOP}/{EXTRA}", card.encode())] if card else []

    def _data(self, number: int, specs: Sequence[TensorSpec], after: int | None) -> Any:
        """Bytes of all records of one tensor, which are of these types and sizes: a number, or one for each rank."""
        parts = [part for spec in specs for part in self._encoding.parts(spec).values()]
        keys = [self._document.stride * number + count for count in range(len(parts))]
        total: Any = 0
        for part, key, following in zip(parts, keys, [*keys[1:], after], strict=True):
            count = np.asarray(math.prod(part.shape), dtype=np.int64)
            next_one = None if following is None else _record(following)
            total = total + archive.span(count * DTYPES[part.dtype].width, _record(key), next_one)
        return total

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        return archive.pieces(self._records(master, ranks, changes))

    def _records(
        self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None
    ) -> Iterator[tuple[str, Data, bool]]:
        document = self._document
        last: Slot | None = None
        parts: Mapping[str, NDArray[Any]] = {}
        for record in document.records(document.slots.at(ranks)):
            if (slot := record.slot) is not last:
                last, parts = slot, self._encoding.encode(taken(slot, master, changes), slot.dtype)
            data: NDArray[Any] = np.ascontiguousarray(parts[record.part])
            yield _record(record.key), data.reshape(-1).view(np.uint8).data if data.size else b"", True

        for entry, text in (*self._texts(ranks), *REST, *self._extra()):
            yield entry, text, False

    def _texts(self, ranks: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        """The records of text at some ranks."""
        document = self._document

        def of(item: Item) -> str:
            if item.layer is None or not ranks[item.layer]:
                return item.whole
            return document.fields[item.layer].fill(item.cut, ranks[item.layer])

        for entry, text in ((WEIGHTS, document.weights), (GRAPH, document.graph)):
            # Every item ends with a comma.
            parts = (part if isinstance(part, str) else "".join(map(of, part))[:-1] for part in text)
            yield entry, "".join(parts).encode()


class Pt2:
    """The archive of torch.export.save, as torch 2.13 writes it."""

    name, version = "pt2", 1
    suffix, media_type = ".pt2", "application/x.pytorch.pt2+zip"
    separate = bounds = False

    def available(self) -> str:
        return ""

    def check(self, template: Template, encoding: Encoding) -> None:
        """Raises UnsupportedCheckpoint for numbers as coded levels, for a program of which types and sizes of values
        are not known, and where the original's file would be larger than the format holds."""
        if encoding.coded:
            raise UnsupportedCheckpoint(
                "A .pt2 file's tensors are raw numbers: levels that are coded are TorchScript's alone.",
                "Ask for float32, float16 or int8, or for format=torchscript.",
            )
        if template.values is None:
            raise UnsupportedCheckpoint(
                "A .pt2 file says the sizes of all values, and of this model they are not known: it was published "
                "before this format was written, or a size that it leaves free cannot be another.",
                "Upload it again, or ask for format=torchscript.",
            )
        size = self.writer(template, encoding).sizes().whole
        if size > archive.LARGEST:
            raise UnsupportedCheckpoint(
                f"The original would be a file of {size:,} bytes; {archive.LARGEST:,} are the most.",
                "Upload it in half precision, or in parts.",
            )

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        return Pt2Writer(template, encoding)

    def load(self, path: Path) -> Network:
        from rightrank.models.emit.pt2.runtime import load

        return load(path)


def _record(key: int) -> str:
    return f"{TOP}/data/weights/weight_{key}"
