"""What the query of a request asks for, and what of that is ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import Query, Request

from rightrank.models.emit.format import FIRST
from rightrank.models.emit.precision import NAMES
from rightrank.models.plan.planner import Plan
from rightrank.service.api.choose import Ask, goal_of, walked, within
from rightrank.service.api.formats import MEDIA_TYPES, FormatQuery
from rightrank.service.api.negotiate import preferred
from rightrank.service.api.reports import MetricQuery
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model, Record

PrecisionQuery = Annotated[
    str | None,
    Query(
        description="What the files' numbers are stored as, one of the model's `precisions`; by default what its "
        "publisher chose.",
        examples=["int8"],
        json_schema_extra={"enum": list(NAMES)},
    ),
]
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
    if not set(given) - {"precision", "format", "ready"}:
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
    if format is None:
        format = preferred(request.headers.getlist("accept"), MEDIA_TYPES) or FIRST.format
    ask = Ask(
        budget=budget,
        of=of,
        max_bytes=max_bytes,
        max_params=max_params,
        max_macs=max_macs,
        min_accuracy=min_accuracy,
        max_error=max_error,
        confidence=confidence,
        metric=metric,
        precision=precision,
        format=format,
        ready=bool(ready),
    )
    ask.check()
    return ask


def ready_first(parts: Parts, model: Model, plan: Plan, ask: Ask) -> Iterator[Record]:
    """What may be ready of what is asked: the plan itself, and then the others of its precision within the limits, the
    largest first; where something is to be reached the smallest, and of what is to be certified what is."""
    if (walk := walked(parts.catalogue, model, ask)) is not None:
        limits = ask.limits(model)
        found = [record for record in reversed(walk.certified) if within(record.plan, limits)]
        yield from _there(parts, model, found, plan)
        return
    exact = parts.catalogue.record(model.id, plan.digest)
    if exact is not None:
        yield exact
    limits, goal = ask.limits(model), goal_of(parts.catalogue, model, ask)
    found = [
        record
        for record in parts.catalogue.records(model.id)
        if record.plan.digest != plan.digest
        and record.plan.output == plan.output
        and within(record.plan, limits)
        and (goal is None or goal.reached(record))
    ]
    if goal is None:
        kinds = {limit.quantity for limit in limits}
        largest = "macs" if kinds == {"macs"} else "bytes" if plan.output.coded else "params"
        found.sort(key=lambda record: (getattr(record.plan, largest), record.plan.bytes), reverse=True)
    yield from _there(parts, model, found)


def _there(parts: Parts, model: Model, found: list[Record], anyway: Plan | None = None) -> Iterator[Record]:
    """Those whose bytes are there, and the one of the plan `anyway`."""
    cached = parts.cache.among(model.id, [record.plan.digest for record in found])
    yield from (r for r in found if r.stored or r.plan.digest in cached or r.plan == anyway)
