"""The ingest job: from what was uploaded to a model that can be cut.

The manifest is written last. Until then the model is not there, and a job that dies on the way is done again from the
start, in a folder of its own; one that fails takes what it wrote away with it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from rightrank.models.assemble import early, integers
from rightrank.models.assemble.bound import foreseen
from rightrank.models.assemble.build import build
from rightrank.models.checkpoint import sandbox
from rightrank.models.checkpoint.limits import NOTES, Limits
from rightrank.models.checkpoint.readers import Readers
from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.emit.precision import encoding_in, mixable, precisions, written_in
from rightrank.models.errors import Cancelled
from rightrank.models.master.ranges import RANGES
from rightrank.models.master.rounded import ROUNDED
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Data
from rightrank.service.jobs import cut, effort
from rightrank.service.jobs.attempt import Job
from rightrank.service.problems import Problem
from rightrank.service.registry.catalogue import Record
from rightrank.service.registry.layout import (
    CALIBRATION,
    EVALUATION,
    MADE,
    MASTER,
    MIXED,
    REFERENCE,
    REFIT,
    TOKEN,
    checkpoint_key,
    digests_of,
    record_key,
    upload_key,
    where,
)
from rightrank.service.registry.pieces import digest


def run(job: Job) -> Mapping[str, Any]:
    """Ingests the job's model; the operation's result. Raises what the model's reader and builder raise."""
    id = job.model
    store, catalogue = job.parts.store, job.parts.catalogue
    upload = store.read_json(upload_key(id))
    job.token = (upload or {}).get(TOKEN, "")
    if not catalogue.whole(id):
        if upload is None:
            raise Problem("model-not-found", f"The upload of model {id} is gone.", "Upload it again.")
        with store.folder_for_work() as folder:
            job.allow(upload["options"].get("tune_seconds", 0))
            missing = [sha256 for sha256 in digests_of(upload) if not store.exists(checkpoint_key(sha256))]
            if missing:
                raise Problem("upload-incomplete", "The upload ended early.", "Upload the model again.")
            with temporary_files_in(folder):
                read(job, upload, folder / "program")
            _build(job, upload, folder)
    effort.forget(job)
    published = catalogue.publish_wanted(id)
    notes = {}
    if catalogue.exists(id):
        model = catalogue.open(id)
        job.parts.measure_ahead(model)
        notes = {key: model.manifest[key] for key in ("notes",) if key in model.manifest}
    versions = [{"name": name, "version": version} for name, version in published.items()]
    return {"model": id, "url": f"/models/{id}", **(versions[0] if versions else {}), **notes}


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Meanwhile, what this process puts into temporary files goes away with `folder`, even if it is killed."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _build(job: Job, upload: Mapping[str, Any], folder: Path) -> None:
    folder_of_program, out, options = folder / "program", folder / "master", upload["options"]
    program = Program.open(folder_of_program)
    calibration = _data(program, folder_of_program / CALIBRATION)
    effort.check(options, program, None if calibration is None else calibration.samples)
    # The evaluation data may be large, and are not wanted again before there is a file to measure.
    metric = early.check(program, _data(program, folder_of_program / EVALUATION), calibration, options.get("metric"))
    has_data = (folder_of_program / EVALUATION).exists()
    tells_classes = effort.classes(options, metric)
    keep = effort.kept(options)

    def accept(smaller: Program, template: Template) -> None:
        effort.check_program(options, smaller)
        if "precision" in options:
            encoding_in(precisions(template, mixable(template)), options["precision"], template)
        for format in options.get("formats", ()):
            output = Output(format, formats.newest()[format])
            written = formats.format_of(output)
            # What others make can be told here all the same, and of a layer whatever form it will have.
            if written.separate or not written.available():
                formats.offered(replace(template, layers=()), False, output)
        job.note = foreseen(template)

    description = build(
        program,
        out,
        None if calibration is None else calibration.samples,
        criterion=options.get("criterion"),
        keep=keep,
        classes=tells_classes,
        accept=accept,
        progress=job.progress,
    )
    if effort.tunes(options):
        assert calibration is not None  # uploads without are refused
        state = folder / "tuning.safetensors"
        description["tuned"] = effort.tuned(job, options, calibration.samples, tells_classes, out, state)
        # What the training has changed reaches other values.
        integers.save(out, calibration.samples, job.progress)
    if has_data:
        (folder_of_program / EVALUATION).rename(out / EVALUATION)
    planner = Planner.open(out, formats.latest())
    cutter = cut.Cutter(out, options.get("metric"), job.progress, first=True)
    original = cutter.cut(planner.plan(budget=1), folder / "original.pt")
    cutter.check(planner.smallest, folder / "smallest.pt")
    if "precision" in options:
        found = precisions(planner.template, planner.mixture is not None)
        encoding = encoding_in(found, options["precision"], planner.template)
        chosen = planner.written_as(written_in(planner.output, encoding))
        for plan in (chosen.largest, chosen.smallest):
            cutter.check(plan, folder / "chosen.pt")
    job.progress("store", 0, 1, "models")
    names = [*MASTER, *([EVALUATION] if has_data else []), *([REFIT] if keep else [])]
    names += [name for name in (REFERENCE, ROUNDED, RANGES, *MIXED) if (out / name).exists()]
    manifest = {
        **upload,
        **description,
        **_notes(folder_of_program, description),
        TOKEN: upload.get(TOKEN, ""),
        "folder": f"{MADE}/{uuid.uuid4().hex}",
        "files": {name: {"sha256": digest(out / name), "size": (out / name).stat().st_size} for name in names},
        "created": time.time(),
        "baseline": original.measurement,
        "writers": formats.newest(),
    }
    _store(job, manifest, out, original, folder / "original.pt")


