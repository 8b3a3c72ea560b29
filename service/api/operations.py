"""`/operations`: which background jobs there are, what one is doing, now or as a stream, and stopping it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from rightrank.models.plan.planner import Plan
from rightrank.service.api.access import Access, bare
from rightrank.service.api.common import Anybody, TheParts, ToChange, ToSee, access_of, admit_job
from rightrank.service.api.router import Router
from rightrank.service.api.schemas import GATE, OPERATION, PROBLEMS, TEXT, Operations, answers, leads_to, problems
from rightrank.service.api.schemas import Operation as Document
from rightrank.service.jobs.engine import queue_of
from rightrank.service.jobs.operations import Operation, ingest_id
from rightrank.service.problems import Problem

router = Router(tags=["operations"], responses=PROBLEMS)
# From an operation to itself, and to the model that it is about.
LINKS = leads_to(
    "operations_show", "operations_events", "operations_cancel", "operations_retry", id="$request.path.id"
) | leads_to("models_fetch", reference="$response.body#/model")

FROM_LIST = leads_to("operations_show", id="$response.body#/operations/0/id")

LOOK_SECONDS = 0.2
# So many are listed.
MOST = 200


@router.get("/operations", responses=answers(Operations, links=FROM_LIST) | problems(*GATE))
def unfinished(request: Request, parts: TheParts, key: Anybody) -> dict[str, Any]:
    """What is under way and what waits, of all that the key may see; and uploads whose ingest was given up, which can
    be tried again."""
    access = access_of(request, key)
    found = parts.engine.unfinished(MOST)
    known = {operation.id for operation in found}
    for id in [ingest_id(id) for id in parts.catalogue.failures() if ingest_id(id) not in known][: MOST - len(found)]:
        with contextlib.suppress(Problem):  # it has gone this very moment
            found.append(parts.operation(id))
    names = parts.catalogue.names()
    return {
        "operations": [
            {
                **operation.to_json(),
                "names": called(access, names, str(operation.details["model"])),
                **of_size(operation.details.get("plan")),
            }
            for operation in found
            if access.sees(operation)
        ]
    }


def of_size(plan: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is to be told of a plan that is being cut; of none, that there is none."""
    found = None if plan is None else Plan.from_json(plan)
    return {"bytes": found and found.bytes, "format": found and found.output.format}


def called(access: Access, names: Mapping[str, list[str]], id: str) -> list[str]:
    """What a model is called, or is to be, without versions."""
    return sorted(bare(access.seen(names[id] if id in names else access.names.wanted(id))))


@router.get("/operations/{id}", responses=answers(Document, links=LINKS) | problems(*OPERATION))
def show(asked: ToSee) -> dict[str, Any]:
    """An operation: `done`, then `error` or `result`; until then `progress`."""
    return asked.get().to_json()


@router.delete(
    "/operations/{id}", status_code=202, responses=answers(Document, 202, links=LINKS) | problems(*OPERATION)
)
def cancel(asked: ToChange, parts: TheParts) -> dict[str, Any]:
    """End an operation. One that has ended stays as it is."""
    return parts.cancel(asked.to_change()).to_json()


@router.post(
    "/operations/{id}/retry",
    status_code=202,
    responses=answers(Document, 202, links=LINKS)
    | problems(*OPERATION, "not-failed", "model-not-found", "model-not-ready", "model-failed", "master-unreadable"),
)
def retry(asked: ToChange, parts: TheParts) -> dict[str, Any]:
    """Try a failed operation again. An upload whose ingest failed by no fault of its own is kept for this."""
    id = asked.to_change()
    operation = asked.get()
    if operation.state == "failed":
        admit_job(parts, queue_of(id, operation.details), asked.access.key)
    return parts.retry(id).to_json()


def existing(asked: ToSee) -> Operation:
    return asked.get()


@router.get(
    "/operations/{id}/events",
    response_class=EventSourceResponse,
    responses=TEXT | problems(*OPERATION),
)
async def events(
    asked: ToSee, operation: Annotated[Operation, Depends(existing)], request: Request
) -> AsyncIterator[ServerSentEvent]:
    """The operation each time it changes, as server-sent events whose data are what `GET /operations/{id}` answers; the
    last one is called `done`."""
    last: dict[str, Any] | None = None
    while request.method == "GET":
        state = operation.to_json()
        if state != last:
            yield ServerSentEvent(data=state, event="done" if operation.done else "progress")
            last = state
        if operation.done:
            return
        await asyncio.sleep(LOOK_SECONDS)
        operation = await run_in_threadpool(asked.get)
