"""What operators and orchestrators ask: alive, ready, how much."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any

from anyio import CapacityLimiter, create_task_group, fail_after, to_thread
from fastapi import Path, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from rightrank.service.api.common import TheParts, TheTally, Unrestricted
from rightrank.service.api.formats import made
from rightrank.service.api.metrics import expose
from rightrank.service.api.router import Router
from rightrank.service.api.schemas import GATE, PROBLEMS, TEXT, Ready, Status, answers, problems
from rightrank.service.jobs import reading
from rightrank.service.problems import KINDS, Problem, unavailable

log = logging.getLogger("rightrank")

# Longer than the cache and the store take to give up, and soon enough for who asks.
READY_SECONDS = 4.0

router = Router(tags=["service"], responses=PROBLEMS)


@router.get("/healthz", responses=answers(Status))
async def alive() -> dict[str, str]:
    """The process answers, whatever else does not."""
    return {"status": "ok"}


@router.get("/readyz", responses=answers(Ready) | problems("unavailable"))
async def ready(parts: TheParts) -> dict[str, Any]:
    """The cache and the store answer too, within seconds; and what confines the reading of uploads on this machine."""
    # In threads of their own: those of the requests may all be waiting for what is asked about here.
    limiter = CapacityLimiter(2)
    missing: list[str] = []

    async def ask(what: str, check: Callable[[], None]) -> None:
        try:
            with fail_after(READY_SECONDS):
                await to_thread.run_sync(check, limiter=limiter, abandon_on_cancel=True)
        except Exception as error:
            log.warning("not ready: %s: %s: %s", what, type(error).__name__, error)
            missing.append(what)

    async with create_task_group() as group:
        group.start_soon(ask, "the cache", parts.cache.check)
        group.start_soon(ask, "the store", parts.store.check)
    if missing:
        raise unavailable(" and ".join(sorted(missing)))
    return {"status": "ok", "sandbox": reading.report(), "formats": await to_thread.run_sync(made, parts)}


@router.get("/metrics", response_class=PlainTextResponse, responses=TEXT | problems(*GATE))
def metrics(parts: TheParts, tally: TheTally, key: Unrestricted) -> Response:
    """For Prometheus."""
    tally.flush(parts.cache)
    return Response(expose(parts), media_type=CONTENT_TYPE_LATEST)


@router.get("/problems/{kind}", response_class=PlainTextResponse, responses=TEXT | problems("not-found"))
def problem(kind: Annotated[str, Path(json_schema_extra={"enum": list(KINDS)})]) -> str:
    """What a problem's type means."""
    if kind not in KINDS:
        raise Problem("not-found", f"There is no kind of problem called {kind[:100]!r}.")
    return f"{KINDS[kind].title} ({KINDS[kind].status})\n\n{KINDS[kind].meaning}\n"
