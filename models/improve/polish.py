"""Polish: train one size on its own, without labels, from the best that is known of it (ours).

The same teacher as `tune`'s (see `student`), for one plan: its factors are its own and need not be prefixes of
anything. It starts near the original, so that batch norms keep what statistics they have. A size that many devices
take is worth that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rightrank.models.improve.distill import Recipe, Training, device_of
from rightrank.models.improve.student import Student
from rightrank.models.master.template import Template
from rightrank.models.master.variant import Variant
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import Progress

STEPS, STUDENTS, RATE = 300, 1, 5e-3
# It is done with the recipe's rate and with a quarter of it, to the end: deep networks want less, and a short trial
# favours the lower rate. `improve` keeps what is better.
DIVISORS = (1, 4)
# More calibration inputs than these are not kept for it.
INPUTS = 20_000
RECIPE = Recipe(steps=STEPS, students=STUDENTS, rate=RATE)


def polish(
    template: Template,
    original: Program,
    ranks: Sequence[int],
    start: Variant,
    data: Samples,
    recipe: Recipe,
    progress: Progress,
    device: str | None = None,
) -> list[Variant]:
    """What training makes of the variant `start`, on calibration inputs `data`, with each rate.

    `original` is the program that teaches. Raises DataError where the program is not float32.
    """
    batch = template.graph.batch or min(recipe.batch, len(data))
    share, steps = template.params_at(ranks) / template.params, recipe.steps * len(DIVISORS)
    found = []
    for number, divisor in enumerate(DIVISORS):
        before = number * recipe.steps
        student = Student(template, original, start.factors, device_of(device), start.whole, settled=True)
        Training(student, replace(recipe, rate=recipe.rate / divisor)).go(
            data,
            batch,
            lambda generator: (None, share),
            lambda done, before=before: progress("polish", before + done, steps, "steps"),  # type: ignore[misc]
        )
        learnt = student.state()
        found.append(start.with_({name: learnt[name] for name in start.whole if name in learnt}, student.factors()))
    progress("polish", steps, steps, "steps")
    return found
