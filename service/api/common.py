"""What the routes share: the parts of the service, and who is asking."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import Depends, Path, Request
from starlette.concurrency import run_in_threadpool

from rightrank.service.api.access import Access
from rightrank.service.api.auth import require, require_unrestricted
from rightrank.service.api.keys import Key
from rightrank.service.api.metrics import Tally
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.operations import Operation
from rightrank.service.logs import FACTS
from rightrank.service.problems import Problem
from rightrank.service.registry.catalogue import REFERENCE, no_model
from rightrank.service.registry.layout import NAME


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
Anybody = Annotated[Key | None, Depends(require(None))]
Publisher = Annotated[Key | None, Depends(require("publish"))]
Unrestricted = Annotated[Key | None, Depends(require_unrestricted)]


def access_of(request: Request, key: Key | None) -> Access:
    """What the key reaches of this service."""
    return Access(key, request.app.state.parts, request.app.state.names)


def admitted(request: Request, verb: str | None) -> Access:
    """What the key that the request carries reaches. Raises `Problem` unless it may `verb` something."""
    return access_of(request, request.app.state.gate.admit(request, verb))


@dataclass(frozen=True, slots=True)
class AskedModel:
    """A model as a request names it, in its path. A route that has this has no other way to the model than through
    what the key may do."""

    reference: str
    verb: str
    access: Access
    # What the request's line in the log will say.
    facts: MutableMapping[str, Any]

    def id(self) -> str:
        """The model's id. Waits for the store. Raises `Problem` where it is not there, or not for this key."""
        id = self.access.model(self.verb, self.reference)
        self.facts["model"] = id
        return id


@dataclass(frozen=True, slots=True)
class AskedOperation:
    """An operation as a request names it, in its path."""

    name: str
    access: Access

    def get(self) -> Operation:
        """The operation as it is now. Waits for Redis. Raises `Problem` where it is not there, or not for this key."""
        return self.access.operation(self.name)

    def to_change(self) -> str:
        """Its id, for what changes the fate of its model. Waits for Redis and the store. Raises `Problem`."""
        self.access.alone("publish", str(self.get().details["model"]))
        return self.name


@dataclass(frozen=True, slots=True)
class AskedName:
    """A name as a request gives it, in its path."""

    name: str
    verb: str
    access: Access

    @property
    def by(self) -> str:
        """Whose key it is; "" without keys."""
        return self.access.key.name if self.access.key else ""

    def check(self) -> None:
        """Raises `Problem` where the key may not do this to the name, or not see it, or it can be none."""
        if not NAME.fullmatch(self.name):
            raise no_model(self.name)
        self.access.name(self.verb, self.name)


# Patterns and examples are for the description alone: what is of another form is not found, as what is not there.
ModelPath = Annotated[
    str,
    Path(
        description="An id, a name, `name@version` or `name@alias`.",
        examples=["digits", "digits@1", "digits@stable", "m5f834222eb6d0fdad64bd01d"],
        json_schema_extra={"pattern": f"^({re.sub(r'[?]P<[a-z]+>', '', REFERENCE.pattern)})$"},
    ),
]
NamePath = Annotated[
    str,
    Path(
        description="As it was published.",
        examples=["digits"],
        json_schema_extra={"pattern": f"^{NAME.pattern}$"},
    ),
]
OperationPath = Annotated[
    str,
    Path(
        description="As the answer to an upload, or to a request for a size, has it.",
        examples=["ingest-m5f834222eb6d0fdad64bd01d"],
        json_schema_extra={"pattern": "^(ingest-m[0-9a-f]{24}|cut-m[0-9a-f]{24}-[0-9a-f]{32})$"},
    ),
]


# These ask for nothing by `Depends`, which costs a fetch more than all that they do.
async def model_to_fetch(reference: ModelPath, request: Request) -> AskedModel:
    return AskedModel(reference, "fetch", admitted(request, "fetch"), request.scope[FACTS])


async def model_to_report(reference: ModelPath, request: Request) -> AskedModel:
    return AskedModel(reference, "publish", admitted(request, "publish"), request.scope[FACTS])


async def model_to_delete(reference: ModelPath, request: Request) -> AskedModel:
    return AskedModel(reference, "admin", admitted(request, "admin"), request.scope[FACTS])


async def operation_to_see(id: OperationPath, request: Request) -> AskedOperation:
    return AskedOperation(id, admitted(request, None))


async def operation_to_change(id: OperationPath, request: Request) -> AskedOperation:
    return AskedOperation(id, admitted(request, "publish"))


async def name_to_fetch(name: NamePath, request: Request) -> AskedName:
    return AskedName(name, "fetch", admitted(request, "fetch"))


async def name_to_move(name: NamePath, request: Request) -> AskedName:
    return AskedName(name, "admin", admitted(request, "admin"))


# A route with `{reference}`, `{name}` or `{id}` in its path takes one of these; a test goes through all of them.
ToFetch = Annotated[AskedModel, Depends(model_to_fetch)]
ToReport = Annotated[AskedModel, Depends(model_to_report)]
ToDelete = Annotated[AskedModel, Depends(model_to_delete)]
NameToFetch = Annotated[AskedName, Depends(name_to_fetch)]
NameToMove = Annotated[AskedName, Depends(name_to_move)]
ToSee = Annotated[AskedOperation, Depends(operation_to_see)]
ToChange = Annotated[AskedOperation, Depends(operation_to_change)]


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
