"""Plan → the bytes of a .pte file, made of the plan's .pt2 file by ExecuTorch.

How large one is only making it tells. What is said before is a bound: the size of the .pt2 file of the same numbers,
which describes in JSON what a .pte has in a few bytes, and some more for small networks. A file that is larger all the
same is refused.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.plain import Plain
from rightrank.models.emit.executorch.halves import Halves
from rightrank.models.emit.format import Data, Sizes, Writer
from rightrank.models.emit.pt2.writer import Pt2, Pt2Writer
from rightrank.models.errors import FormatError, UnsupportedCheckpoint
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.emit.format import Network

# A .pte has room for so many samples at once where the batch is free. It reserves memory for all of them.
BATCH = 8
ENCODINGS = ("plain", "half")
# Bytes that a .pte may take more than its .pt2: of small networks it sometimes does.
OF_FILE, OF_CALL = 16 * 1024, 256


class ExecuTorchWriter:
    """The .pte files of one template."""

    def __init__(self, template: Template, encoding: Encoding) -> None:
        self._half = encoding.name == "half"
        self._template = _bounded(template)
        self._sized = Pt2Writer(self._template, Halves() if self._half else Plain())

    def sizes(self) -> Sizes:
        """Bounds."""
        found, calls = self._sized.sizes(), len(self._template.graph.nodes)
        return replace(found, whole=found.whole + OF_FILE + OF_CALL * calls)

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        """Raises FormatError where ExecuTorch cannot hold the program, or takes more bytes than was said."""
        from rightrank.models.emit.executorch.lower import lower

        template = self._template
        data = b"".join(Pt2Writer(template, Plain()).pieces(master, ranks, changes))
        inputs, free = _example(template)
        made = lower(data, inputs, free, BATCH if template.graph.batch is None else None, self._half)
        sizes = self.sizes()
        most = sizes.whole + sum(int(table[rank]) for table, rank in zip(sizes.tables, ranks, strict=False))
        if len(made) > most:
            raise FormatError(
                f"The .pte file takes {len(made):,} bytes, and at most {most:,} were to be expected.",
                "Ask for another size or format, and please report it.",
            )
        yield made


class ExecuTorch:
    """The first version of its writer: XNNPACK's kernels, in single or half precision."""

    name, version = "executorch", 1
    suffix, media_type = ".pte", "application/x.pytorch.pte"
    separate = bounds = True

    def available(self) -> str:
        if importlib.util.find_spec("executorch") is None:
            return "This environment has no package executorch: install rightrank with the extra `executorch`."
        return ""

    def check(self, template: Template, encoding: Encoding) -> None:
        """Raises UnsupportedCheckpoint for another precision than single and half, for a size besides the batch that is
        free without a bound, and for what a .pt2 file cannot hold."""
        if encoding.name not in ENCODINGS:
            raise UnsupportedCheckpoint(
                "A .pte file has numbers of single or half precision.",
                "Ask for float32 or float16, or for another format.",
            )
        Pt2().check(template, encoding)
        open_ends = [name for name, (_, high) in _ranges(template).items() if high is None]
        if open_ends:
            raise UnsupportedCheckpoint(
                "A .pte file reserves memory for the largest inputs, and this model leaves a size besides the batch "
                "free without a bound.",
                "Export it with torch.export.Dim(…, max=…) for that size, or ask for another format.",
            )

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        return ExecuTorchWriter(template, encoding)

    def load(self, path: Path) -> Network:
        from rightrank.models.emit.executorch.runtime import load

        return load(path)


def _ranges(template: Template) -> dict[str, tuple[int, int | None]]:
    """The least and the most of each free size; of the batch, as much as a file has room for."""
    assert template.values is not None
    batches = {sizes[0] for sizes in template.values.inputs if sizes and template.graph.batch is None}
    found: dict[str, tuple[int, int | None]] = {}
    for name in template.values.symbols:
        low, high = template.graph.ranges.get(name, (0, None))
        if name in batches:
            high = BATCH if high is None else min(high, BATCH)
        found[name] = max(low, 1), high
    return found


def _bounded(template: Template) -> Template:
    """The template with every free size bounded, and without a card, for which a .pte has no place."""
    return replace(template, graph=template.graph.replace(ranges=_ranges(template)), card="")


def _example(template: Template) -> tuple[list[Tensor], list[dict[int, tuple[str, int, int]]]]:
    """Inputs to trace the program on, and which of their sizes are free."""
    import torch

    values, graph = template.values, template.graph
    assert values is not None
    inputs: list[Tensor] = []
    free: list[dict[int, tuple[str, int, int]]] = []
    for spec, sizes in zip(graph.inputs, values.inputs, strict=True):
        shape = [values.symbols[size] if isinstance(size, str) else int(size) for size in sizes]  # type: ignore[arg-type]
        inputs.append(torch.zeros(shape, dtype=getattr(torch, spec.dtype)))
        free.append({dim: (size, *graph.ranges[size]) for dim, size in enumerate(sizes) if isinstance(size, str)})  # type: ignore[misc]
    return inputs, free
