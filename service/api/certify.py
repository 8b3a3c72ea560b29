"""Which sizes are certified to have an accuracy in truth: those of a row that is fixed with the upload, from the
largest on, as far as a test of each passes (`models.measure.certificate`). What else has been measured plays no part,
or the data would choose what they test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rightrank.models.errors import BudgetError
from rightrank.models.measure.certificate import Counted, passing
from rightrank.models.measure.metrics import METRICS
from rightrank.models.plan.planner import Limit, Plan, Planner
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model, Record


class Records(Protocol):
    """Where what is known of a cut is found."""

    def record(self, id: str, digest: str) -> Record | None:
        """What is known of a model's cut by its plan's digest."""


@dataclass(frozen=True)
class Walk:
    """How far a test gets: the sizes that pass, the largest first, out of those that are `measured`; and the first of
    the row that is not measured, where all before it pass."""

    measured: Sequence[Record]
    passed: int
    missing: Plan | None

    @property
    def certified(self) -> Sequence[Record]:
        return self.measured[: self.passed]


def row_of(model: Model, planner: Planner) -> list[Plan]:
    """The sizes that are tested, the largest first: the whole network, and those that are measured after an upload,
    which it names or which are the same for all. Nothing of it follows from evaluation data."""
    plans = [planner.largest, *(planner.plan(budget=budget) for budget in planner.possible(model.budgets))]
    return list({plan.digest: plan for plan in plans}.values())


def walk(catalogue: Records, model: Model, planner: Planner, target: float, confidence: float) -> Walk:
    """Along the row of files of the planner's kind. Raises BudgetError and `Problem` where there is nothing to test."""
    baseline = model.manifest["baseline"]
    if baseline is None:
        raise BudgetError(
            "No accuracy of this model has been measured.", "Publish it with `evaluation` data, or ask for a `budget`."
        )
    if not METRICS[baseline["metric"]].share:
        raise Problem(
            "invalid-request",
            f"The {baseline['metric']} that this model is measured by is no share of right answers, each of which is a "
            "sample's own, and nothing of it is certified.",
            f"Ask without `confidence`. Shares are {', '.join(name for name, each in METRICS.items() if each.share)}.",
        )
    measured: list[Record] = []
    missing = None
    for plan in row_of(model, planner):
        record = catalogue.record(model.id, plan.digest)
        if record is None:
            missing = plan
            break
        measured.append(record)
    passed = passing(map(counted, measured), target, confidence)
    return Walk(measured, passed, missing if passed == len(measured) else None)


def counted(record: Record) -> Counted:
    """What a size's measurement counted. Raises `Problem` where it does not say that."""
    found = record.measurement or {}
    if found.get("counted") is None:
        raise Problem(
            "uncertified",
            "This model was measured before the number of answers was kept, which a test needs.",
            "Delete it and upload it again, or ask without `confidence`.",
        )
    return Counted(float(found["value"]), int(found["n"]), **found["counted"])


def smallest(found: Walk, limits: Sequence[Limit], target: float, confidence: float) -> Plan:
    """The smallest certified size that is within the limits. Raises BudgetError, and `Problem` where none is
    certified."""
    if not found.certified:
        raise uncertified(found.measured[0], target, confidence)
    for record in reversed(found.certified):
        if all(limit.holds(record.plan) for limit in limits):
            return record.plan
    least = found.certified[-1].plan
    limit = next(limit for limit in limits if not limit.holds(least))
    nearest = limit.needed(least)
    raise BudgetError(
        f"No size that is certified to have an accuracy of {target:g} is within `{limit.name}={limit.asked}`.",
        f"The smallest that is needs `{limit.name}={nearest:.10g}`.",
        nearest=nearest,
        limit=limit.name,
    )


def uncertified(whole: Record, target: float, confidence: float) -> Problem:
    """That not even the first of the row passes, and on how many samples it would."""
    share = counted(whole)
    metric = (whole.measurement or {})["metric"]
    needed = share.needed(target, confidence)
    if needed is not None:
        hint = f"The same share of {needed:,} samples would show it. Give more of them, or ask for less."
    elif share.value > target:
        hint = "Ask for less: with this share it takes more samples than anybody has."
    else:
        hint = "Ask for less: with this share no number of samples shows it."
    return Problem(
        "uncertified",
        f"Not even the whole network is certified: its {metric} of {share.value:g} on {share.n:,} samples does not "
        f"show one of {target:g} with a confidence of {confidence:g}.",
        hint,
        members={} if needed is None else {"samples": needed},
    )
