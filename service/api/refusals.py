"""Problem documents as answers, and every failure of the application as one."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from rightrank.models.errors import RightRankError
from rightrank.service import logs
from rightrank.service.problems import Problem, describe, document, unavailable

log = logging.getLogger("rightrank")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def response(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """The answer that carries a problem document. It is of the moment: no cache may keep it, as it may a 404 that says
    nothing. What may pass says when to ask again."""
    again = {"Retry-After": "10"} if int(body["status"]) == 503 else {}
    return JSONResponse(
        body,
        status_code=int(body["status"]),
        headers={"Cache-Control": "no-store", **again, **(headers or {})},
        media_type="application/problem+json",
    )


def answer(request: Request, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """The same to a request, whose line in the log has the problem too."""
    note(request.scope, body)
    return response(body, headers)


def note(scope: MutableMapping[str, Any], body: Mapping[str, Any]) -> None:
    """Has a request's line in the log say the problem."""
    logs.note(scope, problem=body["type"].rsplit("/", 1)[-1], detail=body["detail"])


def install(app: FastAPI) -> None:
    """Makes every failure of `app` a problem document."""
    app.add_exception_handler(RightRankError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RedisError, _unavailable)
    app.add_exception_handler(OSError, _unavailable)
    app.add_exception_handler(Exception, _unexpected)


async def _known(request: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, Problem) else {}
    return answer(request, describe(error), headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
    return answer(request, document("invalid-request", "; ".join(places)))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {401: "unauthenticated", 403: "forbidden", 404: "not-found", 405: "method-not-allowed"}
    kind = kinds.get(error.status_code, "invalid-request" if error.status_code < 500 else "internal")
    body = document(kind, f"{request.method} {request.url.path}: {http.HTTPStatus(error.status_code).phrase}.")
    # A body that is no JSON is as wrong as one that is other JSON than it should be.
    status = body["status"] if error.status_code == 400 else error.status_code
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(methods(request))
    return answer(request, body | {"status": status}, headers)


def methods(request: Request) -> list[str]:
    """The methods that the address of a request answers to, by whichever of its routes."""
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    routes = request.app.routes
    return [method for method in METHODS if any(route.matches(scopes[method])[0] == Match.FULL for route in routes)]


async def _unexpected(request: Request, error: Exception) -> Response:
    # What names requests in their answers, and writes their lines, stands below this and is through with it.
    called = request.scope.get(logs.FACTS, {}).get("request")
    return answer(request, describe(error), {} if called is None else {"X-Request-Id": called})


async def _unavailable(request: Request, error: Exception) -> Response:
    log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    problem = unavailable("the cache" if isinstance(error, RedisError) else "the service's disk")
    return answer(request, describe(problem), problem.headers)
