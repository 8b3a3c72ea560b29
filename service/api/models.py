"""`/models`: publishing, listing, describing, fetching and deleting."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from rightrank.models.checkpoint.limits import FILES
from rightrank.models.emit.format import FIRST
from rightrank.models.measure.metrics import METRICS
from rightrank.service import logs
from rightrank.service.api import artifacts
from rightrank.service.api.ask import PrecisionQuery, ask_of
from rightrank.service.api.choose import Ask
from rightrank.service.api.common import (
    AskedModel,
    Fetcher,
    Publisher,
    TheParts,
    TheTally,
    ToDelete,
    ToFetch,
    access_of,
    admit_job,
    in_threads,
)
from rightrank.service.api.formats import FormatQuery, in_formats
from rightrank.service.api.forms import receive, storing
from rightrank.service.api.reports import brief
from rightrank.service.api.router import Router
from rightrank.service.api.schemas import (
    GATE,
    MODEL,
    PROBLEMS,
    Accepted,
    Curve,
    Deleted,
    Importance,
    Page,
    answers,
    leads_to,
    problems,
)
from rightrank.service.api.uploads import FIELDS, FORM_SCHEMA, accept
from rightrank.service.jobs import reading
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import INGEST
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import ID
from rightrank.service.registry.model import in_precision, least_of, reached
from rightrank.service.registry.reports import ByFile

router = Router(tags=["models"], responses=PROBLEMS)
# From an upload to its operation, to the model to be, and to a size of it; from the list to its first model.
FROM_UPLOAD = (
    leads_to("operations_show", "operations_events", "operations_cancel", id="$response.body#/operation")
    | leads_to("models_fetch", "models_curve", "sizes_sizes", "models_importance", reference="$response.body#/id")
    | leads_to("models_fetch", reference="$response.body#/id", budget=0.5)
)
FROM_LIST = leads_to("models_fetch", reference="$response.body#/models/0/id") | leads_to(
    "models_list_models", cursor="$response.body#/next"
)

BRIEF = ("id", "created", "params", "macs", "bytes", "criterion", "baseline")
HIDDEN = ("checkpoint", "evaluation", "calibration", "owner", "writers", "token", "folder", "files")


@router.post(
    "/models",
    status_code=202,
    responses=answers(Accepted, 202, headers={"Location": "The model to be."}, links=FROM_UPLOAD)
    | problems(
        *GATE,
        "invalid-request",
        "upload-incomplete",
        "upload-too-large",
        "request-too-slow",
        "name-taken",
        "too-many-jobs",
        "queue-full",
        "sandbox-missing",
        "insufficient-storage",
    ),
    openapi_extra={"requestBody": FORM_SCHEMA},
)
async def publish(request: Request, parts: TheParts, tally: TheTally, key: Publisher) -> Response:
    """Publish a trained model. The answer comes once it is received; its operation tells when it can be fetched."""
    await run_in_threadpool(reading.admit, parts.settings)
    await run_in_threadpool(admit_job, parts, INGEST, key)
    with storing():
        async with in_threads(parts.store.folder_for_work()) as folder:
            form = await receive(request, folder, FILES, FIELDS, parts.settings)
            answer = await run_in_threadpool(accept, parts, form, access_of(request, key))
    received = sum(upload.size for upload in form.files.values())
    name = form.fields.get("name") or None
    logs.note(request.scope, model=answer["id"], operation=answer["operation"], name=name, received=received)
    tally.add("uploads")
    tally.add("upload_bytes", received)
    return JSONResponse(answer, status_code=202, headers={"Location": f"/models/{answer['id']}"})


@router.get("/models", responses=answers(Page, links=FROM_LIST) | problems(*GATE, "invalid-request"))
def list_models(
    request: Request,
    parts: TheParts,
    key: Fetcher,
    cursor: Annotated[
        str | None,
        Query(
            description="`next` of the page before.",
            examples=["MTc2NDMzMDAwMC41IG01ZjgzNDIyMmViNmQwZmRhZDY0YmQwMWQ"],
            json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"},
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="The most models of a page.")] = 50,
    search: Annotated[
        str | None,
        Query(description="Only those whose id begins so, or that have this in a name.", examples=["digits"]),
    ] = None,
) -> dict[str, Any]:
    """The finished models that the key may fetch, the newest first, and `next`, the cursor of the next page."""
    access = access_of(request, key)
    names = parts.catalogue.names()
    found = [m for m in parts.catalogue.manifests() if access.lists(m, names.get(m["id"], []))]
    if search is not None:
        wanted = search.strip().lower()
        found = [m for m in found if is_called(wanted, m["id"], access.seen(names.get(m["id"], [])))]
    if cursor is not None:
        after = read_cursor(cursor)
        found = [manifest for manifest in found if (manifest["created"], manifest["id"]) < after]
    page = found[:limit]
    return {
        "models": [
            {
                **{k: m[k] for k in BRIEF},
                "names": access.seen(names.get(m["id"], [])),
                "publisher": access.told(m.get("owner")),
            }
            for m in page
        ],
        "next": write_cursor(page[-1]) if len(found) > limit else None,
    }


@router.get("/models/{reference}", response_model=None, responses=artifacts.ANSWERS, openapi_extra=artifacts.CONDITIONS)
async def fetch(
    asked: ToFetch,
    request: Request,
    tally: TheTally,
    ask: Annotated[Ask | None, Depends(ask_of)],
) -> Response:
    """A model's description, or with a limit the model cut to it.

    HEAD gives the headers that the whole file would come with.
    """
    access = asked.access
    if ask is None:
        return JSONResponse(await run_in_threadpool(describe, access.parts, asked))
    return await artifacts.Service(access.parts, tally, request, access.key).answer(asked, ask)


@router.get(
    "/models/{reference}/curve",
    responses=answers(Curve) | problems(*MODEL, "precision-unavailable", "format-unavailable", "format-missing"),
)
def curve(
    asked: ToFetch, parts: TheParts, precision: PrecisionQuery = None, format: FormatQuery = None
) -> dict[str, Any]:
    """What has been measured of files in one precision and format: size against accuracy, the smallest first.
    `reported` is what the publisher says."""
    model = parts.catalogue.open(asked.id())
    output = model.planner_in(precision, FIRST.format if format is None else format).output
    reports = parts.catalogue.reports.of(model.id)
    points = [
        {
            "plan": record.plan.digest,
            "budget": reached(model, record.plan),
            "params": record.plan.params,
            "macs": record.plan.macs,
            "bytes": record.size,
            "method": record.method,
            "metric": measured.get("metric"),
            "accuracy": measured.get("value"),
            "n": measured.get("n"),
            "low": measured.get("low"),
            "high": measured.get("high"),
            "worst": measured.get("worst"),
            "changed": measured.get("changed"),
            "reported": brief(reported.values()),
        }
        for record in parts.catalogue.records(model.id)
        for measured, reported in [(record.measurement or {}, reports.get(record.sha256, {}))]
        if record.plan.output == output and (measured or reported)
    ]
    baseline = model.manifest["baseline"]
    kind = {"format": output.format, "precision": model.precision_of(output)}
    metric = METRICS.get(baseline["metric"]) if baseline else None
    way = {"higher_is_better": metric.higher if metric else None, "share": metric.share if metric else None}
    return {"id": model.id, **kind, "baseline": baseline, **way, "points": points}


@router.get("/models/{reference}/importance", responses=answers(Importance) | problems(*MODEL))
def importance(asked: ToFetch, parts: TheParts) -> dict[str, Any]:
    """What each basis of each layer is worth, the most important first; null where it is never cut."""
    model = parts.catalogue.open(asked.id())
    return {"id": model.id, "criterion": model.manifest["criterion"], "layers": model.planner.importance()}


@router.delete(
    "/models/{reference}", responses=answers(Deleted) | problems(*GATE, "model-not-found", "invalid-request")
)
def delete(
    asked: ToDelete,
    parts: TheParts,
    purge: Annotated[bool, Query(description="Forget it at once and for good, with all its data.")] = False,
) -> dict[str, Any]:
    """Delete a model under all of its names. For a day it can be had back; then it is forgotten, with everything that
    only it refers to. One that is being ingested is stopped, and forgotten at once."""
    id = asked.id()
    asked.access.alone("admin", id)
    names = asked.access.seen(parts.catalogue.names_of(id))
    until = parts.remove(id, asked.access.key.name if asked.access.key else "", purge)
    return {"id": id, "names": names, "until": until}


@router.post("/models/{reference}/undelete", responses=answers(Deleted) | problems(*GATE, "model-not-found"))
def undelete(asked: ToDelete, parts: TheParts) -> dict[str, Any]:
    """Have a deleted model back, as it was. `reference`: its id, or `name@version`."""
    id = asked.id()
    asked.access.alone("admin", id)
    parts.restore(id)
    return {"id": id, "names": asked.access.seen(parts.catalogue.names_of(id)), "until": None}


def describe(parts: Parts, asked: AskedModel) -> Mapping[str, Any]:
    """What a publisher and a device want to know of a model."""
    model = parts.catalogue.open(asked.id())
    public = {key: value for key, value in model.manifest.items() if key not in HIDDEN}
    return {
        **public,
        "sha256": model.manifest["checkpoint"],
        "measured": model.manifest["evaluation"] is not None,
        "precision": model.precision,
        "min_budget": least_of(model.planner),
        "precisions": [in_precision(model, name) for name in model.precisions],
        "formats": in_formats(parts, model),
        "reported": summary(parts.catalogue.reports.lately(model.id)),
        "names": asked.access.seen(parts.catalogue.names_of(model.id)),
        "publisher": asked.access.told(model.manifest.get("owner")),
        "links": {
            "self": f"/models/{model.id}",
            "curve": f"/models/{model.id}/curve",
            "sizes": f"/models/{model.id}/sizes",
            "importance": f"/models/{model.id}/importance",
        },
    }


def is_called(wanted: str, id: str, names: Iterable[str]) -> bool:
    """Whether an id begins so, or one of the names, with versions, has it."""
    return id.startswith(wanted) or any(wanted in name for name in names)


def summary(reports: ByFile) -> list[Mapping[str, Any]]:
    """Which metrics are reported of a model's files."""
    by_metric: dict[str, list[bool | None]] = {}
    for metrics in reports.values():
        for report in metrics.values():
            by_metric.setdefault(report.metric, []).append(report.higher_is_better)
    return [
        {"metric": metric, "files": len(ways), "higher_is_better": ways[0] if len(set(ways)) == 1 else None}
        for metric, ways in sorted(by_metric.items())
    ]


def write_cursor(manifest: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(f"{manifest['created']!r} {manifest['id']}".encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[float, str]:
    """The inverse of `write_cursor`. Raises `Problem`."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created, id = text.split(" ")
        if ID.fullmatch(id):
            return float(created), id
    except (ValueError, binascii.Error):
        pass
    raise Problem("invalid-request", "The cursor is not one that this service gave.", "Leave it out to start over.")
