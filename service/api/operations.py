"""`/operations`: what a background job is doing, now or as a stream, and stopping it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from rightrank.service.api.common import TheParts, ToChange, ToSee
from rightrank.service.api.schemas import PROBLEMS, answers
from rightrank.service.api.schemas import Operation as Document
from rightrank.service.jobs.operations import Operation

router = APIRouter(tags=["operations"], responses=PROBLEMS)

LOOK_SECONDS = 0.2


@router.get("/operations/{id}", responses=answers(Document))
def show(asked: ToSee) -> dict[str, Any]:
    """An operation: `done`, then `error` or `result`; until then `progress`."""
    return asked.get().to_json()


@router.delete("/operations/{id}", status_code=202, responses=answers(Document, 202))
def cancel(asked: ToChange, parts: TheParts) -> dict[str, Any]:
    """Ask an operation to stop. One that has ended stays as it is."""
    return parts.cancel(asked.to_change()).to_json()


@router.post("/operations/{id}/retry", status_code=202, responses=answers(Document, 202))
def retry(asked: ToChange, parts: TheParts) -> dict[str, Any]:
    """Try a failed operation again. An upload whose ingest failed by no fault of its own is kept for this."""
    return parts.retry(asked.to_change()).to_json()


def existing(asked: ToSee) -> Operation:
    return asked.get()


@router.get("/operations/{id}/events", response_class=EventSourceResponse)
async def events(asked: ToSee, operation: Annotated[Operation, Depends(existing)]) -> AsyncIterator[ServerSentEvent]:
    """The operation each time it changes, as server-sent events whose data are what `GET /operations/{id}` answers; the
    last one is called `done`."""
    last: dict[str, Any] | None = None
    while True:
        state = operation.to_json()
        if state != last:
            yield ServerSentEvent(data=state, event="done" if operation.done else "progress")
            last = state
        if operation.done:
            return
        await asyncio.sleep(LOOK_SECONDS)
        operation = await run_in_threadpool(asked.get)
