"""Polish levels: train one plan of ranks and steps on its own, without labels, its levels learning (ours).

The same teacher and the same inputs as `polish` has, and a student that is rounded (see `rounded_student`). It has more
steps, and one rate, that of `tune`: a number that has not come half a step has not moved, and at a rate lower than a
network bears hardly any does. What it comes to takes no more bytes than the plan has: where it would, numbers that lie
near a smaller level go there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from rightrank.models.emit.encoding.packing import PACKINGS
from rightrank.models.improve.distill import Recipe, device_of
from rightrank.models.improve.made import Made, Own
from rightrank.models.improve.polish import trained
from rightrank.models.improve.rounded_student import RoundedStudent
from rightrank.models.improve.tune import depth, slower
from rightrank.models.improve.within import taken
from rightrank.models.master.variant import Variant
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import Progress
from rightrank.models.quantise.scaled import Scaled

# How much of a step numbers go down, at the most, and in how many tries.
DOWN, TRIES = 0.5, 6
# How much longer than a recipe's steps levels learn.
LONGER = 3


def polish_rounded(
    original: Program,
    start: Variant,
    own: Own,
    made: Made,
    data: Samples,
    recipe: Recipe,
    progress: Progress,
) -> tuple[Variant, Own]:
    """What training makes of a variant and its `own` levels; the levels of all others are as `made`.

    `original` is the program that teaches. Raises DataError where the program is not float32.
    """
    names = made.names
    planned = {name: made.levels(name) for name in names}
    begun = {name: own.get(name, planned[name]) for name in names}
    most = {name: PACKINGS[int(next(iter(sides.values())).end[2])].most for name, sides in begun.items()}
    room = sum(made.bytes(name) for name in names)
    spent = sum(taken(begun[name], planned[name]) for name in own) + sum(made.bytes(n) for n in names if n not in own)

    def student() -> RoundedStudent:
        levels = {name: made.scaled(name, begun[name]) for name in names}
        return RoundedStudent(original, start, levels, most, room / spent, device_of(None))

    rate = recipe.rate * slower(depth(start.template))
    longer = replace(recipe, steps=LONGER * recipe.steps, rate=rate)
    [each] = trained(student, made.plan.ranks, data, [longer], progress)
    scaled, levels = _within(each, made, planned, room)
    learnt = each.state()
    whole = {name: learnt[name] for name in start.whole if name in learnt and name not in scaled}
    numbers = {n: {s: x.numbers(torch.float32) for s, x in sides.items()} for n, sides in scaled.items()}
    whole |= {name: numbers[name][""] for name in made.whole}
    return start.with_(whole, {name: numbers[name] for name in made.cut}), levels


def _within(
    student: RoundedStudent, made: Made, planned: Own, room: int
) -> tuple[Mapping[str, Mapping[str, Scaled]], Own]:
    """The levels that a student has come to, moved down by as little as makes them fit into `room` bytes, and coded."""

    def at(down: float) -> tuple[Mapping[str, Mapping[str, Scaled]], Own, int]:
        scaled = student.scaled(down)
        levels = {name: made.coded(name, sides) for name, sides in scaled.items()}
        return scaled, levels, sum(taken(levels[name], planned[name]) for name in levels)

    found = at(0.0)
    low, high = 0.0, DOWN
    for _ in range(TRIES if found[2] > room else 0):
        middle = (low + high) / 2
        tried = at(middle)
        if tried[2] > room:
            low = middle
        else:
            high, found = middle, tried
    return found[0], found[1]
