"""The formats that plans are written in, and writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.encoding.levels import Mixed
from rightrank.models.emit.encoding.nested import Nested
from rightrank.models.emit.encoding.w8a8 import W8A8
from rightrank.models.emit.executorch.writer import ExecuTorch
from rightrank.models.emit.format import FIRST, Data, Format, Output, Writer
from rightrank.models.emit.onnx.writer import Onnx
from rightrank.models.emit.precision import besides, precisions
from rightrank.models.emit.pt2.writer import Pt2
from rightrank.models.emit.torchscript.compact_writer import CompactTorchScript
from rightrank.models.emit.torchscript.writer import TorchScript
from rightrank.models.errors import FormatError, PrecisionError, UnreadableMaster, UnsupportedCheckpoint
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile

# By name, every version of the writer that has ever written a published file, rising.
FORMATS: Mapping[str, Sequence[Format]] = {
    "torchscript": (TorchScript(), CompactTorchScript()),
    "onnx": (Onnx(),),
    "pt2": (Pt2(),),
    "executorch": (ExecuTorch(),),
}


class Planned(Protocol):
    """What has to be known of a plan: its ranks, its size, whether it is the network as uploaded, what it is written as
    and, where that is levels, of which grid each layer's are."""

    @property
    def ranks(self) -> tuple[int, ...]: ...

    @property
    def original(self) -> bool: ...

    @property
    def bytes(self) -> int: ...

    @property
    def grids(self) -> tuple[str, ...]: ...

    @property
    def output(self) -> Output: ...


def newest() -> dict[str, int]:
    """The latest writer of every format, which new models are published with."""
    return {name: versions[-1].version for name, versions in FORMATS.items()}


def latest() -> Output:
    """What new models' files are written as, with numbers as they are."""
    return Output(writer=newest()[FIRST.format])


def format_of(output: Output) -> Format:
    """The writer of an output. Raises UnreadableMaster for one that this version has not."""
    for each in FORMATS.get(output.format, ()):
        if each.version == output.writer:
            return each
    raise UnreadableMaster(
        f"The model's files are of the format {output.format[:40]!r}, writer {output.writer}, which is not here.",
        "Run the version that published it, or a later one.",
    )


def check(template: Template, output: Output = FIRST) -> None:
    """Raises UnsupportedCheckpoint where the format cannot hold the whole network."""
    format_of(output).check(template, encoding_of(output.encoding))


def about(name: str) -> dict[str, Any]:
    """What is said of a format: its name, media type and suffix."""
    newest = FORMATS[name][-1]
    return {"format": name, "media_type": newest.media_type, "suffix": newest.suffix}


def offered(template: Template, mixed: bool, exact: Output) -> Mapping[str, str]:
    """The precisions that a model's files of a format can have (see `precisions`), where its exact ones are written so.
    Raises FormatError where the format cannot hold the network at all."""
    if exact.format == FIRST.format:
        return precisions(template, mixed)  # that it can be a file of this one was found out before it was published
    found: dict[str, str] = {}
    refusal: UnsupportedCheckpoint | PrecisionError | None = None
    # What was rounded at ingest TorchScript's writer copies; the others round the numbers of a cut.
    known = {**precisions(replace(template, rounded=False), mixed), **besides(template, exact.format)}
    for name, encoding in known.items():
        try:
            for each in (template, template.original):
                format_of(exact).check(each, encoding_of(encoding))
        except (UnsupportedCheckpoint, PrecisionError) as error:
            refusal = refusal or error
        else:
            found[name] = encoding
    if not found:
        assert refusal is not None  # there is always one precision: the model's own
        raise FormatError(refusal.detail, refusal.hint)
    return found


def writer_of(template: Template, output: Output = FIRST, original: bool = False) -> Writer:
    """What writes a template's files as such an output."""
    return format_of(output).writer(template, encoding_of(output.encoding), original)


def pieces(master: Master, plan: Planned, changes: TensorFile | None = None) -> Iterator[Data]:
    """The bytes of a plan's file in order, most of them views into the master: a cut is a copy of prefixes.

    What `changes` has for this plan takes the place of the master's; not in the original, which nothing changes.
    """
    if plan.original:
        uploaded = master.template.uploaded
        ranks = plan.ranks if uploaded is None else ()
        return writer_of(master.template.original, plan.output, original=True).pieces(master.file, ranks, None)
    encoding = encoding_of(plan.output.encoding)
    if isinstance(encoding, Mixed):
        encoding = Mixed(master.levels, plan.grids, plan.bytes)
    elif encoding.nested:
        encoding = Nested(master.rounded)
    elif encoding.arithmetic:
        encoding = W8A8(master.ranges)
    return format_of(plan.output).writer(master.template, encoding).pieces(master.file, plan.ranks, changes)


def as_planned(plan: Planned, size: int) -> bool:
    """Whether a plan's file may be of so many bytes: those that were said, or where that is a bound, no more."""
    return size == plan.bytes or (format_of(plan.output).bounds and size < plan.bytes)


def write(folder: Path, plan: Planned, file: BinaryIO, changes: Path | None = None) -> None:
    """Writes a plan of the master in `folder` to `file`. `changes` is a file of what the plan has of its own (see
    `improve`)."""
    file.writelines(pieces(Master.open(folder), plan, None if changes is None else TensorFile(changes)))
