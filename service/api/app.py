"""The web application: routes, problems, and what runs beside the requests. It never loads torch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version

import anyio.to_thread
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rightrank.service.api import (
    docs,
    health,
    lines,
    models,
    names,
    operations,
    pages,
    refusals,
    reports,
    schemas,
    sizes,
)
from rightrank.service.api.access import Names
from rightrank.service.api.auth import Gate
from rightrank.service.api.metrics import Tally
from rightrank.service.api.router import operation_id
from rightrank.service.jobs import reading
from rightrank.service.jobs.dispatch import SEARCH_SECONDS, Parts
from rightrank.service.problems import describe
from rightrank.service.registry.store import UNFINISHED_SECONDS
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")

RESOURCES = (models, sizes, reports, names, operations, health, pages, docs)
TEND_SECONDS = 1.0
# Requests wait for Redis and the store in threads, a few milliseconds each.
THREADS = 64


def create_app(settings: Settings) -> FastAPI:
    """The application on `settings`. Raises `ValueError` for a keys file that cannot be read."""
    gate = Gate(settings.keys_file)
    app = FastAPI(
        title="RightRank",
        version=installed_version(),
        summary="One trained model in, any size out.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=operation_id,
    )
    app.state.gate = gate
    app.state.parts = Parts.of(settings)
    app.state.names = Names(app.state.parts)
    app.state.tally = Tally()
    for resource in RESOURCES:
        app.include_router(resource.router)
    app.openapi = lambda: schemas.describe(app)  # type: ignore[method-assign]
    refusals.install(app)
    app.add_middleware(Counting, tally=app.state.tally)
    return app


def installed_version() -> str:
    try:
        return version("rightrank")
    except PackageNotFoundError:  # run from a checkout
        return "0"


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    await run_in_threadpool(app.state.parts.store.sweep)
    await run_in_threadpool(reading.tell, app.state.parts.settings)
    tasks = [
        asyncio.create_task(tend(app.state.parts, app.state.tally)),
        asyncio.create_task(app.state.gate.watch()),
    ]
    yield
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    with contextlib.suppress(Exception):
        await run_in_threadpool(app.state.tally.flush, app.state.parts.cache)


async def tend(parts: Parts, tally: Tally) -> None:
    """Shares the counters, and takes up what is left undone at the start and whenever Redis has lost its memory.

    Uploads now and then besides, for what slipped through; and what killed processes had begun to write goes away.
    """
    known: str | None = None
    again = math.inf
    tidied = -math.inf
    while True:
        try:
            if time.monotonic() > tidied + UNFINISHED_SECONDS / 2:
                await run_in_threadpool(parts.store.tidy)
                tidied = time.monotonic()
            run = await run_in_threadpool(lambda: str(parts.cache.redis.info("server")["run_id"]))
            if run != known:
                await run_in_threadpool(parts.recover)
                known, again = run, time.monotonic() + SEARCH_SECONDS
            elif time.monotonic() > again:
                await run_in_threadpool(parts.recover, finished=False)
                again = time.monotonic() + SEARCH_SECONDS
            await run_in_threadpool(tally.flush, parts.cache)
            await run_in_threadpool(parts.cache.keep_used)
        except Exception as error:
            log.warning("Redis or the store cannot be reached: %s", error)
        await asyncio.sleep(TEND_SECONDS)


class Counting:
    """Middleware: counts requests and their time by route, and has the log say what is to be said of them."""

    def __init__(self, app: ASGIApp, tally: Tally) -> None:
        self.app = app
        self.tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, sent = 500, 0
        began = time.monotonic()
        called = lines.begin(scope).encode()

        async def note(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (lines.REQUEST_ID, called)]}
            await send(message)
            sent += len(message.get("body", b""))

        try:
            await self.app(scope, receive, note)
        except Exception as error:  # which is answered above this
            refusals.note(scope, describe(error))
            raise
        finally:
            route = getattr(scope.get("route"), "path", "none")
            seconds = time.monotonic() - began
            self.tally.add("requests", method=scope["method"], route=route, status=str(status))
            self.tally.add("request_seconds", seconds, route=route)
            lines.end(scope, status, sent, seconds)
