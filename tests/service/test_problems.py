from __future__ import annotations

import importlib
import pkgutil

import httpx
import pytest
from fastapi import FastAPI
from redis.exceptions import ConnectionError as RedisDown
from redis.exceptions import OutOfMemoryError as RedisFull
from redis.exceptions import TimeoutError as RedisSlow

import rightrank.models.errors
import rightrank.service
from rightrank.models.errors import BudgetError, RightRankError
from rightrank.service.api import refusals
from rightrank.service.problems import KINDS, Problem, describe
from rightrank.service.settings import Settings
from tests.service.conftest import Running, listening


def tree(kind: type[RightRankError]) -> set[type[RightRankError]]:
    return {kind} | {found for below in kind.__subclasses__() for found in tree(below)}


def test_every_error_of_the_models_has_an_answer() -> None:
    for module in pkgutil.iter_modules(rightrank.service.__path__):
        if module.name not in ("__main__", "demo"):
            importlib.import_module(f"rightrank.service.{module.name}")
    kinds = {
        error.kind for error in tree(RightRankError) if error.__module__.startswith(rightrank.models.errors.__name__)
    }
    assert kinds <= set(KINDS)


def test_a_problem_is_complete() -> None:
    body = describe(BudgetError("Too small.", "Ask for more.", nearest=0.2))
    assert body == {
        "type": "/problems/budget-unreachable",
        "title": "No model fits",
        "status": 422,
        "detail": "Too small.",
        "hint": "Ask for more.",
        "nearest": 0.2,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_leads_to_an_explanation(shared: Running, kind: str) -> None:
    answer = shared.client.get(describe(Problem(kind, "x"))["type"])
    assert answer.status_code == 200
    assert KINDS[kind].title in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [("GET", "/nowhere", 404, "not-found"), ("PUT", "/models", 405, "method-not-allowed"),
     ("GET", "/models?limit=0", 422, "invalid-request"), ("GET", "/models?cursor=x", 422, "invalid-request"),
     ("GET", "/models/nothing", 404, "model-not-found"), ("GET", "/models/%2e%2e%2fsecret", 404, "not-found"),
     ("GET", "/models/nothing/curve", 404, "model-not-found"), ("GET", "/problems/x", 404, "not-found"),
     ("GET", "/operations/x", 404, "operation-not-found"), ("DELETE", "/models/nothing", 404, "model-not-found"),
     ("POST", "/models", 422, "invalid-request")],
)  # fmt: skip
def test_every_failure_is_a_problem_document(shared: Running, method: str, path: str, status: int, kind: str) -> None:
    answer = shared.client.request(method, path)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_what_an_address_does_not_answer_to_is_told_with_all_that_it_does(shared: Running) -> None:
    methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
    placed = {"reference": "demo", "id": "x", "kind": "x", "name": "demo", "alias": "stable"}
    placed |= {"sha256": "0" * 64, "metric": "wer", "plan": "0" * 32}
    paths = {path.format(**placed) for path in shared.client.get("/openapi.json").json()["paths"]}
    for path in paths | {"/", "/docs", "/openapi.json"}:
        answers = {method: shared.client.request(method, path) for method in ("PATCH", "TRACE")}
        allowed = {tuple(answer.headers["Allow"].split(", ")) for answer in answers.values()}
        assert {answer.status_code for answer in answers.values()} == {405}, path
        assert len(allowed) == 1 and set(*allowed) < methods, path
        # What is left answers otherwise than with 405, and the rest with it. Nothing is deleted or uploaded by this.
        for method in methods - {"DELETE", "POST"}:
            assert (shared.client.request(method, path).status_code != 405) == (method in next(iter(allowed))), path
    assert shared.client.put("/models/demo").headers["Allow"] == "GET, HEAD, DELETE"
    assert shared.client.put("/models").headers["Allow"] == "GET, HEAD, POST"
    assert shared.client.put("/operations/x").headers["Allow"] == "GET, HEAD, DELETE"


def test_no_cache_keeps_a_problem(shared: Running) -> None:
    assert shared.client.get("/models/nothing").headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RuntimeError("/secret"), 500, "internal"),
        *((error("/secret"), 503, "unavailable") for error in (RedisDown, RedisSlow, RedisFull, OSError, TimeoutError)),
    ],
)
def test_the_unexpected_is_answered_without_telling_what_it_was(error: Exception, status: int, kind: str) -> None:
    app = FastAPI()
    refusals.install(app)

    @app.get("/")
    def fail() -> None:
        raise error

    with listening(app, Settings()) as address:
        answer = httpx.get(address)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert "secret" not in answer.text
