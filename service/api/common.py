"""What the routes share: the parts of the service, and who is asking."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Annotated, TypeVar

import anyio
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from rightrank.service.api.auth import Key, require
from rightrank.service.api.metrics import Tally
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.problems import Problem


# Not blocking, so `async`: a plain function would cost a thread each.
async def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def tally_of(request: Request) -> Tally:
    tally: Tally = request.app.state.tally
    return tally


TheParts = Annotated[Parts, Depends(parts_of)]
TheTally = Annotated[Tally, Depends(tally_of)]
Fetcher = Annotated[Key | None, Depends(require("fetch"))]
Publisher = Annotated[Key | None, Depends(require("publish"))]
Admin = Annotated[Key | None, Depends(require("admin"))]
Anyone = Annotated[Key | None, Depends(require(None))]


T = TypeVar("T")


@asynccontextmanager
async def in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """A context that is entered and left in threads: nobody else waits for its locks and its disk."""
    value = await run_in_threadpool(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            handled = await run_in_threadpool(manager.__exit__, type(error), error, error.__traceback__)
        if not handled:
            raise
    else:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(manager.__exit__, None, None, None)


def admit_job(parts: Parts, queue: str, key: Key | None) -> None:
    """Refuses a new job where the queue is full or the key has too many. Raises `Problem`."""
    if parts.engine.length(queue) >= parts.settings.queue_limit:
        raise Problem(
            "queue-full",
            f"{parts.settings.queue_limit} jobs wait already.",
            "Try again in a few seconds.",
            headers={"Retry-After": "5"},
        )
    if key is not None and parts.engine.under_way(key.name) >= parts.settings.jobs_per_key:
        raise Problem(
            "too-many-jobs",
            f"The key {key.name!r} has {parts.settings.jobs_per_key} jobs under way.",
            "Wait until one of them has ended.",
            headers={"Retry-After": "5"},
        )
