"""Every error at every step of a request: an upload is accepted or refused, never something between; no answer is a
500; what was accepted before stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from fastapi import FastAPI

from rightrank.service.api import app as application
from rightrank.service.api.access import Names
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.operations import ingest_id
from tests.faults import verdict
from tests.faults.conftest import some
from tests.faults.errors import ERRORS, FOR_EVER, Error
from tests.faults.steps import FORM, READ, REDIS, WRITE, Step, Steps
from tests.faults.table import TABLE
from tests.faults.test_jobs import failing
from tests.faults.world import FIELDS, NAME, World
from tests.service.conftest import listening

ERRORS_AND_MODES = [
    (error, mode)
    for error in ERRORS
    for mode in error.modes
    if mode != FOR_EVER and error.needs & {READ, WRITE, REDIS, FORM}
]
# How many requests a quick run breaks.
QUICK = 24


@dataclass(frozen=True)
class Api:
    """The application, without what it does beside its requests, and a client."""

    app: FastAPI
    client: httpx.Client
    world: World
    model: str
    # Of each request, the steps of a good run.
    good: dict[str, list[Step]] = field(default_factory=dict)

    def publish(self) -> httpx.Response:
        files = {
            role: (path.name, path.read_bytes())
            for role, path in (("checkpoint", self.world.files.checkpoint), ("evaluation", self.world.files.evaluation))
        }
        return self.client.post("/models", files=files, data={**FIELDS, "name": NAME})

    def anew(self) -> None:
        """As a process that has just begun: it knows nothing."""
        self.app.state.parts = Parts.of(self.world.settings)
        self.app.state.names = Names(self.app.state.parts)


@pytest.fixture(scope="module")
def api(the_world: World, watched: Steps) -> Iterator[Api]:
    async def idle(*_: object) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "tend", idle)
        app = application.create_app(the_world.settings)
        with listening(app, the_world.settings) as address, httpx.Client(base_url=address, timeout=60) as client:
            yield Api(app, client, the_world, the_world.upload())


def in_the_api() -> bool:
    return threading.current_thread().name.startswith("AnyIO")


@dataclass(frozen=True)
class Request:
    """`before`: what is so, `after`: what is wrong once it was answered, by the answer, and everything is mended."""

    before: Callable[[Api], None]
    ask: Callable[[Api], httpx.Response]
    after: Callable[[Api, httpx.Response, dict[str, str]], Iterator[str]]


def nothing(api: Api) -> None:
    pass


def uploaded(api: Api) -> None:
    assert api.publish().status_code == 202


def finished(api: Api) -> None:
    uploaded(api)
    assert api.world.settle()


def whole_in_the_end(api: Api, answer: httpx.Response, known: dict[str, str]) -> Iterator[str]:
    """What was accepted becomes a model; what was not, can be uploaded again."""
    world = api.world
    world.lapse()
    world.parts.recover()
    if not world.settle():
        yield f"it does not come to an end: {world.history()}"
    if answer.status_code == 202:
        yield from verdict.ends_once(world, 1)
    else:
        yield from verdict.ends_once(world)
        if (again := api.publish()).status_code != 202:
            yield f"uploaded again: {again.status_code} {again.text}"
        world.settle()
    yield from verdict.whole(world, api.model, known)
    yield from verdict.tidy(world)


def the_first_stands(api: Api, answer: httpx.Response, known: dict[str, str]) -> Iterator[str]:
    """Whatever becomes of the same upload again, the one that was accepted becomes a model."""
    world = api.world
    if not world.settle():
        yield f"it does not come to an end: {world.history()}"
    yield from verdict.ends_once(world, 1)
    yield from verdict.whole(world, api.model, known)
    yield from verdict.tidy(world)


def hidden_in_the_end(api: Api, answer: httpx.Response, known: dict[str, str]) -> Iterator[str]:
    """Deleted is deleted, what could not be is whole or deleted, and either way it can be had back as it was."""
    world = api.world
    world.lapse()
    seen = api.client.get(f"/models/{api.model}").status_code
    if seen not in ((410,) if answer.status_code == 200 else (200, 410)):
        yield f"answered with {answer.status_code}, then asked for: {seen}"
    back = api.client.post(f"/models/{api.model}/undelete").status_code
    if back != 200:
        yield f"had back: {back}"
    world.settle()
    yield from verdict.whole(world, api.model, known)
    yield from verdict.tidy(world)


def gone_in_the_end(api: Api, answer: httpx.Response, known: dict[str, str]) -> Iterator[str]:
    """Forgotten is forgotten; what could not be, is whole or gone, and can be forgotten again."""
    world = api.world
    world.lapse()
    seen = api.client.get(f"/models/{api.model}").status_code
    if seen not in ((404,) if answer.status_code == 200 else (200, 404)):
        yield f"answered with {answer.status_code}, then asked for: {seen}"
    if answer.status_code != 200:
        again = api.client.delete(f"/models/{api.model}?purge=true").status_code
        if again not in (200, 404):
            yield f"forgotten again: {again}"
        world.parts.recover()
    world.settle()
    interrupted = answer.status_code >= 400
    yield from verdict.gone(world, api.model, interrupted)
    yield from verdict.tidy(world, interrupted)


def cancelled_in_the_end(api: Api, answer: httpx.Response, known: dict[str, str]) -> Iterator[str]:
    world = api.world
    world.lapse()
    if answer.status_code != 202:
        again = api.client.delete(f"/operations/{ingest_id(api.model)}")
        if again.status_code not in (202, 404):
            yield f"cancelled again: {again.status_code} {again.text}"
    world.parts.recover()
    world.settle()
    yield from verdict.ends_once(world, 1)
    interrupted = answer.status_code >= 400
    yield from verdict.gone(world, api.model, interrupted)
    yield from verdict.tidy(world, interrupted)


def right_or_refused(api: Api, answer: httpx.Response, known: dict[str, str]) -> Iterator[str]:
    world = api.world
    if answer.status_code == 200 and answer.headers["ETag"].strip('"') not in {*known.values()}:
        yield f"served under an ETag that is none of its sizes': {answer.headers['ETag']}"
    world.settle()
    yield from verdict.whole(world, api.model, known)
    yield from verdict.tidy(world)


REQUESTS = {
    "POST": Request(nothing, Api.publish, whole_in_the_end),
    "POST again": Request(uploaded, Api.publish, the_first_stands),
    "DELETE": Request(finished, lambda api: api.client.delete(f"/models/{api.model}"), hidden_in_the_end),
    "purge": Request(finished, lambda api: api.client.delete(f"/models/{api.model}?purge=true"), gone_in_the_end),
    "cancel": Request(
        uploaded, lambda api: api.client.delete(f"/operations/{ingest_id(api.model)}"), cancelled_in_the_end
    ),
    "GET": Request(finished, lambda api: api.client.get(f"/models/{NAME}?budget=0.5"), right_or_refused),
}  # fmt: skip


def begin(api: Api, request: Request) -> None:
    api.world.restore({})
    api.anew()
    request.before(api)
    api.anew()


@pytest.fixture(scope="module")
def known(api: Api) -> dict[str, str]:
    """Of a good run, the SHA-256 of each artifact by its plan."""
    begin(api, REQUESTS["GET"])
    records = api.world.another().catalogue.records(api.model)
    return {record.plan.digest: record.sha256 for record in records}


CASES = [(name, error, mode) for name in REQUESTS for error, mode in ERRORS_AND_MODES]


@pytest.mark.parametrize(
    ("name", "error", "mode"), some(CASES, QUICK, "http"), ids=lambda each: getattr(each, "name", each)
)
def test_a_request_that_meets_an_error_is_done_or_refused(
    api: Api, watched: Steps, known: dict[str, str], name: str, error: Error, mode: str
) -> None:
    request = REQUESTS[name]
    if name not in api.good:
        begin(api, request)
        with watched.watched(whose=in_the_api) as taken:
            assert request.ask(api).status_code < 400
        api.good[name] = list(taken)
    good, found = api.good[name], list[str]()
    places = [number for number, step in enumerate(good) if error.fits(step)]
    for place in some(places, 1, (name, error.name, mode)):
        begin(api, request)
        with watched.watched(failing(error, mode, place), whose=in_the_api):
            answer = request.ask(api)
        violations = []
        kind = "" if answer.status_code < 400 else answer.json().get("type", "")
        if answer.status_code == 500 or kind == "/problems/internal" or (answer.status_code >= 400 and not kind):
            violations.append(f"answered with {answer.status_code} {answer.text}")
        violations += request.after(api, answer, known)
        TABLE.add(f"{name}, HTTP", f"{error.name}, {mode}", good[place].part, violations)
        found += [f"step {place}, {good[place].call} of {good[place].part}: {each}" for each in violations]
    assert found == []