def _data(program: Program, file: Path) -> Data | None:
    """The data that the reader left in a file, if it left any."""
    return Data.stored(program.graph, load_file(file)) if file.exists() else None


def _notes(program: Path, description: Mapping[str, Any]) -> dict[str, list[str]]:
    """What there is to know of the reading, and of the model, as a member of the manifest; nothing where there is
    nothing."""
    path = program / NOTES
    read = json.loads(path.read_bytes()) if path.exists() else []
    notes = [str(note) for note in [*read, *description.get("notes", [])]]
    return {"notes": notes} if notes else {}


def _store(job: Job, manifest: Mapping[str, Any], out: Path, original: Record, file: Path) -> None:
    """Puts the model's files where no other attempt writes, and then, if the operation and the upload are still those
    that they were, its manifest."""
    id, store, catalogue = job.model, job.parts.store, job.parts.catalogue
    ours = False
    try:
        for name in manifest["files"]:
            store.create_file(f"{where(manifest)}/{name}", out / name)
        original = cut.keep(job, original, file)
        store.create_json(record_key(id, original.plan.digest), original.to_json())
        with catalogue.changing(id):
            job.hold()
            ours = True  # whatever the store answers: what it was asked for may still come about
            try:
                ours = catalogue.establish(id, manifest)
            except Cancelled:
                ours = False
                raise
    finally:
        if not ours:
            with contextlib.suppress(Exception):
                store.delete(*store.keys(where(manifest)))


def read(job: Job, upload: Mapping[str, Any], program: Path) -> None:
    """Reads the upload's files in the sandbox; the program and its data are then in `program`."""
    store, settings = job.parts.store, job.parts.settings
    program.mkdir()
    job.progress("read", 0, 1, "models")
    roles = {role: upload[role] for role in ("checkpoint", "evaluation", "calibration") if upload[role]}
    readers = job.readers or Readers(program.parent)
    keys = {role: checkpoint_key(sha) for role, sha in roles.items()}
    with job.killing(readers.kill), store.files(keys, roles) as files:
        sandbox.prepare(
            files["checkpoint"],
            program,
            architecture=upload["architecture"],
            evaluation=files.get("evaluation"),
            calibration=files.get("calibration"),
            limits=Limits(settings.reader_memory, settings.reader_seconds, settings.reader_tensors),
            required=settings.sandbox_required,
            readers=readers,
        )
    job.progress("read", 1, 1, "models")
