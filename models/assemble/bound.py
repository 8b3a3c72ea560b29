"""Whether a model can hardly get smaller, and why, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rightrank.models.assemble.uncovered import Parameter, Uncovered
from rightrank.models.plan.planner import COMMON, Planner

# Above this not even the largest of the sizes that every model is made in can be had, but for the original.
HARDLY = max(budget for budget in COMMON if budget < 1)
# Causes are named until they have so much of what no layer covers, and no more than so many.
ENOUGH, CAUSES = 0.75, 3


def bound(planner: Planner, uncovered: Uncovered) -> str | None:
    """What keeps a model from getting much smaller, where its least budget is above 0.7; else None."""
    least, smallest = planner.least(), planner.smallest
    if least <= HARDLY:
        return None
    if smallest.budget <= HARDLY:
        return (
            f"This model's file cannot get below {_down(least)} of its size: its parameters can get down to "
            f"{_down(smallest.budget)} of what they are, but it also has code and numbers that are no parameters."
        )
    start = f"This model cannot get below {_down(smallest.budget)} of its parameters"
    if smallest.params == planner.template.original.params:
        start = "None of this model's parameters can be cut"
    if uncovered.share < smallest.budget / 2:
        rest = _percent(smallest.budget - uncovered.share)
        return f"{start}: its layers are so small that at their smallest ranks they still have {rest} of them."
    return f"{start}: {', '.join(_causes(uncovered))}."


def _causes(uncovered: Uncovered) -> list[str]:
    """What has most of the parameters that no layer covers."""
    groups: dict[tuple[str, ...], list[Parameter]] = {}
    for each in uncovered.tensors:
        groups.setdefault((each.reason,) if each.reason else each.read_by, []).append(each)
    largest = sorted(groups.values(), key=lambda group: -sum(each.share for each in group))
    found: list[str] = []
    named = 0.0
    for group in largest[:CAUSES]:
        found.append(_cause(group, "are in" if not found else "in"))
        named += sum(each.share for each in group)
        if named > ENOUGH * uncovered.share:
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
