"""What is done for a model's accuracy besides cutting it: the publisher's `effort`, on the worker's side.

cut     nothing: a size is a copy of prefixes
refit   work for each size when it is first asked for, kept in the store
tune    one training for all sizes, at ingest
polish  that; then, for each size when it is first asked for, the best of all these trained further on its own
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightrank.models.emit.format import Output
from rightrank.models.emit.precision import written_in
from rightrank.models.errors import DataError
from rightrank.models.improve import polish, ranges, refit, tune
from rightrank.models.improve.choose import improve
from rightrank.models.improve.distill import Recipe
from rightrank.models.improve.mixed import improve_mixed
from rightrank.models.improve.student import check_types
from rightrank.models.measure.metrics import METRICS
from rightrank.models.plan.planner import Plan
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.program.shapes import Classes
from rightrank.models.progress import Progress
from rightrank.service.registry.layout import improved_key, tuning_key
from rightrank.service.registry.model import output_of

if TYPE_CHECKING:
    from rightrank.service.jobs.attempt import Job


def of(options: Mapping[str, Any]) -> str:
    return str(options.get("effort", "cut"))


def check(options: Mapping[str, Any], program: Program, inputs: Samples | None) -> None:
    """Raises DataError where nothing would come of the effort, for a program and its calibration inputs."""
    graph = program.graph
    check_program(options, program)
    if tunes(options) and inputs is not None:
        tune.divided(graph, inputs, recipe(options, tune.RECIPE, True))
    if of(options) == "refit" and graph.batch is not None:
        raise DataError(
            "A network for a fixed number of samples cannot be refit.",
            "Export it with a dynamic batch size, or choose `effort=tune` or `effort=polish`.",
        )


def check_program(options: Mapping[str, Any], program: Program) -> None:
    """Raises DataError where a program, as it was uploaded or simplified, is none that the effort can train."""
    if tunes(options):
        check_types(program)


def kept(options: Mapping[str, Any]) -> int:
    """How many calibration inputs stay in the store, for work on each size; 0 where there is none."""
    return {"refit": refit.INPUTS, "polish": polish.INPUTS}.get(of(options), 0)


def tunes(options: Mapping[str, Any]) -> bool:
    return of(options) in ("tune", "polish")


def recipe(options: Mapping[str, Any], basis: Recipe, tells_classes: Classes) -> Recipe:
    """A training as the options want it. `tune_steps` are those for all sizes: one size takes half of them at each
    rate, as it does without that option (levels see `polish_rounded`); `tune_seconds` bounds each training."""
    steps = options.get("tune_steps", tune.STEPS) * basis.steps // tune.STEPS
    return replace(basis, steps=max(steps, 1), seconds=options.get("tune_seconds"), classes=tells_classes)


def classes(options: Mapping[str, Any], metric: str | None) -> Classes:
    """Whether the network tells classes apart, by the `metric` that it is measured by (None: by none, and then nobody
    knows what stands at each place of an output)."""
    metric = metric or options.get("metric")
    if metric is None:
        return True
    return "places" if METRICS[metric].classes else False


def tuned(
    options: Mapping[str, Any],
    inputs: Samples,
    tells_classes: Classes,
    out: Path,
    state: Path,
    progress: Progress,
    saved: Callable[[], None],
) -> list[dict[str, float]]:
    """Trains the master in `out` on calibration inputs, going on from `state` where that is there; the curve. `saved`
    is called whenever that file has what the training has come to."""
    return tune.tune(
        out, inputs, recipe(options, tune.RECIPE, tells_classes), state=state, progress=progress, saved=saved
    )


def resume(job: Job, state: Path) -> Callable[[], None]:
    """Puts what a killed worker's training has come to into the file `state`, if there is any; what keeps that file in
    the store until the model is there (`forget`)."""
    store, key = job.parts.store, tuning_key(job.model)
    if store.exists(key):
        with store.files({"state": key}) as files:
            shutil.copyfile(files["state"], state)

    def keep() -> None:
        store.replace_file(key, state)
        job.saved()

    return keep


def forget(job: Job) -> None:
    """Removes a training that has come to its end."""
    job.parts.store.delete(tuning_key(job.model))


def improves(options: Mapping[str, Any], plan: Plan) -> bool:
    """Whether a plan gets something of its own."""
    return kept(options) > 0 and (any(plan.ranks) or plan.output.coded)


def improve_plan(manifest: Mapping[str, Any], plan: Plan, folder: Path, made: Path, progress: Progress) -> None:
    """Works out what a plan of the master in `folder` has of its own, and writes it to `made`."""
    plan = replace(plan, output=_numbers(manifest, plan))
    options, baseline = manifest["options"], manifest.get("baseline") or {}
    tells_classes = classes(options, baseline.get("metric"))
    training = recipe(options, polish.RECIPE, tells_classes) if of(options) == "polish" else None
    if plan.output.coded:
        improve_mixed(folder, plan, made, progress, tells_classes, training)
    else:
        improve(folder, plan.ranks, made, progress, tells_classes, training, plan.output)
        if plan.output.arithmetic:
            ranges.add(folder, plan.ranks, made, progress)


def improved_digest(manifest: Mapping[str, Any], plan: Plan) -> str:
    """The identity of what a plan has of its own."""
    return replace(plan, output=_numbers(manifest, plan)).digest


def improvement_key(manifest: Mapping[str, Any], plan: Plan) -> str:
    """Where it lies what a plan has of its own."""
    return improved_key(manifest["id"], improved_digest(manifest, plan))


def _numbers(manifest: Mapping[str, Any], plan: Plan) -> Output:
    return written_in(output_of(manifest), plan.output.encoding)


@contextlib.contextmanager
def improvement(job: Job, plan: Plan, folder: Path, scratch: Path) -> Iterator[Path]:
    """The file of what the plan has of its own. It is made once: another machine would fit other numbers. So is that of
    the same ranks in another precision, where another candidate may be the best. Files of all formats have the same
    numbers: those that are best in TorchScript's."""
    manifest = job.parts.catalogue.open(job.model).manifest
    key = improvement_key(manifest, plan)
    if not job.parts.store.exists(key):
        made = scratch / "improved.safetensors"
        job.allow(manifest["options"].get("tune_seconds", 0))
        improve_plan(manifest, plan, folder, made, job.progress)
        job.parts.store.create_file(key, made)
    with job.parts.store.files({"improved": key}) as files:
        yield files["improved"]
