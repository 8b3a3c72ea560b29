"""Plan → the bytes of a TorchScript file, by the second version of the writer (see `compact`).

Layout:

    v/data/<number>             tensors that are alone, aligned to 64 bytes; then what tensors of a type share; then
                                coded levels, deflated
    v/data.pkl, v/code/__torch__.py    deflated
    v/constants.pkl, v/version, v/byteorder
    v/extra/card.json           the card, where there is one
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit import archive
from rightrank.models.emit import format as formats
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.levels import SCALE, Mixed
from rightrank.models.emit.encoding.nested import Nested
from rightrank.models.emit.format import Data, Sizes, Writer
from rightrank.models.emit.kept import Kept
from rightrank.models.emit.taken import taken
from rightrank.models.emit.torchscript import crc, deflate
from rightrank.models.emit.torchscript.compact import ROUNDED, STEPS, TOP, Compact, Group, Kind, Place, Stored, Vector
from rightrank.models.emit.torchscript.fold import FOLDED, Fold
from rightrank.models.emit.torchscript.pickle import HEAD
from rightrank.models.emit.torchscript.script import EXTRA, VERSION
from rightrank.models.emit.torchscript.text import Text
from rightrank.models.emit.torchscript.writer import TorchScript
from rightrank.models.emit.vectors import HALF, TIMES, rounded
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.master.levels import FIXED, OWN, Levels, there
from rightrank.models.master.rounded import Rounded
from rightrank.models.master.rounded import there as there_rounded
from rightrank.models.master.slots import Slot
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.program.dtypes import DTYPES

DATA = f"{TOP}/data/00000"
PICKLE, CODE = f"{TOP}/data.pkl", f"{TOP}/code/__torch__.py"
LAST = ((f"{TOP}/constants.pkl", HEAD + b")."), (f"{TOP}/version", VERSION), (f"{TOP}/byteorder", b"little"))


def record(name: str) -> int:
    """What a record takes besides its data and padding."""
    return archive.LOCAL.size + archive.CENTRAL.size + 2 * len(name)


class CompactWriter:
    """TorchScript files of one template."""

    def __init__(self, template: Template, encoding: Encoding, original: bool) -> None:
        if encoding.coded:
            # What was tuned has no levels at ingest.
            template = template if template.tuned is None else replace(template, tuned=None)
        self._template, self._encoding = template, encoding
        key = encoding.name, not original
        self._compact = _KEPT.of(template, key, lambda: Compact(template, encoding, not original))

    # How large files are.

    def sizes(self) -> Sizes:
        compact, layers = self._compact, self._template.decomposed
        position = {layer.weight: index for index, layer in enumerate(layers)}
        total = archive.END.size + sum(record(name) + len(data) for name, data in LAST)
        total += record(PICKLE) + record(CODE) + len(compact.storages) * record(DATA)
        total += len(deflate.LAST) if compact.coded else 0
        if compact.alone:
            total += archive.padding(0, DATA)
        for group in compact.groups:
            if not group.varied:
                count = sum(compact.size_of(vector) for vector in compact.members(group))
                total += self._shared(count * DTYPES[group.dtype].width)
        tables = [np.zeros(layer.break_even + 1, dtype=np.int64) for layer in layers]
        for name in compact.tensors:
            dense = int(self._bytes(name, None))
            total += dense
            if name in position:
                layer = layers[position[name]]
                ranks = np.arange(1, layer.break_even + 1, dtype=np.int64)
                tables[position[name]][1:] = self._bytes(name, ranks) - dense
        texts = [self._text(text) for text in (compact.pickle, compact.code)]
        total += sum(int(Text.size(text.bits)) for text in texts)
        card = sum(record(name) + len(data) for name, data in self._extra())
        return Sizes(total + card, tables, texts, card)

    def _extra(self) -> list[tuple[str, bytes]]:
        """The card, where torch.jit.load looks for extra files."""
        card = self._template.card
        return [(f"{TOP}/{EXTRA}", card.encode())] if card else []

    def _text(self, text: Text) -> formats.Text:
        more = [[0] * len(self._compact.kinds) for _ in self._template.decomposed]
        bits = text.overhead
        for layer, several in zip(text.layers, text.bits, strict=True):
            bits += several[0]
            if layer is not None:
                more[layer] = [sum(pair) for pair in zip(more[layer], (x - several[0] for x in several), strict=True)]
        return formats.Text(bits, more)

    def _bytes(self, name: str, ranks: NDArray[np.int64] | None) -> Any:
        """Of a tensor's parts, whole or at ranks, without vectors whose size is fixed."""
        compact, total = self._compact, np.zeros(() if ranks is None else ranks.shape, dtype=np.int64)
        for place in compact.places(name, ranks is not None):
            vector, stored = compact.vectors.get(place), compact.stored.get(place)
            if vector is not None and vector.group.varied:
                total = total + np.asarray(compact.size_of(vector, ranks)) * DTYPES[vector.group.dtype].width
            elif stored is not None and not stored.coded:
                count = np.asarray(math.prod(compact.shape(place, 1 if ranks is None else ranks)), dtype=np.int64)
                data = count * DTYPES[stored.dtype].width
                if stored.alone:
                    total = total + data + record(DATA) + archive.padding(data, DATA)
                else:
                    total = total + self._shared(data)
        return total

    def _shared(self, size: Any) -> Any:
        """What a tensor of so many bytes takes of a storage that several share."""
        return -(-size // archive.ALIGNMENT) * archive.ALIGNMENT if self._compact.aligned else size

    # Their bytes.

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        content = _Content(self._compact, self._encoding, master, ranks, changes)
        size = self._encoding.bytes if isinstance(self._encoding, Mixed) else 0
        return archive.pieces(self._records(content), size)

    def _records(self, content: _Content) -> Iterator[tuple[str, Data | archive.Known | archive.Deflated, bool]]:
        compact = self._compact
        aligned = False
        for place, array in content.alone():
            data, crc = _raw(array), content.crcs.get(place)
            yield f"{TOP}/data/{compact.key(place)}", data if crc is None else archive.Known(data, crc), True
            aligned = True
        for number, dtype in enumerate(compact.shared):
            yield f"{TOP}/data/{number:05d}", b"".join(map(_raw, content.shared[dtype])), aligned
            aligned = False
        if compact.coded:
            yield f"{TOP}/data/{len(compact.shared):05d}", content.coded(), aligned
            aligned = False
        for name, text, fields in ((PICKLE, compact.pickle, content.fields()), (CODE, compact.code, None)):
            chosen = []
            for number, layer in enumerate(text.layers):
                which = 0 if layer is None else content.kinds[layer]
                chosen.append((which, () if fields is None else fields[number]))
            whole, deflated = text.deflated(chosen)
            yield name, archive.Deflated([deflated], zlib.crc32(whole), len(whole)), aligned
            aligned = False
        for name, data in (*LAST, *self._extra()):
            yield name, data, False


_KEPT: Kept[Compact] = Kept()


class _Content:
    """The numbers of one plan's file, and where each tensor is."""

    def __init__(
        self,
        compact: Compact,
        encoding: Encoding,
        master: TensorFile,
        ranks: Sequence[int],
        changes: TensorFile | None,
    ) -> None:
        self._compact, template = compact, compact.template
        weights = [layer.weight for layer in template.decomposed]
        self._rank = dict(zip(weights, ranks, strict=True))
        mixed = encoding if isinstance(encoding, Mixed) else Mixed()
        self._rounded = encoding.rounded if isinstance(encoding, Nested) else None
        self._grid = dict(zip(weights, mixed.grids, strict=False))
        self._levels, self._changes, self._master = mixed.levels, changes, master
        knot = template.knot(ranks)

        def slots(name: str) -> list[Slot]:
            return list(compact.slots.of(name, self._rank.get(name, 0), ranks, knot))

        def one(name: str) -> NDArray[Any]:
            return taken(next(compact.slots.of(name, 0, ranks, knot)), master, changes)

        scales = folded(compact.folds, one)
        self._parts: dict[Place, NDArray[Any]] = {}
        self._coded: dict[Place, tuple[Levels, int]] = {}
        self._packing: dict[str, int] = {}
        # The CRC-32 of what is copied, and how what lies basis after basis is seen.
        self.crcs: dict[Place, int] = {}
        self._shapes: dict[Place, tuple[int, ...]] = {}
        for name in compact.tensors:
            several, scale = slots(name), None
            if name in compact.folds:
                scale, bias = scales[name]
                self._parts[Place(compact.folds[name].value)] = self._held(bias, name)
            for slot in several:
                place, by = Place(name, slot.side), scale if slot is several[-1] else None
                if (stored := compact.stored.get(place)) is not None and stored.coded:
                    self._take_levels(place, slot, by)
                    continue
                if compact.encoding_of(name).nested:
                    self._take_rounded(place, slot, by)
                    continue
                array = taken(slot, master, changes)
                array = array if by is None else scaled(array, by)
                for part, each in compact.encoding_of(name).encode(array, slot.dtype).items():
                    self._parts[Place(name, slot.side, part)] = each
                vector = compact.vectors.get(place)
                if compact.encoding.coded and vector and not vector.group.rounded and slot.dtype == FOLDED:
                    self._parts[place] = self._held(array, name)
        self._round()
        self.kinds = [
            compact.kinds.index(Kind(bool(rank), self._packing.get(name, 0))) for name, rank in self._rank.items()
        ]
        self.shared: dict[str, list[NDArray[Any]]] = {dtype: [] for dtype in compact.shared}
        self._offset: dict[Place | Group, int] = {}
        self._count: dict[Group, int] = {}
        filled = dict.fromkeys(compact.shared, 0)

        def put(key: Place | Group, dtype: str, arrays: Sequence[NDArray[Any]]) -> None:
            self._offset[key] = filled[dtype]
            self.shared[dtype] += arrays
            filled[dtype] += sum(array.size for array in arrays)
            width = DTYPES[dtype].width
            if compact.aligned and (short := -filled[dtype] * width % archive.ALIGNMENT // width):
                self.shared[dtype].append(np.zeros(short, dtype=f"u{width}"))
                filled[dtype] += short

        for group in compact.groups:
            arrays = [self._vector(vector) for vector in compact.members(group)]
            self._count[group] = sum(array.size for array in arrays)
            put(group, group.dtype, arrays)
        levels_before = 0
        for name in compact.tensors:
            rank = self._rank.get(name, 0)
            for stored in compact.present(name, bool(rank)):
                if stored.coded:
                    self._offset[stored.place] = levels_before
                    levels_before += math.prod(compact.rows(stored.place, self._packing[name], rank or 1))
                elif not stored.alone:
                    put(stored.place, stored.dtype, [self._parts[stored.place]])
        self._filled = [*filled.values(), *([levels_before] if compact.coded else [])]

    def _round(self) -> None:
        """Vectors of eight bits as these, and their steps."""
        if ROUNDED not in self._compact.groups:
            return
        steps = []
        for vector in self._compact.members(ROUNDED):
            levels, step = rounded(np.ascontiguousarray(self._parts[vector.place]).reshape(-1).view(np.float32))
            self._parts[vector.place] = levels.view(np.uint8)
            steps.append(step)
        self._parts[STEPS] = np.concatenate(steps)

    def _held(self, array: NDArray[Any], name: str) -> NDArray[Any]:
        """A vector of float32 as it is stored, of this name or folded in; beside levels mostly in half precision."""
        if not self._compact.encoding.coded or self._compact.wide(name):
            return array
        return np.clip(np.ascontiguousarray(array).view(np.float32), -HALF, HALF).astype(np.float16).view(np.uint16)

    def _take_levels(self, place: Place, slot: Slot, by: NDArray[np.float64] | None) -> None:
        """What a tensor's levels are here: the plan's own, or those of its grid; their scale times `by`."""
        if self._changes is not None and there(self._changes, OWN, slot.source):
            found = Levels.of(self._changes, OWN, slot.source)
        else:
            assert self._levels is not None
            found = Levels.of(self._levels, self._grid.get(place.tensor, FIXED), slot.source)
        rank = self._rank.get(place.tensor, 0) if place.side else 0
        scale = found.scale[: slot.shape[0]].astype(np.float64) * TIMES
        scale = scale if by is None else scale * by
        of_scale = Place(place.tensor, place.side, SCALE)
        scale = scale[:1] if self._compact.alike(of_scale) else scale
        if self._compact.wide(place.tensor):
            self._parts[of_scale] = scale.astype(np.float32).view(np.uint32)
        else:
            self._parts[of_scale] = np.clip(scale, -HALF, HALF).astype(np.float16).view(np.uint16)
        self._coded[place] = found, rank or len(found.ends) - 1
        self._packing[place.tensor] = int(found.end[2])

    def _take_rounded(self, place: Place, slot: Slot, by: NDArray[np.float64] | None) -> None:
        """A tensor rounded to eight bits: what was rounded at ingest, or else is now; its scale times `by`."""
        stored = self._compact.stored[place]
        bases, changes = stored.bases, self._changes
        own = changes is not None and slot.source in changes
        if self._rounded is not None and not own and there_rounded(self._rounded, slot.source):
            found = Rounded.of(self._rounded, slot.source)
        else:
            cut = own or (slot.side and bases is None)
            whole = slot if cut else slot._replace(shape=slot.full or slot.shape)
            array = taken(whole, self._master, changes)
            parts = self._compact.encoding.encode(array, slot.dtype)
            found = Rounded.made(parts[""], parts[SCALE], bases)
        count = 1 if bases is None else slot.shape[bases]
        self._parts[place] = found.levels[:count]
        self._shapes[place] = slot.shape
        self.crcs[place] = int(found.crcs[count])
        scale = found.scale[: slot.shape[0]]
        if by is not None:
            scale = (scale * by).astype(np.float32)
        self._parts[Place(place.tensor, place.side, SCALE)] = scale

    def coded(self) -> archive.Deflated:
        """The record of all levels."""
        pieces: list[Data] = []
        crcs, sizes = [], []
        for place, (levels, count) in self._coded.items():
            rank = self._rank.get(place.tensor, 0)
            rows, width = self._compact.rows(place, self._packing[place.tensor], rank)
            word, length, _ = levels.end.tolist()
            pieces += deflate.block(levels.stream, int(levels.ends[count]), deflate.Bits(word, length))
            crcs.append(int(levels.crcs[count]))
            sizes.append(rows * width)
        return archive.Deflated([*pieces, deflate.LAST], crc.combined(crcs, sizes), sum(sizes))

    def _vector(self, vector: Vector) -> NDArray[Any]:
        """A vector's numbers; none where the layer that it is of has no such part here."""
        for place in self._compact.standing[vector.place]:
            if place in self._parts:
                return self._parts[place].reshape(-1)
        width = DTYPES[vector.group.dtype].width
        return np.zeros(0 if vector.group.varied else self._compact.size_of(vector), dtype=f"u{width}")

    def alone(self) -> Iterator[tuple[Place, NDArray[Any]]]:
        """The tensors with records of their own, in the order of their tensors."""
        for stored in self._stored():
            if stored.alone:
                yield stored.place, self._parts[stored.place]

    def _stored(self) -> Iterator[Stored]:
        for name in self._compact.tensors:
            yield from self._compact.present(name, bool(self._rank.get(name)))

    def fields(self) -> list[list[bytes]]:
        """Those of each part of the pickle."""
        compact = self._compact
        found = [[struct.pack("<i", count) for count in self._filled]]
        for group in compact.groups:
            found.append([struct.pack("<i", self._offset[group]), struct.pack("<i", self._count[group])])
        for name in compact.tensors:
            if name in compact.attributed:
                rank, packing = self._rank.get(name, 0), self._packing.get(name, 0)
                of_name: list[bytes] = []
                for each in compact.present(name, bool(rank)):
                    place = each.place
                    if each.coded:
                        shape: tuple[int, ...] = compact.rows(place, packing, rank)
                    else:
                        shape = self._shapes.get(place) or self._parts[place].shape
                    of_name += compact.fields(each, packing, shape, self._offset.get(place, 0))
                found.append(of_name)
        return [*found, []]


def folded(
    folds: Mapping[str, Fold], tensor: Callable[[str], NDArray[Any]]
) -> dict[str, tuple[NDArray[np.float64], NDArray[Any]]]:
    """By the weight, a folded norm's scale, and the bias as it is stored, of tensors by name, which are float32 as
    unsigned numbers.

    In double, by operations that give the same on every machine; all norms at once.
    """
    if not folds:
        return {}
    variances = [tensor(fold.norm.variance) for fold in folds.values()]
    sizes = [each.size for each in variances]

    def values(names: Iterable[str | None], otherwise: float) -> NDArray[np.float64]:
        none = np.float32(otherwise).view(np.uint32)
        arrays = [
            np.full(size, none) if name is None else tensor(name) for name, size in zip(names, sizes, strict=True)
        ]
        return np.concatenate(arrays).view(np.float32).astype(np.float64)

    norms = [fold.norm for fold in folds.values()]
    epsilons = np.repeat([norm.epsilon for norm in norms], sizes)
    variance = np.concatenate(variances).view(np.float32).astype(np.float64)
    scale = values((norm.weight for norm in norms), 1.0) / np.sqrt(variance + epsilons)
    mean = values((norm.mean for norm in norms), 0.0)
    bias = (values((fold.bias for fold in folds.values()), 0.0) - mean) * scale
    stored = (bias + values((norm.bias for norm in norms), 0.0)).astype(FOLDED).view(np.uint32)
    ends = np.cumsum(sizes)[:-1]
    return dict(zip(folds, zip(np.split(scale, ends), np.split(stored, ends), strict=True), strict=True))


def scaled(array: NDArray[Any], scale: NDArray[np.float64]) -> NDArray[Any]:
    """A float32 weight, or its last factor, times a number for each output."""
    factor = scale.astype(np.float32).reshape(-1, *(1,) * (array.ndim - 1))
    return np.ascontiguousarray(np.ascontiguousarray(array).view(np.float32) * factor).view(np.uint32)


def _raw(array: NDArray[Any]) -> Data:
    array = np.ascontiguousarray(array)
    return array.reshape(-1).view(np.uint8).data if array.size else b""


class CompactTorchScript(TorchScript):
    """The second version of its writer."""

    version = 2

    def check(self, template: Template, encoding: Encoding) -> None:
        size = self.writer(template, encoding, original=True).sizes().whole
        if size > archive.LARGEST:
            raise UnsupportedCheckpoint(
                f"The original would be a file of {size:,} bytes; {archive.LARGEST:,} are the most.",
                "Upload it in half precision, or in parts.",
            )

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        return CompactWriter(template, encoding, original)
