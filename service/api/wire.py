"""Connections: how many there are, how long a request's head may be and may take. Below HTTP, and around uvicorn's.

uvicorn reads a head of any length for any time. Each connection's protocol here stands in front of uvicorn's own and
hands on what comes, but for what is too much; it parses nothing. Where a request begins and ends it is told by `Told`,
which stands around the application.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from rightrank.service import problems
from rightrank.service.api.refusals import response
from rightrank.service.settings import Settings

# In a request's scope, the connection that it came by.
CONNECTION = "rightrank.connection"
# How often it is looked for connections whose time is over.
SWEEP_SECONDS = 1.0
# For so long what a client still sends is read and dropped, so that it gets to read why it was refused.
LINGER_SECONDS = 2.0
# Of a body so much may lie between the connection and the application: what uvicorn keeps of one that is not asked
# for, and two readings on top.
UNDELIVERED = 1024 * 1024
REASONS = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


def server_of(app: ASGIApp, settings: Settings, **options: Any) -> uvicorn.Server:
    """What serves `app` within the settings' limits; `options` are uvicorn's."""
    connections = Connections(settings)

    class Bound(Connection):
        def __init__(self, **given: Any) -> None:
            super().__init__(connections, **given)

    config = uvicorn.Config(
        Told(app, settings.head_bytes),
        http=Bound,
        ws="none",
        server_header=False,
        # They are for `auth.py` to see as they are; the client is who the connection comes from.
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        **options,
    )
    return uvicorn.Server(config)


class Connections:
    """Those that there are, and what ends the ones whose time is over."""

    def __init__(self, settings: Settings) -> None:
        self.most = settings.connections
        self.head_bytes = settings.head_bytes
        self.head_seconds = settings.head_seconds
        self._open: set[Connection] = set()
        self._sweeping = False

    def add(self, connection: Connection) -> int:
        """How many there are with it."""
        self._open.add(connection)
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        return len(self._open)

    def remove(self, connection: Connection) -> None:
        self._open.discard(connection)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._open):
            if connection.due <= now:
                connection.expire()
        self._sweeping = bool(self._open)
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep)


class Connection(asyncio.Protocol):
    """One connection. What uvicorn's protocol is given it is given by this one."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        self._all = connections
        given["app_state"] = {**given["app_state"], CONNECTION: self}
        self._inner = cast(Callable[..., asyncio.Protocol], AutoHTTPProtocol)(**given)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._made = self._ending = False
        # Requests that the application works on.
        self._requests = 0
        # Bytes received that have not come out at the application, of a head or of a body.
        self._pending = 0
        # When the time of the head that is awaited is over, or of what still comes after a refusal.
        self.due = math.inf
        # Whether there is more of a body than the application has asked for.
        self.unread = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        there = self._all.add(self)
        if there > 2 * self._all.most:
            self._ending = True
            self._transport.abort()
            return
        if there > self._all.most:
            self._refuse(503, "too-many-connections", "Too many connections are open.", "Try again in a moment.")
            return
        self.due = self._loop.time() + self._all.head_seconds
        self._made = True
        self._inner.connection_made(cast(asyncio.Transport, Outlet(self._transport, self)))

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return
        limit = self._all.head_bytes + UNDELIVERED
        if self._pending > limit:
            self._refuse(431, "head-too-large", f"The request's head has more than {self._all.head_bytes} bytes.")
            return
        self._pending += len(data)
        if not self._requests and self.due == math.inf:
            self.due = self._loop.time() + self._all.head_seconds
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._ending else self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._all.remove(self)
        self._ending = True
        if self._made:
            self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    # What `Told` tells.

    def begin(self) -> None:
        """A request's head is complete."""
        self._requests += 1
        self._pending = 0
        self.due = math.inf

    def deliver(self) -> None:
        """What has come of the body is with the application."""
        self._pending = 0

    def finish(self) -> None:
        """A request is answered."""
        self._requests -= 1
        if not self._requests and self._pending and not self._ending:
            self.due = self._loop.time() + self._all.head_seconds

    # How it ends.

    def expire(self) -> None:
        """The time is over."""
        assert self._transport is not None
        if self._ending and self._transport.get_write_buffer_size():
            return  # a slow reader is still being answered
        if self._ending or not self._pending:
            self._transport.abort()
        else:
            self._refuse(408, "request-too-slow", "The request's head did not end in time.")

    def linger(self) -> None:
        """Says that nothing more is sent, and reads on for a while: a close at once would make the client's system
        throw away the answer, where there is something of the request that was not read."""
        assert self._transport is not None
        self._ending = True
        self.due = self._loop.time() + LINGER_SECONDS
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _refuse(self, status: int, kind: str, detail: str, hint: str = "") -> None:
        assert self._transport is not None
        if self._requests:  # it would stand in the midst of another answer
            self._ending = True
            self._transport.abort()
            return
        body = json.dumps(problems.document(kind, detail, hint)).encode()
        lines = [
            f"HTTP/1.1 {status} {REASONS[status]}",
            "Content-Type: application/problem+json",
            f"Content-Length: {len(body)}",
            *(["Retry-After: 2"] if status == 503 else []),
            "Connection: close",
        ]
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.linger()


class Outlet:
    """The transport that uvicorn's protocol writes to: the connection's own, but for how it is closed."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection
        self._closed = False
        # Attributes of the transport itself, so that writing costs no call more.
        self.write = transport.write
        self.writelines = transport.writelines
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.abort = transport.abort

    def is_closing(self) -> bool:
        return self._closed or self._transport.is_closing()

    def close(self) -> None:
        if self._connection.unread and not self.is_closing():
            self._closed = True
            self._connection.linger()
        elif not self._closed:
            self._transport.close()


class Told:
    """Around the application: tells a request's connection where it begins and ends, refuses heads that are too long,
    and closes the connection after an answer that did not wait for the whole body."""

    def __init__(self, app: ASGIApp, head_bytes: int) -> None:
        self._app = app
        self._head_bytes = head_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection: Connection = scope["state"].pop(CONNECTION)
        connection.begin()
        try:
            size = len(scope["raw_path"]) + len(scope["query_string"])
            body = False
            for name, value in scope["headers"]:
                size += len(name) + len(value) + 4
                body = body or (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
            if size > self._head_bytes:
                connection.unread = body
                await _too_large(size, self._head_bytes, scope, receive, send)
            elif body:
                await self._with_body(connection, scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            connection.finish()

    async def _with_body(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        connection.unread = True

        async def hear() -> Message:
            message = await receive()
            connection.deliver()
            if not message.get("more_body"):
                connection.unread = False
            return message

        async def say(message: Message) -> None:
            if connection.unread and message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message["headers"] if name.lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        await self._app(scope, hear, say)


async def _too_large(size: int, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    document = problems.document("head-too-large", f"The request's head has {size} bytes, and may have {limit}.")
    await response(document, {"Connection": "close"})(scope, receive, send)
