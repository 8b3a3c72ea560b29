"""What the query of a request asks for, and which plans and records answer to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Query, Request

from rightrank.models.errors import BudgetError
from rightrank.models.plan.planner import Limit, Plan
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.problems import Problem
from rightrank.service.registry.catalogue import Model, Recent, Record


@dataclass(frozen=True, slots=True)
class Ask:
    """How large the artifact may be, by one limit or several, and whether only what is `ready` will do."""

    budget: float | None = None
    of: Literal["params", "macs"] = "params"
    max_bytes: int | None = None
    max_params: int | None = None
    max_macs: int | None = None
    min_accuracy: float | None = None
    ready: bool = field(default=False, compare=False)  # the plan is the same

    def limits(self, model: Model) -> list[Limit]:
        """Those of its size."""
        return model.planner.limits(**self.size())

    def size(self) -> Mapping[str, Any]:
        """What a planner is asked."""
        return {name: getattr(self, name) for name in ("budget", "of", "max_bytes", "max_params", "max_macs")}


# Plans follow from the model and the limits alone.
PLANS: Recent[tuple[str, str, Ask], Plan] = Recent(4096)
KNOWN = frozenset(Ask.__slots__)
# For the description: a limit that a small network meets.
MANY = 1_000_000


async def ask_of(
    request: Request,
    budget: Annotated[
        float | None,
        Query(gt=0, le=1, allow_inf_nan=False, description="A fraction of the original's size.", examples=[0.5]),
    ] = None,
    of: Annotated[
        Literal["params", "macs"] | None,
        Query(description="What `budget` is a fraction of: by default the parameters, and the file."),
    ] = None,
    max_bytes: Annotated[int | None, Query(gt=0, description="The largest file.", examples=[MANY])] = None,
    max_params: Annotated[int | None, Query(gt=0, description="The most parameters.", examples=[MANY])] = None,
    max_macs: Annotated[
        int | None, Query(gt=0, description="The most multiply-accumulates per sample.", examples=[MANY])
    ] = None,
    min_accuracy: Annotated[
        float | None,
        Query(
            ge=0, le=1, allow_inf_nan=False, description="The smallest measured cut that reaches this.", examples=[0.5]
        ),
    ] = None,
    ready: Annotated[
        bool | None,
        Query(description="Whether to have at once the nearest size within the limits that is ready, if any is."),
    ] = None,
) -> Ask | None:
    """What the query asks for, or None where it asks for no artifact. Raises `Problem`."""
    given = [name for name, _ in request.query_params.multi_items()]
    if unknown := sorted(set(given) - KNOWN):
        raise Problem("invalid-request", f"There is no parameter {unknown[0][:100]!r}.", f"Known: {', '.join(KNOWN)}.")
    if len(given) != len(set(given)):
        raise Problem("invalid-request", f"A parameter is given twice: {', '.join(given)}.", "Give each of them once.")
    if of is not None and budget is None:
        raise Problem("invalid-request", "`of` says what a budget is a fraction of, and there is none.")
    if not set(given) - {"of", "ready"}:
        if ready is not None:
            raise Problem("invalid-request", "`ready` says how a size is wanted, and there is none.", "Give a limit.")
        return None
    return Ask(budget, of or "params", max_bytes, max_params, max_macs, min_accuracy, bool(ready))


def choose(parts: Parts, model: Model, ask: Ask) -> Plan:
    """The plan for what is asked. Raises `BudgetError` where there is none."""
    if ask.min_accuracy is not None:
        return smallest_accurate(parts.catalogue.records(model.id), ask.min_accuracy, model, ask)
    plan = PLANS.get((model.id, model.tag, ask), lambda: model.planner.plan(**ask.size()))
    assert plan is not None
    return plan


def smallest_accurate(records: list[Record], least: float, model: Model, ask: Ask) -> Plan:
    """The smallest cut whose measured accuracy is at least `least`, and that is within the limits asked for besides.
    Raises `BudgetError`."""
    limits = ask.limits(model)
    if limits:
        model.planner.plan(**ask.size())  # where no size at all is within them, that is the answer
    measured = [record for record in records if accuracy(record) is not None]
    if not measured:
        raise BudgetError(
            "No accuracy of this model has been measured.",
            "Publish it with `evaluation` data whose targets are classes, or ask for a `budget`.",
        )
    reaching = [record.plan for record in measured if reaches(record, least)]
    for plan in reaching:
        if within(plan, limits):
            return plan
    if not reaching:
        best = max(accuracy(record) or 0.0 for record in measured)
        raise BudgetError(
            f"No measured cut of this model reaches an accuracy of {least:g}.", f"The best has {best:g}.", nearest=best
        )
    accuracies = [accuracy(record) or 0.0 for record in measured if within(record.plan, limits)]
    if accuracies:
        raise BudgetError(
            f"No measured cut within the other limits reaches an accuracy of {least:g}.",
            f"The best of them has {max(accuracies):g}.",
            nearest=max(accuracies),
            limit="min_accuracy",
        )
    limit = next(limit for limit in limits if not limit.holds(reaching[0]))
    nearest = needed(limit, reaching[0], model)
    raise BudgetError(
        f"No measured cut that reaches an accuracy of {least:g} is within `{limit.name}={limit.asked}`.",
        f"The smallest that reaches it needs `{limit.name}={nearest:.10g}`.",
        nearest=nearest,
        limit=limit.name,
    )


def needed(limit: Limit, plan: Plan, model: Model) -> float:
    """The least that a limit would have to be for a plan to be within; a budget is rounded up to six digits."""
    if limit.name != "budget":
        return max(int(getattr(plan, quantity)) for quantity in limit.most)
    share: float = max(getattr(plan, quantity) / max(model.manifest[quantity], 1) for quantity in limit.most)
    return math.ceil(share * 10**6) / 10**6


def accuracy(record: Record) -> float | None:
    """What was measured of a cut, where that is better the higher it is."""
    measured = record.measurement
    return None if measured is None or measured["metric"] == "mse" else float(measured["value"])


def reaches(record: Record, least: float) -> bool:
    return (found := accuracy(record)) is not None and found >= least


def within(plan: Plan, limits: Iterable[Limit]) -> bool:
    return all(limit.holds(plan) for limit in limits)


def ready_first(parts: Parts, model: Model, plan: Plan, ask: Ask) -> Iterator[Record]:
    """What may be ready of what is asked: the plan itself, and then the others within the limits, the largest first;
    where an accuracy is to be reached the smallest."""
    exact = parts.catalogue.record(model.id, plan.digest)
    if exact is not None:
        yield exact
    limits, least = ask.limits(model), ask.min_accuracy
    found = [
        record
        for record in parts.catalogue.records(model.id)
        if record.plan.digest != plan.digest
        and within(record.plan, limits)
        and (least is None or reaches(record, least))
    ]
    if least is None:
        by_macs = all(limit.by_macs for limit in limits)
        found.sort(key=lambda record: record.plan.macs if by_macs else record.plan.params, reverse=True)
    cached = parts.cache.among(model.id, [record.plan.digest for record in found])
    yield from (record for record in found if record.stored or record.plan.digest in cached)
