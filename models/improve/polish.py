"""Polish: train one size on its own, without labels, from the best that is known of it (ours).

The same teacher as `tune`'s (see `student`), for one plan: its factors are its own and need not be prefixes of
anything. It starts near the original, so that batch norms keep what statistics they have. A size that many devices
take is worth that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

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

AStudent = TypeVar("AStudent", bound=Student)


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

    def student() -> Student:
        return Student(template, original, start.factors, device_of(device), start.whole, settled=True)

    recipes = [replace(recipe, rate=recipe.rate / divisor) for divisor in DIVISORS]
    found = []
    for each in trained(student, ranks, data, recipes, progress):
        learnt = each.state()
        found.append(start.with_({name: learnt[name] for name in start.whole if name in learnt}, each.factors()))
    return found


def trained(
    student: Callable[[], AStudent],
    ranks: Sequence[int],
    data: Samples,
    recipes: Sequence[Recipe],
    progress: Progress,
) -> Iterator[AStudent]:
    """A new student of a plan's `ranks` for each of the recipes, when it has learnt."""
    steps, before = sum(recipe.steps for recipe in recipes), 0
    for recipe in recipes:
        each = student()
        template = each.template
        share = template.params_at(ranks) / template.params
        Training(each, recipe).go(
            data,
            template.graph.batch or min(recipe.batch, len(data)),
            lambda generator, share=share: (None, share),  # type: ignore[misc]
            lambda done, before=before: progress("polish", before + done, steps, "steps"),  # type: ignore[misc]
        )
        before += recipe.steps
        yield each
    progress("polish", steps, steps, "steps")
