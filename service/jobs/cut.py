"""The cut job: from a plan to its artifact in the cache, and to its measurement in the store."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rightrank.models.emit import formats
from rightrank.models.improve.choose import method_of
from rightrank.models.master.ranges import RANGES
from rightrank.models.master.rounded import ROUNDED
from rightrank.models.master.template import Template
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.progress import Progress
from rightrank.service.jobs import effort
from rightrank.service.jobs.attempt import Job
from rightrank.service.jobs.dispatch import Parts, cut_result
from rightrank.service.problems import Problem
from rightrank.service.registry.catalogue import Record
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
from rightrank.service.registry.pieces import digest

log = logging.getLogger("rightrank")


@dataclass(frozen=True)
class Cutter:
    """Cuts and measures one master, in the local folder that holds it and its evaluation data, if any."""

    folder: Path
    metric: str | None
    progress: Progress
    # Whether it is the model's first, and keeps what later ones compare with.
    first: bool = False

    def cut(self, plan: Plan, path: Path, known: Record | None = None, improved: Path | None = None) -> Record:
        """Writes the plan's artifact to `path`, and measures those very bytes unless they are `known`.

        `improved`: what the plan has of its own (see `improve.choose`).
        """
        self.progress("cut", 0, 1, "models")
        with open(path, "wb") as file:
            formats.write(self.folder, plan, file, improved)
        sha256, size = digest(path), path.stat().st_size
        if not formats.as_planned(plan, size):
            raise RuntimeError(f"plan {plan.digest} was to take {plan.bytes} bytes and takes {size}")
        if known is not None and known.sha256 == sha256:
            return known
        if plan.original:
            # Once, so that no model is published whose files cannot be opened.
            formats.format_of(plan.output).load(path)
        method = self._method(plan, improved)
        return Record(plan, sha256, size, self._measure(plan, path), method)

    def check(self, plan: Plan, path: Path) -> None:
        """Opens the plan's file, which is at `path` for a while. Raises UnsupportedCheckpoint where that fails."""
        with open(path, "wb") as file:
            formats.write(self.folder, plan, file)
        formats.format_of(plan.output).load(path)
        path.unlink()

    def _method(self, plan: Plan, improved: Path | None) -> str:
        """How a plan is made: "original", "reduced" (zero channels removed, nothing else), "rounded" (the whole network
        in another precision), "cut", "tuned", or what `improved` says."""
        if plan.original or (plan.reduced and plan.output.exact):
            return "original" if plan.original else "reduced"
        if improved is not None:
            return method_of(improved)
        if plan.reduced:
            return "rounded"
        tuned = not plan.output.coded and Template.open(self.folder).knot(plan.ranks) is not None
        return "tuned" if tuned else "cut"

    def _measure(self, plan: Plan, path: Path) -> Mapping[str, Any] | None:
        """What the file of a plan is worth; None without data, and where that is not a finite number. Raises
        DataError where it is the original that has no numbers to compare with."""
        evaluation, reference = self.folder / EVALUATION, self.folder / REFERENCE
        if not evaluation.exists():
            return None
        first, graph = self.first and plan.original, Template.open(self.folder).graph
        with self._original(plan, path, not first and not reference.exists()) as original:
            found = measure(
                path,
                evaluation,
                metric=self.metric,
                original=original,
                reference=reference if reference.exists() else None,
                keep=reference if first else None,
                output=plan.output,
                graph=graph,
                batch=graph.batch,
                progress=self.progress,
            )
        if not math.isfinite(found.value):
            log.warning("plan %s has a %s of %s: it stays unmeasured", plan.digest, found.metric, found.value)
            return None
        return found.to_json()

    @contextlib.contextmanager
    def _original(self, plan: Plan, path: Path, wanted: bool) -> Iterator[Path | None]:
        """The original's file beside that at `path`, for a while."""
        if not wanted:
            yield None
            return
        original = path.with_suffix(".original")
        with open(original, "wb") as file:
            formats.write(self.folder, Planner.open(self.folder, plan.output.plain).largest, file)
        try:
            yield original
        finally:
            original.unlink()


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
        if improves and (any(plan.ranks) or plan.output.coded):
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


def metric_of(manifest: Mapping[str, Any]) -> str | None:
    """What a model is measured by: as its original was, whatever data of that kind would be taken for today."""
    chosen = (manifest.get("baseline") or {}).get("metric") or manifest["options"].get("metric")
    return None if chosen is None else str(chosen)


def keep(job: Job, record: Record, path: Path) -> Record:
    """Puts the artifact where the API finds it: in the cache, or in the store where it is too large for that."""
    if job.parts.cache.put(job.model, record.plan.digest, record.sha256, path):
        return replace(record, stored=False)
    job.parts.store.create_artifact(artifact_key(job.model, record.plan), path)
    return replace(record, stored=True)
