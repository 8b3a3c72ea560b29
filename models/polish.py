"""Polish: train one size on its own, without labels, from the best that is known of it (ours).

The same training as `tune`'s (see `student`), for one plan: its factors are its own and need not be prefixes of
anything. A size that many devices take is worth that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from models import variant
from models.emit.template import Template
from models.student import Recipe, Student, Training, device_of
from models.variant import Parts

STEPS, STUDENTS, RATE = 300, 1, 1e-2
# With the recipe's rate over each of these (deep networks, those without batch norm, and sizes at which little is
# left to learn want less) such a part of the steps is made on trial, before all of them with the best.
DIVISORS, TRIAL = (1, 4, 16), 6
# More calibration inputs than these are not kept for it.
INPUTS, STATISTICS = 20_000, 512
RECIPE = Recipe(steps=STEPS, students=STUDENTS, rate=RATE)

Progress = Callable[[str, int, int, str], None]


def polish(
    template: Template,
    original: Mapping[str, Tensor],
    ranks: Sequence[int],
    start: Parts,
    data: Tensor,
    recipe: Recipe,
    progress: Progress,
    device: str | None = None,
) -> Parts:
    """What training makes of the parts `start` of a plan, on calibration inputs `data` (N, …).

    `original` are the uploaded program's tensors, which teach. Raises DataError where the program is not float32.
    """
    batch = template.graph.inputs[0].shape[0] or min(recipe.batch, len(data))
    share = template.params_at(ranks) / template.params

    def train(recipe: Recipe, phase: str) -> Parts:
        student = Student(template, original, start.factors, device_of(device), start.whole)
        Training(student, recipe).go(
            data, batch, lambda generator: (None, share), lambda done: progress(phase, done, recipe.steps, "steps")
        )
        progress(phase, recipe.steps, recipe.steps, "steps")
        lessons = [student.teach(images) for images in variant.batches(data[: max(STATISTICS, batch)], batch)]
        statistics = student.statistics(None, lessons)
        learnt = student.learnt()
        factors = {each.weight: (learnt[f"down/{each.name}"], learnt[f"up/{each.name}"]) for each in student.factored}
        return start.with_({name: learnt[name] for name in start.whole if name in learnt} | statistics, factors)

    seconds = None if recipe.seconds is None else recipe.seconds / TRIAL
    short = replace(recipe, steps=max(recipe.steps // TRIAL, 1), seconds=seconds)
    rates = [recipe.rate / divisor for divisor in DIVISORS]
    trials = [train(replace(short, rate=rate), "try rates").program() for rate in rates]
    few = data[: max(STATISTICS, batch)]
    errors = variant.distances(template.graph, original, trials, few, batch, recipe.classes)
    best = min(zip(errors, rates, strict=True), key=lambda pair: (math.isnan(pair[0]), pair[0]))[1]
    return train(replace(recipe, rate=best), "polish")
