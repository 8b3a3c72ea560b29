"""Bodies of requests: taken as they come, within limits of size and time, and only once the key has been looked at.

A body that FastAPI itself takes is read to its end before anything else of the request is, whoever sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from rightrank.service.problems import Problem

# Bytes. What is said in JSON is short.
JSON_LIMIT = 16 * 1024

M = TypeVar("M", bound=BaseModel)


async def chunks(request: Request, patience: float) -> AsyncIterator[bytes]:
    """The body as it comes. Raises `Problem` where nothing comes for `patience` seconds, or the connection ends."""
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Problem(
                "request-too-slow", f"Nothing more of the upload came for {patience:g} s.", "Upload it again."
            ) from error
        except ClientDisconnect as error:
            raise Problem("upload-incomplete", "The connection ended before the body did.") from error
        yield chunk


def json_of(model: type[M]) -> Callable[[Request], Awaitable[M]]:
    """A dependency that reads a body as JSON of this form. It is to come behind the one that looks at the key. Raises
    `Problem`."""

    async def read(request: Request) -> M:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Problem("invalid-request", "The body is not JSON.", "Send it with Content-Type: application/json.")
        data = bytearray()
        async for chunk in chunks(request, request.app.state.parts.settings.body_seconds):
            data += chunk
            if len(data) > JSON_LIMIT:
                raise Problem(
                    "upload-too-large",
                    f"The body is larger than {JSON_LIMIT} bytes.",
                    headers={"Connection": "close"},
                    members={"limit": JSON_LIMIT},
                )
        try:
            return model.model_validate_json(bytes(data))
        except ValidationError as error:
            places = [f"{'.'.join(['body', *map(str, each['loc'])])}: {each['msg']}" for each in error.errors()]
            raise Problem("invalid-request", "; ".join(places)) from error

    return read


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """What the description says of such a body, as FastAPI's `openapi_extra`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": model.model_json_schema()}}}}


# The problems that a route answers with which reads a body.
BODY = ("invalid-request", "upload-too-large", "upload-incomplete", "request-too-slow")
