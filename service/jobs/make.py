"""From what was read of an upload to its master and its manifest, in a local folder. Knows no queue and no store: the
service's ingest does it, and so does who has no service."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from rightrank.models import card
from rightrank.models.assemble import early, integers
from rightrank.models.assemble.bound import foreseen
from rightrank.models.assemble.build import build
from rightrank.models.checkpoint.limits import NOTES
from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.emit.precision import encoding_in, mixable, precisions, written_in
from rightrank.models.master.ranges import RANGES
from rightrank.models.master.rounded import ROUNDED
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Data, Samples
from rightrank.models.progress import Progress
from rightrank.service.jobs import effort
from rightrank.service.jobs.cutter import Cutter
from rightrank.service.registry.layout import CALIBRATION, EVALUATION, MASTER, MIXED, REFERENCE, REFIT
from rightrank.service.registry.model import Record
from rightrank.service.registry.pieces import digest


@dataclass(frozen=True)
class Reading:
    """What the reader left of an upload in a folder (see `sandbox.prepare`), and what it is measured by on its
    evaluation data, if it has any."""

    folder: Path
    options: Mapping[str, Any]
    card: Mapping[str, Any]
    program: Program
    calibration: Samples | None
    metric: str | None

    @staticmethod
    def open(folder: Path, upload: Mapping[str, Any]) -> Reading:
        """Of what an upload says. Raises DataError where program, data, card and options do not go together, before any
        work."""
        program, options, said = Program.open(folder), upload["options"], upload.get("card", {})
        calibration = _data(program, folder / CALIBRATION)
        inputs = None if calibration is None else calibration.samples
        effort.check(options, program, inputs)
        # The evaluation data may be large, and are not wanted again before there is a file to measure.
        metric = early.check(program, _data(program, folder / EVALUATION), calibration, options.get("metric"))
        early.check_card(program, said, metric)
        return Reading(folder, options, said, program, inputs, metric)

    @property
    def evaluated(self) -> bool:
        """Whether there are evaluation data."""
        return (self.folder / EVALUATION).exists()

    @property
    def notes(self) -> list[str]:
        """What there is to know of the reading."""
        path = self.folder / NOTES
        return [str(note) for note in json.loads(path.read_bytes())] if path.exists() else []

    def accept(self, smaller: Program, template: Template) -> None:
        """Raises what is wrong with the program that is to be decomposed, for what the options ask."""
        options = self.options
        effort.check_program(options, smaller)
        if "precision" in options:
            encoding_in(precisions(template, mixable(template)), options["precision"], template)
        for format in options.get("formats", ()):
            output = Output(format, formats.newest()[format])
            written = formats.format_of(output)
            # What others make can be told here all the same, and of a layer whatever form it will have.
            if written.separate or not written.available():
                formats.offered(replace(template, layers=()), False, output)


@dataclass(frozen=True)
class Made:
    """A master in a folder, all of its manifest but when and for whom it was made, and the original's cut in a file."""

    folder: Path
    manifest: Mapping[str, Any]
    original: Record
    file: Path


def make(
    upload: Mapping[str, Any],
    reading: Reading,
    folder: Path,
    progress: Progress,
    noted: Callable[[str | None], None],
    state: Path,
    saved: Callable[[], None] | None = None,
) -> Made:
    """Makes the master of an upload in `folder`. `noted` is called with what is to know of the model (None: nothing)
    before it is decomposed. A training goes on from the file `state`, if that is there, and calls `saved` when it has
    put into it what it has come to. Raises what models' builder raises."""
    program, calibration, options, out = reading.program, reading.calibration, reading.options, folder / "master"
    keep = effort.kept(options)
    tells_classes = effort.classes(options, reading.metric)

    def accept(smaller: Program, template: Template) -> None:
        reading.accept(smaller, template)
        noted(foreseen(template))

    description = build(
        program,
        out,
        calibration,
        criterion=options.get("criterion"),
        keep=keep,
        classes=tells_classes,
        card=card.written(reading.card),
        accept=accept,
        progress=progress,
    )
    if effort.tunes(options):
        assert calibration is not None  # uploads without are refused
        description["tuned"] = effort.tuned(
            options, calibration, tells_classes, out, state, progress, saved or (lambda: None)
        )
        # What the training has changed reaches other values.
        integers.save(out, calibration, progress)
    has_data = reading.evaluated
    if has_data:
        (reading.folder / EVALUATION).rename(out / EVALUATION)
    planner = Planner.open(out, formats.latest())
    cutter = Cutter(out, options.get("metric"), progress, first=True)
    original = cutter.cut(planner.plan(budget=1), folder / "original.pt")
    cutter.check(planner.smallest, folder / "smallest.pt")
    if "precision" in options:
        found = precisions(planner.template, planner.mixture is not None)
        encoding = encoding_in(found, options["precision"], planner.template)
        chosen = planner.written_as(written_in(planner.output, encoding))
        for plan in (chosen.largest, chosen.smallest):
            cutter.check(plan, folder / "chosen.pt")
    names = [*MASTER, *([EVALUATION] if has_data else []), *([REFIT] if keep else [])]
    names += [name for name in (REFERENCE, ROUNDED, RANGES, *MIXED) if (out / name).exists()]
    notes = [*reading.notes, *description.get("notes", [])]
    manifest = {
        **upload,
        **description,
        **({"notes": notes} if notes else {}),
        "files": {name: {"sha256": digest(out / name), "size": (out / name).stat().st_size} for name in names},
        "baseline": original.measurement,
        "writers": formats.newest(),
    }
    return Made(out, manifest, original, folder / "original.pt")


def _data(program: Program, file: Path) -> Data | None:
    """The data that the reader left in a file, if it left any."""
    return Data.stored(program.graph, load_file(file)) if file.exists() else None
