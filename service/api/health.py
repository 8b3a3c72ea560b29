"""What operators and orchestrators ask: alive, ready, how much."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from rightrank.service.api.common import TheParts, TheTally, Unrestricted
from rightrank.service.api.metrics import expose
from rightrank.service.api.schemas import PROBLEMS, Status, answers
from rightrank.service.problems import KINDS, Problem

router = APIRouter(tags=["service"], responses=PROBLEMS)


@router.get("/healthz", responses=answers(Status))
def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses=answers(Status))
def ready(parts: TheParts) -> dict[str, str]:
    """The cache and the store answer too."""
    try:
        parts.cache.redis.ping()
        parts.store.exists("names")
    except Exception as error:
        raise Problem(
            "unavailable", "The cache or the store cannot be reached.", headers={"Retry-After": "2"}
        ) from error
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(parts: TheParts, tally: TheTally, key: Unrestricted) -> Response:
    """For Prometheus."""
    tally.flush(parts.cache)
    return Response(expose(parts), media_type=CONTENT_TYPE_LATEST)


@router.get("/problems/{kind}", response_class=PlainTextResponse)
def problem(kind: str) -> str:
    """What a problem's type means."""
    if kind not in KINDS:
        raise Problem("not-found", f"There is no kind of problem called {kind[:100]!r}.")
    return f"{KINDS[kind].title} ({KINDS[kind].status})\n\n{KINDS[kind].meaning}\n"
