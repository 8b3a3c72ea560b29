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
from rightrank.models.measure.nearness import TINY, nearness
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples

CANDIDATES = ("logit", "fisher")
INPUTS, BATCH, LEAST = 512, 64, 16
BUDGETS = (0.5, 0.3, 0.2)


def possible(program: Program, inputs: Samples) -> bool:
    """Whether there is a choice: one output (N, classes) at a free batch size, and inputs enough to try and decide."""
    graph = program.graph
    if len(graph.outputs) != 1 or graph.batch is not None or _held(inputs) < LEAST:
        return False
    shape = program.shapes.get(graph.outputs[0], ())
    return len(shape) == 2 and shape[1] > 1


def split(inputs: Samples) -> tuple[Samples, Samples, Samples]:
    """Of calibration inputs: what candidates are made from, what decides between them (the last fifth of the
    first 512), and all but the first of these."""
    tried = min(len(inputs), INPUTS) - _held(inputs)
    return inputs[:tried], inputs[tried:INPUTS], inputs[tried:]


def choose(
    candidates: Sequence[str], held: Samples, folder: Path, make: Callable[[str, Path], None]
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
        found[criterion] = _far(folder / criterion, held)
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _held(inputs: Samples) -> int:
    return min(len(inputs), INPUTS) // 5


def _far(folder: Path, held: Samples) -> float:
    planner, master = Planner.open(folder), Master.open(folder)
    template, stored = planner.template, master.tensors()
    sizes = [max(int(budget * template.params), planner.smallest.params) for budget in BUDGETS]
    programs = [variant(template, stored, planner.plan(max_params=size).ranks).program() for size in sizes]
    original = master.program(stored)
    batch = min(BATCH, len(held))
    measure = nearness(original, held, batch, classes=True)
    errors = measure.distances(original, programs, held, batch)
    with torch.no_grad():
        wanted = torch.cat([original.run(each)[0] for each in held.batches(batch)])
    nothing = max(float(measure.distance(wanted.mean(0).expand_as(wanted), wanted)), TINY)
    return sum(error / nothing if error < nothing else 1.0 for error in errors) / len(errors)
