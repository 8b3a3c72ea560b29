"""`/models/{reference}/sizes`, `…/plan` and `…/plans/{plan}`: which sizes there are, and what each is, layer by layer,
without making any."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Path, Query
from fastapi.responses import JSONResponse

from rightrank.models.emit.format import FIRST
from rightrank.models.emit.formats import format_of
from rightrank.models.errors import BudgetError
from rightrank.models.plan.parts import parts as parts_of
from rightrank.models.plan.planner import Plan
from rightrank.service.api.ask import PrecisionQuery, ask_of
from rightrank.service.api.choose import Ask, choose, walked
from rightrank.service.api.common import AskedModel, TheParts, ToFetch
from rightrank.service.api.formats import FormatQuery
from rightrank.service.api.reports import brief
from rightrank.service.api.router import Router
from rightrank.service.api.schemas import MODEL, PROBLEMS, Size, Sizes, answers, leads_to, problems
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model, reached

router = Router(tags=["sizes"], responses=PROBLEMS)
KIND = ("precision-unavailable", "format-unavailable", "format-missing")
LINKS = leads_to("sizes_show", reference="$response.body#/id", plan="$response.body#/plan")

PlanPath = Annotated[
    str,
    Path(
        pattern="^[0-9a-f]{32}$",
        description="As the curve, or a file's header `RightRank-Plan`, has it.",
        examples=["0" * 32],
    ),
]


@router.get(
    "/models/{reference}/sizes",
    responses=answers(
        Sizes,
        links=leads_to("sizes_show", reference="$response.body#/id", plan="$response.body#/sizes/0/plan"),
    )
    | problems(*MODEL, *KIND, "invalid-request"),
)
def sizes(
    asked: ToFetch,
    parts: TheParts,
    precision: PrecisionQuery = None,
    format: FormatQuery = None,
    most: Annotated[int, Query(ge=2, le=200, description="How many at the most.")] = 100,
) -> dict[str, Any]:
    """Sizes that files of one precision and format can have, the smallest first, evenly by the logarithm of bytes: the
    smallest and the whole network among them. `max_bytes` with a size's bytes asks for that one."""
    model = parts.catalogue.open(asked.id())
    planner = model.planner_in(precision, FIRST.format if format is None else format)
    return {
        "id": model.id,
        **_kind(model, planner.smallest),
        "sizes": [_size(model, plan) for plan in planner.rungs(most)],
    }


@router.get(
    "/models/{reference}/plan",
    responses=answers(Size, links=LINKS)
    | problems(*MODEL, *KIND, "invalid-request", "budget-unreachable", "uncertified", "not-ready"),
)
def plan(asked: ToFetch, parts: TheParts, ask: Annotated[Ask | None, Depends(ask_of)]) -> JSONResponse:
    """What a fetch with the same query would be answered with, without making it."""
    model = parts.catalogue.open(asked.id())
    if ask is None:
        raise Problem("invalid-request", "No size is asked for.", "Give a limit; `budget=1` is the whole network.")
    walk = walked(parts.catalogue, model, ask)
    if walk is not None and walk.missing is not None:
        raise Problem(
            "not-ready",
            "Which size is certified is not known before a larger one is measured.",
            "Fetch it: that has it measured.",
            headers={"Retry-After": "1"},
        )
    # What it is depends on `Accept` where no format is named, as a fetch does.
    return JSONResponse(describe(asked, model, choose(parts.catalogue, model, ask)), headers={"Vary": "Accept"})


@router.get(
    "/models/{reference}/plans/{plan}",
    responses=answers(Size, links=LINKS) | problems(*MODEL, *KIND, "size-not-found", "invalid-request"),
)
def show(asked: ToFetch, parts: TheParts, plan: PlanPath) -> dict[str, Any]:
    """A size by the identity of its plan."""
    model = parts.catalogue.open(asked.id())
    record = parts.catalogue.record(model.id, plan)
    found = record.plan if record is not None else model.find(plan)
    if found is None:
        raise Problem("size-not-found", f"The model {model.id} has no size whose plan is {plan!r}.")
    return describe(asked, model, found)


def describe(asked: AskedModel, model: Model, plan: Plan) -> dict[str, Any]:
    """A size: its numbers, what is known of its file, and its layers."""
    catalogue = asked.access.parts.catalogue
    planner = model.planner_in(model.precision_of(plan.output), plan.output.format)
    query = exact(model, plan)
    record = catalogue.record(model.id, plan.digest)
    made = None
    if record is not None:
        reports = catalogue.reports.lately(model.id).get(record.sha256, {})
        made = {
            "sha256": record.sha256,
            "bytes": record.size,
            "method": record.method,
            "measurement": record.measurement,
            "reported": brief(reports.values()),
        }
    return {
        "id": model.id,
        **_kind(model, plan),
        **_size(model, plan),
        "url": None if query is None else f"/models/{model.id}?{urlencode(query)}",
        "query": query,
        "layers": [{**asdict(part), "rank": part.rank or None} for part in parts_of(planner, plan)],
        "made": made,
    }


def exact(model: Model, plan: Plan) -> dict[str, Any] | None:
    """A query that is answered with this plan and no other; None where none is known."""
    precision, format = model.precision_of(plan.output), plan.output.format
    planner = model.planner_in(precision, format)
    limits: dict[str, Any] = {"max_bytes": plan.bytes, "max_params": plan.params, "max_macs": plan.macs}
    tries: list[dict[str, Any]] = [{name: value} for name, value in limits.items()]
    for limit in (*tries, {name: limits[name] for name in ("max_bytes", "max_params")}, limits):
        try:
            if planner.plan(**limit).digest == plan.digest:
                return {**limit, "precision": precision, "format": format}
        except BudgetError:
            continue
    return None


def _size(model: Model, plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.digest,
        "budget": reached(model, plan),
        "params": plan.params,
        "macs": plan.macs,
        "bytes": plan.bytes,
        "whole": not any(plan.ranks),
    }


def _kind(model: Model, plan: Plan) -> dict[str, Any]:
    return {
        "format": plan.output.format,
        "precision": model.precision_of(plan.output),
        "bounds": format_of(plan.output).bounds,
    }
