"""Plan → the bytes of a TorchScript file.

The archive is written directly from the graph: code as text, one record per tensor copied from the
master's memory map, and the pickle that ties them together. Nothing is traced, so nothing depends on
the process, the clock or the machine: same master, same plan, same bytes. No source path is in it.

Layout, all entries stored (not compressed), tensor data aligned to 64 bytes:

    variant/data/<key>              raw little-endian elements (keys: see `script`)
    variant/data.pkl                one object: the module with its attributes
    variant/code/__torch__.py       its class, `forward` included
    variant/constants.pkl           an empty tuple
    variant/version, byteorder
    variant/extra/card.json         the card, where there is one
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit import archive
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.format import Data, Sizes, Writer
from rightrank.models.emit.taken import taken
from rightrank.models.emit.torchscript.script import RECORDS, TOP, Script
from rightrank.models.emit.torchscript.sizes import sizes
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.master.slots import Slot
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile

if TYPE_CHECKING:
    from rightrank.models.emit.format import Network


class ScriptWriter:
    """TorchScript files of one template."""

    def __init__(self, template: Template, encoding: Encoding) -> None:
        self._template, self._script = template, Script(template, encoding)

    def sizes(self) -> Sizes:
        return sizes(self._template, self._script)

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        return archive.pieces(_records(self._script, master, ranks, changes))


class TorchScript:
    """The first version of its writer."""

    name, version = "torchscript", 1
    suffix, media_type = ".pt", "application/octet-stream"
    separate = bounds = False

    def available(self) -> str:
        return ""

    def check(self, template: Template, encoding: Encoding) -> None:
        """Raises UnsupportedCheckpoint where the original's file would be larger than the format holds."""
        size = self.writer(template, encoding).sizes().whole
        records = len(template.tensors) + RECORDS + bool(template.card)
        if size > archive.LARGEST or records > archive.MOST:
            raise UnsupportedCheckpoint(
                f"The original would be a file of {size:,} bytes with {records:,} records; "
                f"{archive.LARGEST:,} and {archive.MOST:,} are the most.",
                "Upload it in half precision, or in parts.",
            )

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        return ScriptWriter(template, encoding)

    def load(self, path: Path) -> Network:
        import torch

        try:
            model: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            reason = next((line.strip() for line in str(error).split("\n") if line.strip()), "")[:300]
            raise UnsupportedCheckpoint(
                f"The program has no equivalent in TorchScript: {reason}",
                "Please report it with the model's code.",
            ) from error
        return model.eval()


def _records(
    script: Script, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None
) -> Iterator[tuple[str, Data, bool]]:
    records = script.records(script.slots.at(ranks))
    last: Slot | None = None
    parts: Mapping[str, NDArray[Any]] = {}
    for record in records:
        if (slot := record.slot) is not last:
            last, parts = slot, script.encoding.encode(taken(slot, master, changes), slot.dtype)
        data: NDArray[Any] = np.ascontiguousarray(parts[record.part])
        yield record.name, data.reshape(-1).view(np.uint8).data if data.size else b"", True
    for name, text in script.text_records(ranks, records):
        yield f"{TOP}/{name}", text, False
