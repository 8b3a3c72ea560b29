"""Which criterion suits a network: tried on calibration inputs, decided on others that are held back for it.

Gradients of the outputs (`logit`) and of the loss (`fisher`) value the bases alike on most networks, and now the
one, now the other keeps more (docs/cutting.md has measurements). The difference shows on a few hundred inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rightrank.models.master.master import Master
from rightrank.models.master.variant import variant
from rightrank.models.measure.nearness import TINY, Nearness, nearness
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.program.shapes import Classes, class_axis, scores

CANDIDATES = ("logit", "fisher")
INPUTS, BATCH, LEAST = 512, 64, 16
# A batch is smaller where the largest value would be more than so many numbers.
VALUES = 1 << 26
BUDGETS = (0.5, 0.3, 0.2)


def possible(program: Program, inputs: Samples, classes: Classes = True) -> bool:
    """Whether there is a choice: one output (N, classes), or with classes at every place, at a free batch size, and
    inputs enough to try and decide."""
    graph = program.graph
    if len(graph.outputs) != 1 or graph.batch is not None or _held(inputs) < LEAST:
        return False
    with torch.no_grad():
        first = next(inputs[:2].parts(2))
        (outputs,) = program.run(first)
    return outputs.ndim > 1 and scores(outputs, classes, class_axis(outputs, first)) is not None


def split(inputs: Samples) -> tuple[Samples, Samples, Samples]:
    """Of calibration inputs: what candidates are made from, what decides between them (the last fifth of the
    first 512), and all but the first of these."""
    tried = min(len(inputs), INPUTS) - _held(inputs)
    return inputs[:tried], inputs[tried:INPUTS], inputs[tried:]


def choose(
    candidates: Sequence[str],
    held: Samples,
    folder: Path,
    make: Callable[[str, Path], None],
    classes: Classes = True,
) -> dict[str, float]:
    """How far cuts by each candidate are from the original, the nearest first.

    `make(criterion, out)` builds a master by it from inputs that were not `held` back; `folder` is for these.
    The answer is the mean over budgets of the divergence of the classes' probabilities (see `nearness`), as a share of
    that of outputs that are the same for every input, and no more than 1: between two networks that know nothing there
    is nothing to choose (ResNet-56 cut to a fifth, where both are lost, outweighed 0.5 and 0.3). Not of its logarithm,
    since what hardly differs from the original must not outweigh what does (on the demo, which fits its training
    images, that chose `fisher`).
    """
    found: dict[str, float] = {}
    for criterion in candidates:
        make(criterion, folder / criterion)
        found[criterion] = _far(folder / criterion, held, classes)
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


@torch.no_grad()
def _of_nothing(original: Program, measure: Nearness, held: Samples, batch: int) -> float:
    """How far outputs are that are the same for every input."""
    several = [original.run(each)[0] for each in held.batches(batch)]
    if len({each.shape[1:] for each in several}) == 1 and sum(each.numel() for each in several) <= VALUES:
        several = [torch.cat(several)]
    distances = [float(measure.distance(each.mean(0).expand_as(each), each)) for each in several]
    return sum(distances) / len(distances)


def _held(inputs: Samples) -> int:
    return min(len(inputs), INPUTS) // 5


def _far(folder: Path, held: Samples, classes: Classes) -> float:
    planner, master = Planner.open(folder), Master.open(folder)
    template, stored = planner.template, master.tensors()
    sizes = [max(int(budget * template.params), planner.smallest.params) for budget in BUDGETS]
    programs = [variant(template, stored, planner.plan(max_params=size).ranks).program() for size in sizes]
    original = master.program(stored)
    batch = max(1, min(BATCH, len(held), VALUES // max(max(original.values(group)) for group in held.apart())))
    measure = nearness(original, held, batch, classes)
    errors = measure.distances(original, programs, held, batch)
    nothing = max(_of_nothing(original, measure, held, batch), TINY)
    return sum(error / nothing if error < nothing else 1.0 for error in errors) / len(errors)
