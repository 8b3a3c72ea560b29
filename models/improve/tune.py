"""Tune: one training, without labels, after which every prefix of a master works (ours).

At each step the networks at drawn budgets learn from the uploaded one (see `student`), through one set of
factors that all sizes share. What their batch norms come to is stored for a number of sizes, the *knots*, so that
a cut stays a copy. On inputs held back it is then found up to which size the tuned factors are better than the
plain cut; above that size the cut is kept. The original's own tensors stay as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.emit import rounded
from rightrank.models.errors import DataError
from rightrank.models.improve.distill import Draw, Recipe, Training, device_of
from rightrank.models.improve.student import Student
from rightrank.models.master import entries
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template, Tuned
from rightrank.models.master.variant import all_factors, variant
from rightrank.models.measure.nearness import nearness
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.graph import Graph
from rightrank.models.program.samples import Samples
from rightrank.models.progress import Progress

STEPS, STUDENTS, RATE = 600, 2, 5e-3
# A network of so many layers in a row takes that rate, a deeper one less, with the square of its depth: 14 layers, and
# 26 of a transformer, learn well with it; 56, then by Adam, lost 8 points at half of their parameters, with a quarter
# of it 2.4.
DEEP = 28
# Budgets are drawn between these, evenly by their logarithm.
SMALLEST, LARGEST = 0.05, 0.6
# So many sizes have batch-norm statistics of their own; at every fourth the tuned factors are compared with the cut. At
# a tenth of ResNet-14 statistics of a plan 8 % smaller cost 5 points, hence not fewer.
KNOTS, EACH = 96, 4
HELD, STATISTICS = 512, 512
SAVE_EVERY = 25
RECIPE = Recipe(steps=STEPS, students=STUDENTS, rate=RATE)


def tune(
    folder: Path,
    inputs: Samples,
    recipe: Recipe,
    *,
    state: Path,
    progress: Progress,
    saved: Callable[[], None] = lambda: None,
    largest: float = LARGEST,
    sizes: int = KNOTS,
    device: str | None = None,
) -> list[dict[str, float]]:
    """Tune the master in `folder` on calibration `inputs`; what each knot came to.

    A deep network learns at a lower rate than the recipe's (`slower`). `state` is where the training is kept from
    time to time, and `saved` called each time; if it exists already, the training is taken up there. `sizes` is how
    many knots there are at most.
    For the knots compared: parameters, and how far the outputs are from the original's on inputs held back, for
    the `cut` and `tuned`. Raises DataError where the data are too few or the program is not float32.
    """
    planner, master = Planner.open(folder), Master.open(folder)
    template, stored = planner.template, master.tensors()
    held, data, batch = divided(template.graph, inputs, recipe)
    original = master.program(stored)
    factors = all_factors(template, stored)
    student = Student(template, original, factors, device_of(device))
    training = Training(student, dataclasses.replace(recipe, rate=recipe.rate * slower(depth(template))))
    _load(training, state)

    def after() -> None:
        if training.done % SAVE_EVERY == 0 or training.done == recipe.steps:
            _save(training, state)
            saved()

    def draw(generator: torch.Generator) -> Draw:
        share = most * (least / most) ** float(torch.rand((), generator=generator))
        return template.by_weight(planner.plan(max_params=math.ceil(share * template.params)).ranks), share

    least = min(max(SMALLEST, planner.smallest.params / template.params), 1.0)
    most = max(largest, least)
    training.go(data, batch, draw, lambda done: progress("tune", done, recipe.steps, "steps"), after)
    progress("tune", recipe.steps, recipe.steps, "steps")
    knots = _knots(planner, sizes)
    measure = nearness(original, held, batch, recipe.classes)
    lessons = [
        student.teach(images) for images in student.answered(data[:STATISTICS], batch, recipe.classes).batches(batch)
    ]
    tables: list[dict[str, Tensor]] = []
    curve = []
    for index, knot in enumerate(knots):
        progress("settle", index, len(knots), "sizes")
        ranks = template.by_weight(knot.ranks)
        tables.append(student.statistics(ranks, lessons))
        if index % EACH:
            continue
        tuned = {name: value.detach().cpu() for name, value in student.program(ranks).tensors.items()} | tables[-1]
        programs = [variant(template, stored, knot.ranks).program(), original.with_tensors(tuned)]
        errors = measure.distances(original, programs, held, batch)
        curve.append({"params": knot.params, "cut": errors[0], "tuned": errors[1]})
    learnt = student.learnt()
    whole = {name: value.detach().cpu().contiguous() for name, value in student.program().tensors.items()}
    sides = {entries.factor(side, layer.name) for layer in template.decomposed for side in layer.form.sides}
    learnt |= {layer.weight: whole[layer.weight] for layer in template.decomposed}
    found = {entries.tuned(name): tensor for name, tensor in learnt.items()}
    if tables:
        found |= {entries.knots(name): torch.stack([table[name] for table in tables]) for name in tables[0]}
    save_file({**stored, **found}, folder / entries.MASTER)
    tuned_template = dataclasses.replace(
        template,
        tuned=Tuned(
            below=_threshold(curve),
            knots=tuple(knot.params for knot in knots),
            tensors=frozenset(learnt.keys() - sides),
            statistics=frozenset(tables[0] if tables else ()),
        ),
    )
    tuned_template.save(folder)
    if template.rounded:
        rounded.save(folder)
    progress("settle", len(knots), len(knots), "sizes")
    return curve


def depth(template: Template) -> int:
    """How many calls of layers that are cut lie behind one another at most."""
    calls = {call for layer in template.decomposed for call in layer.calls}
    behind: dict[str, int] = {}
    for node in template.graph.nodes:
        deepest = max((behind.get(name, 0) for name in node.inputs()), default=0)
        behind |= dict.fromkeys(node.outputs, deepest + (node.name in calls))
    return max(behind.values(), default=0)


def slower(depth: int) -> float:
    """The share of the rate that a network so deep takes."""
    return min(1.0, (DEEP / max(depth, 1)) ** 2)


def divided(graph: Graph, inputs: Samples, recipe: Recipe) -> tuple[Samples, Samples, int]:
    """Calibration inputs that are held back, those to learn from, and how many of them make a batch.

    Raises DataError where they are too few for a training.
    """
    count = min(len(inputs) // 5, HELD)
    batch = graph.batch or recipe.batch
    if batch < 2:
        raise DataError("A program for single samples cannot be tuned.", "Export it with a dynamic batch size.")
    if len(inputs) - count < batch or count < batch:
        raise DataError(f"Tuning needs at least {5 * batch} calibration inputs.", "Upload more; labels are not used.")
    return inputs[:count], inputs[count:], batch


def _knots(planner: Planner, count: int) -> list[Plan]:
    """Plans at evenly spaced ratios of parameters, the smallest first; none of them leaves all layers dense."""
    least, whole = planner.smallest.params, planner.template.params
    sizes = [math.ceil(least * (whole / least) ** (step / count)) for step in range(count)]
    plans = {plan.digest: plan for size in sizes if any((plan := planner.plan(max_params=size)).ranks)}
    return sorted(plans.values(), key=lambda plan: plan.params)


def _threshold(curve: Sequence[Mapping[str, float]]) -> int:
    """The parameters up to which the tuned factors are used: where that makes the errors least, in ratio."""
    gains = [_logarithm(point["cut"]) - _logarithm(point["tuned"]) for point in curve]
    best, total, below = 0.0, 0.0, 0
    for point, gain in zip(curve, gains, strict=True):
        total += gain
        if total > best:
            best, below = total, int(point["params"])
    return below


def _logarithm(error: float) -> float:
    """Of an error that may be nothing, or infinite."""
    return math.log(min(max(error, 1e-12), 1e12))


def _save(training: Training, path: Path) -> None:
    tensors = {f"value/{key}": value for key, value in training.student.state().items()}
    for key, value in training.student.parameters.items():
        tensors |= {f"{name}/{key}": each.cpu() for name, each in training.state_of(value).get(value, {}).items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"done": str(training.done), "spent": str(training.spent), "kind": _kind(training)})
    partial.replace(path)


def _kind(training: Training) -> str:
    """Everything that two trainings have in common if one can go on where the other was."""
    shapes = {key: tuple(value.shape) for key, value in training.student.parameters.items()}
    optimizers = [f"{type(each).__name__}: {each.defaults}" for each in training.optimizers]
    return f"{training.recipe}, {optimizers}, {shapes}"


def _load(training: Training, path: Path) -> None:
    """Takes up a training kept at `path`; one that is not there, or was of another kind, starts at the beginning."""
    if not path.exists():
        return
    with safe_open(path, "pt") as file:
        about = file.metadata()
    if about.get("kind") != _kind(training):
        return
    training.done, training.spent = int(about["done"]), float(about["spent"])
    moments: dict[str, dict[str, Tensor]] = {}
    for name, each in load_file(path).items():
        kind, key = name.split("/", 1)
        moments.setdefault(key, {})[kind] = each
    with torch.no_grad():
        for key, value in training.student.parameters.items():
            value.copy_(moments[key].pop("value"))
            # Adam's count of steps stays on the CPU.
            kept = {kind: each if kind == "step" else each.to(value.device) for kind, each in moments[key].items()}
            if kept:
                training.state_of(value)[value] = kept
