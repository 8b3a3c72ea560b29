"""What the query of a request asks for, and which plans and records answer to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Query, Request

from rightrank.models.emit.format import FIRST
from rightrank.models.emit.precision import NAMES
from rightrank.models.errors import BudgetError
from rightrank.models.plan.planner import Limit, Plan, Planner
from rightrank.service.api import certify
from rightrank.service.api.formats import MEDIA_TYPES, FormatQuery
from rightrank.service.api.goal import Goal, measured, reported
from rightrank.service.api.negotiate import preferred
from rightrank.service.api.reports import MetricQuery
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model, Record
from rightrank.service.registry.recent import Recent


@dataclass(frozen=True, slots=True)
class Ask:
    """How large the artifact may be, by one limit or several, what its numbers are stored as (None: as its publisher
    chose), in which format, and whether only what is `ready` will do."""

    budget: float | None = None
    of: Literal["params", "macs"] = "params"
    max_bytes: int | None = None
    max_params: int | None = None
    max_macs: int | None = None
    min_accuracy: float | None = None
    max_error: float | None = None
    confidence: float | None = None
    metric: str | None = None
    precision: str | None = None
    format: str = FIRST.format
    ready: bool = field(default=False, compare=False)  # the plan is the same

    def limits(self, model: Model) -> list[Limit]:
        """Those of its size."""
        return self.planner(model).limits(**self.size())

    def planner(self, model: Model) -> Planner:
        """The one for files as they are asked for. Raises FormatError, PrecisionError or `Problem` where there are no
        such files of this model, or not here."""
        return model.planner_in(self.precision, self.format)

    def size(self) -> Mapping[str, Any]:
        """What a planner is asked."""
        return {name: getattr(self, name) for name in ("budget", "of", "max_bytes", "max_params", "max_macs")}


PrecisionQuery = Annotated[
    str | None,
    Query(
        description="What the files' numbers are stored as, one of the model's `precisions`; by default what its "
        "publisher chose.",
        examples=["int8"],
        json_schema_extra={"enum": list(NAMES)},
    ),
]
# Plans follow from the model, the limits, the precision and the format alone.
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
            allow_inf_nan=False,
            description="The smallest measured cut that reaches this, from 0 to 1; with `metric`, the smallest of "
            "which the publisher reported at least this.",
            examples=[0.5],
        ),
    ] = None,
    max_error: Annotated[
        float | None,
        Query(
            allow_inf_nan=False,
            description="Of a model whose measure is better the lower it is: the smallest measured cut that has at "
            "most this; with such a `metric`, the smallest of which the publisher reported at most this.",
            examples=[0.5],
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        Query(
            gt=0,
            lt=1,
            allow_inf_nan=False,
            description="That `min_accuracy` is to hold in truth, not only as measured, with this confidence: the "
            "smallest size of a fixed row that is certified to reach it. The row is the whole network and the sizes "
            "that are measured after an upload, and is tested from the largest on, as long as each passes.",
            examples=[0.95],
        ),
    ] = None,
    metric: MetricQuery = None,
    precision: PrecisionQuery = None,
    format: FormatQuery = None,
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
    if not set(given) - {"of", "precision", "format", "ready"}:
        for name, value in (("precision", precision), ("format", format)):
            if value is not None:
                raise Problem(
                    "invalid-request",
                    f"`{name}` says what kind of file is wanted, and no size is asked for.",
                    "Give a limit; `budget=1` is the whole network.",
                )
        if ready is not None:
            raise Problem("invalid-request", "`ready` says how a size is wanted, and there is none.", "Give a limit.")
        return None
    if max_error is not None and min_accuracy is not None:
        raise Problem("invalid-request", "`max_error` and `min_accuracy` are both given, and a measure goes one way.")
    if metric is not None and max_error is None and min_accuracy is None:
        raise Problem(
            "invalid-request", "A metric is of what `min_accuracy` or `max_error` asks for, and there is neither."
        )
    if metric is None and min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise Problem("invalid-request", f"`min_accuracy` is a share from 0 to 1, and not {min_accuracy:g}.")
    if confidence is not None:
        certifiable(min_accuracy, max_error, metric)
    if format is None:
        format = preferred(request.headers.getlist("accept"), MEDIA_TYPES) or FIRST.format
    limits = (budget, of or "params", max_bytes, max_params, max_macs)
    return Ask(*limits, min_accuracy, max_error, confidence, metric, precision, format, bool(ready))


def certifiable(min_accuracy: float | None, max_error: float | None, metric: str | None) -> None:
    """Raises `Problem` for what `confidence` cannot go with."""
    if max_error is not None:
        raise Problem(
            "invalid-request",
            "`confidence` is of a share of right answers, and `max_error` of what has no greatest value.",
            "Leave it out; the answer has an interval.",
        )
    if metric is not None:
        raise Problem(
            "invalid-request",
            "`confidence` is of what the service measured, and a metric is named that the publisher reported.",
            "Leave one of them out.",
        )
    if min_accuracy is None:
        raise Problem(
            "invalid-request",
            "`confidence` says how sure an accuracy is to be, and none is asked for.",
            "Give `min_accuracy`, from 0 to 1.",
        )


def choose(parts: Parts, model: Model, ask: Ask) -> Plan:
    """The plan for what is asked. Raises `BudgetError` where there is none, and `Problem` where none is certified."""
    if (found := walked(parts, model, ask)) is not None:
        assert ask.min_accuracy is not None and ask.confidence is not None
        if limits := ask.limits(model):
            ask.planner(model).plan(**ask.size())  # where no size at all is within them, that is the answer
        return certify.smallest(found, limits, ask.min_accuracy, ask.confidence)
    if (goal := goal_of(parts, model, ask)) is not None:
        return smallest_accurate(parts.catalogue.records(model.id), goal, model, ask)
    plan = PLANS.get((model.id, model.tag, ask), lambda: ask.planner(model).plan(**ask.size()))
    assert plan is not None
    return plan


def walked(parts: Parts, model: Model, ask: Ask) -> certify.Walk | None:
    """How far the test gets that is asked for; None where none is."""
    if ask.confidence is None or ask.min_accuracy is None:
        return None
    return certify.walk(parts.catalogue, model, ask.planner(model), ask.min_accuracy, ask.confidence)


def goal_of(parts: Parts, model: Model, ask: Ask) -> Goal | None:
    """What the size is to reach, if anything. Raises `Problem`."""
    parameter = "min_accuracy" if ask.max_error is None else "max_error"
    if ask.metric is None:
        threshold = getattr(ask, parameter)
        return None if threshold is None else measured(parameter, threshold, parts.catalogue.records(model.id))
    return reported(parameter, getattr(ask, parameter), ask.metric, parts.catalogue.reports.of(model.id))


def smallest_accurate(records: list[Record], goal: Goal, model: Model, ask: Ask) -> Plan:
    """The smallest cut in the precision asked for that reaches the goal, and that is within the limits asked for
    besides. Raises `BudgetError`."""
    limits, planner = ask.limits(model), ask.planner(model)
    if limits:
        planner.plan(**ask.size())  # where no size at all is within them, that is the answer
    known = [record for record in records if goal.of(record) is not None]
    if not known:
        raise goal.unknown
    known = [record for record in known if record.plan.output == planner.output]
    if not known:
        precision = model.precision_of(planner.output)
        kind, named = (f" as {ask.format}", f"`format={ask.format}`, ") if ask.format != FIRST.format else ("", "")
        raise BudgetError(
            f"There is no {goal.cuts} of this model in {precision}{kind} yet.",
            f"Ask for a `budget` with {named}`precision={precision}`, or name another precision.",
        )
    reaching = [record.plan for record in known if goal.reached(record)]
    for plan in reaching:
        if within(plan, limits):
            return plan
    if not reaching:
        best = goal.best(known)
        raise BudgetError(
            f"No {goal.cuts} of this model reaches {goal.words}.", f"The best has {best:g}.", nearest=best
        )
    inside = [record for record in known if within(record.plan, limits)]
    if inside:
        best = goal.best(inside)
        raise BudgetError(
            f"No {goal.cuts} within the other limits reaches {goal.words}.",
            f"The best of them has {best:g}.",
            nearest=best,
            limit=goal.parameter,
        )
    limit = next(limit for limit in limits if not limit.holds(reaching[0]))
    nearest = limit.needed(reaching[0])
    raise BudgetError(
        f"No {goal.cuts} that reaches {goal.words} is within `{limit.name}={limit.asked}`.",
        f"The smallest that reaches it needs `{limit.name}={nearest:.10g}`.",
        nearest=nearest,
        limit=limit.name,
    )


def within(plan: Plan, limits: Iterable[Limit]) -> bool:
    return all(limit.holds(plan) for limit in limits)


def ready_first(parts: Parts, model: Model, plan: Plan, ask: Ask) -> Iterator[Record]:
    """What may be ready of what is asked: the plan itself, and then the others of its precision within the limits, the
    largest first; where something is to be reached the smallest, and of what is to be certified what is."""
    if (walk := walked(parts, model, ask)) is not None:
        limits = ask.limits(model)
        found = [record for record in reversed(walk.certified) if within(record.plan, limits)]
        yield from _there(parts, model, found, plan)
        return
    exact = parts.catalogue.record(model.id, plan.digest)
    if exact is not None:
        yield exact
    limits, goal = ask.limits(model), goal_of(parts, model, ask)
    found = [
        record
        for record in parts.catalogue.records(model.id)
        if record.plan.digest != plan.digest
        and record.plan.output == plan.output
        and within(record.plan, limits)
        and (goal is None or goal.reached(record))
    ]
    if goal is None:
        by_macs = all(limit.by_macs for limit in limits)
        found.sort(key=lambda record: record.plan.macs if by_macs else record.plan.params, reverse=True)
    yield from _there(parts, model, found)


def _there(parts: Parts, model: Model, found: list[Record], anyway: Plan | None = None) -> Iterator[Record]:
    """Those whose bytes are there, and the one of the plan `anyway`."""
    cached = parts.cache.among(model.id, [record.plan.digest for record in found])
    yield from (r for r in found if r.stored or r.plan.digest in cached or r.plan == anyway)
