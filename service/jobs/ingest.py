"""The ingest job: from what was uploaded to a model that can be cut.

The manifest is written last. Until then the model is not there, and a job that dies on the way is done again from the
start, in a folder of its own; one that fails takes what it wrote away with it.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rightrank.models.checkpoint import sandbox
from rightrank.models.checkpoint.limits import FILES, Limits
from rightrank.models.errors import Cancelled
from rightrank.service.jobs import cut, effort
from rightrank.service.jobs.attempt import Job
from rightrank.service.jobs.make import Reading, make
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import (
    MADE,
    TOKEN,
    checkpoint_key,
    digests_of,
    record_key,
    upload_key,
    where,
)
from rightrank.service.registry.model import Record


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
    def noted(text: str | None) -> None:
        job.note = text

    state = folder / "tuning.safetensors"
    saved = effort.resume(job, state) if effort.tunes(upload["options"]) else None
    made = make(upload, Reading.open(folder / "program", upload), folder, job.progress, noted, state, saved)
    job.progress("store", 0, 1, "models")
    manifest = {
        **made.manifest,
        TOKEN: upload.get(TOKEN, ""),
        "folder": f"{MADE}/{uuid.uuid4().hex}",
        "created": time.time(),
    }
    _store(job, manifest, made.folder, made.original, made.file)


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
    roles = {role: upload[role] for role in FILES if upload[role]}
    keys = {role: checkpoint_key(sha) for role, sha in roles.items()}
    with job.killing(job.readers.kill), store.files(keys, roles) as files:
        sandbox.prepare(
            files["checkpoint"],
            program,
            architecture=upload["architecture"],
            evaluation=files.get("evaluation"),
            calibration=files.get("calibration"),
            limits=Limits(settings.reader_memory, settings.reader_seconds, settings.reader_tensors),
            required=settings.sandbox_required,
            readers=job.readers,
        )
    job.progress("read", 1, 1, "models")
