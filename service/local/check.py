"""Whether the service would take an upload, and what it would make of it, found out without making it, or by that."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rightrank.models import card
from rightrank.models.assemble.build import Prepared, prepare, try_gradient
from rightrank.models.assemble.computable import possible
from rightrank.models.assemble.describe import describe
from rightrank.models.assemble.outline import alone, outline
from rightrank.models.checkpoint.limits import FILES
from rightrank.models.emit import formats
from rightrank.models.emit.format import FIRST, Output
from rightrank.models.emit.formats import FORMATS
from rightrank.models.emit.precision import ARITHMETIC, MIXED, mixable, precisions
from rightrank.models.errors import FormatError, PrecisionError
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.progress import Progress
from rightrank.service.jobs import effort
from rightrank.service.jobs.cutter import Cutter
from rightrank.service.jobs.make import Reading
from rightrank.service.local.kept import Kept, build
from rightrank.service.local.taken import Given
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import EVALUATION
from rightrank.service.registry.model import Model, in_precision, least_of

# Of what a manifest has, what says only who, when and from which files.
NOT_SAID = ("id", *FILES, "architecture", "options", "card", "filename", "size", "files", "writers", "created")


def check(given: Given, progress: Progress, exact: bool = False) -> dict[str, Any]:
    """What the service would say of the model that it made of an upload. With evaluation data the original is measured.

    `exact`: it is made, as the service makes it, and thrown away. Otherwise what would become of it is told as far as
    shapes do (see `assemble.outline`), and `undecided` says what is not: the form of some layers; whether there are
    some precisions, or how large files are in them; and the last bytes of the smallest files, which hang on which layer
    is cut first.

    Raises whatever the service would refuse the upload with.
    """
    with tempfile.TemporaryDirectory(prefix="rightrank-") as name:
        return (_made if exact else _outlined)(given, Path(name), progress)


def _made(given: Given, folder: Path, progress: Progress) -> dict[str, Any]:
    made = build(given, given.identified(), folder, progress, lambda note: None)
    model, planner = Kept.open(made).model, Planner.open(made, formats.latest())
    return {
        "file": str(given.checkpoint),
        "notes": [],
        **{name: fact for name, fact in model.manifest.items() if name not in NOT_SAID},
        "outputs": _outputs(Program.open(folder / "program")),
        **_sizes(model, planner, planner.mixture is not None),
        "undecided": {"forms": [], "precisions": [], "smallest": False},
    }


def _outlined(given: Given, folder: Path, progress: Progress) -> dict[str, Any]:
    upload = given.described()
    reading = given.read(upload, folder / "program", progress)
    options = upload["options"]
    ready = prepare(
        reading.program,
        reading.calibration,
        criterion=options.get("criterion"),
        keep=effort.kept(options),
        card=card.written(reading.card),
        accept=reading.accept,
        progress=progress,
    )
    if reading.calibration is not None and "criterion" in options:
        try_gradient(ready, reading.calibration)
    forms = outline(ready, folder / "outline", progress)
    measured = _whole(reading, ready, folder, progress)
    planner = Planner.open(folder / "outline", formats.latest())
    described = describe(planner)
    manifest = {"id": "", "options": options, "writers": formats.newest(), "baseline": measured, **described}
    model = Model.open(folder / "outline", "", manifest, "")
    found = _sizes(model, planner, mixable(planner.template))
    integers = list(ARITHMETIC) if reading.calibration is not None and possible(planner.template) else []
    levels = [MIXED] if mixable(planner.template) else []
    undecided = {"forms": forms, "precisions": [*levels, *integers], "smallest": bool(planner.template.decomposed)}
    return {
        "file": str(given.checkpoint),
        **described,
        "outputs": _outputs(reading.program),
        **ready.reports,
        "baseline": measured,
        **found,
        "notes": [*reading.notes, *described.get("notes", [])],
        "undecided": undecided,
    }


def _whole(reading: Reading, ready: Prepared, folder: Path, progress: Progress) -> Mapping[str, Any] | None:
    """What the original is measured to be, if there are data; its file is opened in any case. Raises what says that it
    cannot be."""
    whole, options = folder / "whole", reading.options
    alone(ready, reading.program, whole)
    if reading.evaluated:
        (reading.folder / EVALUATION).rename(whole / EVALUATION)
    planner = Planner.open(whole, formats.latest())
    cutter = Cutter(whole, options.get("metric"), progress, first=True)
    record = cutter.cut(planner.plan(budget=1), folder / "original.pt")
    return record.measurement


def _sizes(model: Model, planner: Planner, mixed: bool) -> dict[str, Any]:
    """What files can be had, of levels, too, where these are `mixed`; and how large they are."""
    found = precisions(planner.template, mixed)
    chosen = str(model.manifest["options"].get("precision", next(iter(found))))
    known = chosen != MIXED or planner.mixture is not None
    return {
        "precision": chosen,
        **({"min_budget": least_of(model.planner)} if known else {}),
        "precisions": [_in_precision(model, planner, precision) for precision in found],
        "formats": list(_in_formats(model, planner, mixed)),
    }


def _in_precision(model: Model, planner: Planner, precision: str, format: str = FIRST.format) -> Mapping[str, Any]:
    """How large files are in a precision; None where only levels tell it, and there are none."""
    if precision == MIXED and planner.mixture is None:
        return {"precision": precision, "bytes": None, "smallest": None, "min_budget": None}
    return in_precision(model, precision, format)


def _in_formats(model: Model, planner: Planner, mixed: bool) -> Iterator[Mapping[str, Any]]:
    for name in FORMATS:
        facts = formats.about(name)
        try:
            model.precisions_in(name)  # raises where there are none here
            found = formats.offered(planner.template, mixed, Output(name, formats.newest()[name]))
            sizes = [_in_precision(model, planner, precision, name) for precision in found]
        except (FormatError, PrecisionError, Problem) as error:
            yield {**facts, "precisions": [], "sizes": [], "reason": f"{error.detail} {error.hint}".strip()}
        else:
            yield {**facts, "precisions": list(found), "sizes": sizes, "reason": None}


def _outputs(program: Program) -> list[dict[str, Any]]:
    """The shapes of the outputs, None where they depend on how many samples there are."""
    two = program.shapes
    if program.graph.batch is not None:
        return [{"shape": list(two[value])} for value in program.graph.outputs]
    three = program.shapes_for(program.example(3, "meta"))
    pairs = [(two[value], three.get(value, two[value])) for value in program.graph.outputs]
    return [{"shape": [a if a == b else None for a, b in zip(one, other, strict=True)]} for one, other in pairs]
