"""Cuts one master in a local folder, and measures what it has cut. Knows no queue, no cache and no store."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rightrank.models.emit import formats
from rightrank.models.improve.choose import method_of
from rightrank.models.master.template import Template
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.progress import Progress
from rightrank.service.registry.layout import EVALUATION, REFERENCE
from rightrank.service.registry.model import Record
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


def metric_of(manifest: Mapping[str, Any]) -> str | None:
    """What a model is measured by: as its original was, whatever data of that kind would be taken for today."""
    chosen = (manifest.get("baseline") or {}).get("metric") or manifest["options"].get("metric")
    return None if chosen is None else str(chosen)
