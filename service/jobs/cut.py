"""The cut job: from a plan to its artifact in the cache, and to its measurement in the store."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rightrank.models.emit import formats
from rightrank.models.master.ranges import RANGES
from rightrank.models.master.rounded import ROUNDED
from rightrank.models.plan.planner import Plan
from rightrank.service.jobs import effort
from rightrank.service.jobs.attempt import Job
from rightrank.service.jobs.cutter import Cutter, metric_of
from rightrank.service.jobs.dispatch import Parts, cut_result
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import (
    EVALUATION,
    MASTER,
    MIXED,
    REFERENCE,
    REFIT,
    artifact_key,
    digests_in,
    manifest_key,
    record_key,
)
from rightrank.service.registry.model import Record

log = logging.getLogger("rightrank")


def run(job: Job) -> Mapping[str, Any]:
    """Cuts the job's plan; the operation's result. Raises `Problem` where the model has gone."""
    id, parts = job.model, job.parts
    model = parts.catalogue.open(id)
    manifest, plan = model.manifest, Plan.from_json(job.details["plan"])
    known = parts.catalogue.record(id, plan.digest)
    if known is not None and _there(job, known):
        # Asked for just as another attempt was ending.
        job.outcome = "unneeded"
        return cut_result(id, known.plan, known.sha256, known.size, model.named(plan))
    record = None
    try:
        record = _cut(job, manifest, plan, known)
    except FileNotFoundError:
        if _same(parts, manifest):
            raise
    if record is None or not _same(parts, manifest):
        # Deleted meanwhile: what this job wrote after that must not stay. What else is there by now belongs
        # to the same model uploaded again.
        parts.store.delete(record_key(id, plan.digest), artifact_key(id, plan), effort.improvement_key(manifest, plan))
        parts.catalogue.forget(id)
        raise Problem("model-not-found", f"The model {id} was deleted while it was being cut.")
    return cut_result(id, plan, record.sha256, record.size, model.named(plan))


def _same(parts: Parts, manifest: Mapping[str, Any]) -> bool:
    """Whether the model is still the one that was opened."""
    now = parts.store.read_json(manifest_key(manifest["id"]))
    return now is not None and now["created"] == manifest["created"]


def _there(job: Job, known: Record) -> bool:
    """Whether the very artifact that is known lies where the API finds it."""
    if known.stored:
        return job.parts.store.exists(artifact_key(job.model, known.plan))
    found = job.parts.cache.find(job.model, known.plan.digest)
    return found is not None and found.sha256 == known.sha256


def _cut(job: Job, manifest: Mapping[str, Any], plan: Plan, known: Record | None) -> Record:
    """Makes the plan's artifact and puts it, with its record, where the API finds them. Raises FileNotFoundError
    where the model is deleted under its hands."""
    id, parts = job.model, job.parts
    improves = effort.kept(manifest["options"]) > 0
    names = [*MASTER, *([EVALUATION] if manifest["evaluation"] else []), *([REFIT] if improves else [])]
    names += [REFERENCE] if REFERENCE in digests_in(manifest) else []
    names += MIXED if plan.output.coded else []
    names += [ROUNDED] if plan.output.nested else []
    names += [RANGES] if plan.output.arithmetic else []
    with contextlib.ExitStack() as open_files:
        folder = open_files.enter_context(parts.catalogue.folder(manifest, tuple(names)))
        scratch = open_files.enter_context(parts.store.folder_for_work())
        cutter = Cutter(folder, metric_of(manifest), job.progress)
        path = scratch / f"artifact{formats.format_of(plan.output).suffix}"
        improved = None
        if effort.improves(manifest["options"], plan):
            improved = open_files.enter_context(effort.improvement(job, plan, folder, scratch))
        record = cutter.cut(plan, path, known, improved)
        if known is not None and record is not known:
            log.warning("plan %s of model %s has other bytes than it had; measured anew", plan.digest, id)
        record = keep(job, record, path)
        if known is not None and record != known:
            parts.store.delete(record_key(id, plan.digest))
            parts.catalogue.forget_record(id, plan.digest)
        parts.store.create_json(record_key(id, plan.digest), record.to_json())
    return record


def keep(job: Job, record: Record, path: Path) -> Record:
    """Puts the artifact where the API finds it: in the cache, or in the store where it is too large for that."""
    if job.parts.cache.put(job.model, record.plan.digest, record.sha256, path):
        return replace(record, stored=False)
    job.parts.store.create_artifact(artifact_key(job.model, record.plan), path)
    return replace(record, stored=True)
