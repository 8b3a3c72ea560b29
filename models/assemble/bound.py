"""Whether a model can hardly get smaller, and why, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rightrank.models.assemble.uncovered import Parameter, Uncovered, uncovered
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import COMMON, Planner

# Above this not even the largest of the sizes that every model is made in can be had, but for the original.
HARDLY = max(budget for budget in COMMON if budget < 1)
# Causes are named until they have so much of what no layer covers, and no more than so many.
ENOUGH, CAUSES = 0.75, 3


def bound(planner: Planner) -> str | None:
    """What keeps a model from getting much smaller, where its least budget is above 0.7; else None."""
    least, smallest = planner.least(), planner.smallest
    if least > HARDLY >= smallest.budget:
        return (
            f"This model's file cannot get below {_down(least)} of its size: its parameters can get down to "
            f"{_down(smallest.budget)} of what they are, but it also has code and numbers that are no parameters."
        )
    return _sentence(planner.template, smallest.params)


def foreseen(template: Template) -> str | None:
    """The same, as far as shapes tell it before anything is decomposed."""
    return _sentence(template, lowest(template))


def lowest(template: Template) -> int:
    """No plan has fewer parameters: those of each layer at rank 1, in its cheapest form, and all others."""
    return template.params - sum(layer.params - min(_least(layer), layer.params) for layer in template.decomposed)


def _least(layer: Layer) -> int:
    return min(replace(layer, form=FORMS[name]).params_at(1) for name in {*layer.suits, layer.form.name})


def _sentence(template: Template, params: int) -> str | None:
    """Of a model that has so many parameters at the least."""
    whole, rest = template.original.params, uncovered(template)
    least = params / whole
    if least <= HARDLY:
        return None
    start = f"This model cannot get below {_down(least)} of its parameters"
    if params == whole:
        start = "None of this model's parameters can be cut"
    if rest.share < least / 2:
        still = _percent(least - rest.share)
        return f"{start}: its layers are so small that at their smallest ranks they still have {still} of them."
    return f"{start}: {', '.join(_causes(rest))}."


def _causes(rest: Uncovered) -> list[str]:
    """What has most of the parameters that no layer covers."""
    groups: dict[tuple[str, ...], list[Parameter]] = {}
    for each in rest.tensors:
        groups.setdefault((each.reason,) if each.reason else each.read_by, []).append(each)
    largest = sorted(groups.values(), key=lambda group: -sum(each.share for each in group))
    found: list[str] = []
    named = 0.0
    for group in largest[:CAUSES]:
        found.append(_cause(group, "are in" if not found else "in"))
        named += sum(each.share for each in group)
        if named > ENOUGH * rest.share:
            break
    return found


def _cause(group: Sequence[Parameter], are_in: str) -> str:
    """`69 % are in `embeddings.weight`, read by embedding`."""
    first, count = group[0], len(group)
    start = f"{_percent(sum(each.share for each in group))} {are_in}"
    if first.reason:
        which = f"`{first.name}`, which stays" if count == 1 else f"`{first.name}` and {count - 1} more, which stay"
        return f"{start} {which} whole ({first.reason})"
    readers = " and ".join(first.read_by)
    if count == 1:
        return f"{start} `{first.name}`, read by {readers}"
    return f"{start} {count} tensors read by {readers}, the largest `{first.name}`"


def _down(share: float) -> str:
    """Three digits, never more than it is: what is said not to be possible is not."""
    return f"{math.floor(share * 1000) / 1000:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
