"""What a client cannot do to the service by how it uses its connections: from raw sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from rightrank.service.api import wire
from rightrank.service.settings import Settings
from tests.service.conftest import Running, left, serving

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = (
    b"POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    b"Content-Length: 1000000\r\n\r\n"
    b'--B\r\nContent-Disposition: form-data; name="checkpoint"; filename="a"\r\n\r\n'
)
# Given up after this; nothing here takes as long.
PATIENCE = 30.0


@pytest.fixture
def quickly(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A service with little patience and room."""
    monkeypatch.setattr(wire, "SWEEP_SECONDS", 0.02)
    few = {"connections": 3, "head_seconds": 0.3, "body_seconds": 0.3, "keep_alive_seconds": 1}
    with serving(settings.model_copy(update=few)) as running:
        running.client.close()  # its connections would count
        yield running


def connect(running: Running) -> socket.socket:
    url = running.client.base_url
    return socket.create_connection((url.host, url.port), timeout=PATIENCE)


def read(connection: socket.socket) -> bytes:
    """All that comes until the service closes."""
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 20):
            found += piece
    return bytes(found)


def problem(answer: bytes) -> tuple[int, str]:
    """Status and kind of an answer that is a problem and the last one of its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert "content-type: application/problem+json" in lines and "connection: close" in lines
    return int(head.split()[1]), json.loads(body)["type"].removeprefix("/problems/")


def pour(connection: socket.socket, piece: bytes, times: int) -> None:
    """Sends as a client does that does not look at what comes back."""
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            connection.sendall(piece)


@pytest.mark.parametrize("start", [GET + b"X-Large: ", b"GET /", b"", b"\r\n\r\n" + GET + b"X: "])
def test_a_head_without_an_end_is_refused_and_not_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    kept = counted(monkeypatch)
    with serving(settings) as running, connect(running) as connection:
        connection.sendall(start)
        pour(connection, b"A" * 65536, 800)
        answer = read(connection)
    assert not answer or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert sum(kept) < settings.head_bytes + wire.UNDELIVERED + 512 * 1024


def test_a_head_behind_a_request_under_way_is_no_way_around(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = counted(monkeypatch)
    with served(settings, waiting) as address, socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(GET + b"\r\n" + GET + b"X: ")
        pour(connection, b"A" * 65536, 800)
        read(connection)
    assert sum(kept) < settings.head_bytes + wire.UNDELIVERED + 512 * 1024


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what reaches uvicorn, as it comes."""
    kept: list[int] = []
    inner = wire.AutoHTTPProtocol

    def make(**given: Any) -> Any:
        protocol: Any = inner(**given)
        receive = protocol.data_received

        def count(data: bytes) -> None:
            kept.append(len(data))
            receive(data)

        protocol.data_received = count
        return protocol

    monkeypatch.setattr(wire, "AutoHTTPProtocol", make)
    return kept


@pytest.mark.parametrize("where", ["header", "headers", "address"])
def test_a_head_may_be_so_long_and_no_longer(settings: Settings, where: str) -> None:
    def answer(size: int) -> httpx.Response:
        if where == "address":
            return running.client.get(f"/healthz?{'x' * size}")
        many = {"X-Large": "x" * size} if where == "header" else {f"X-{n:04d}": "x" * 90 for n in range(size // 100)}
        return running.client.get("/healthz", headers=many)

    with serving(settings.model_copy(update={"head_bytes": 9000})) as running:
        assert answer(8000).status_code == 200
        refused = answer(10000)
    assert (refused.status_code, refused.json()["type"]) == (431, "/problems/head-too-large")
    assert refused.headers["Connection"] == "close"


@pytest.mark.parametrize("drip", [0.0, 0.05])
def test_a_head_has_so_much_time_however_it_comes(quickly: Running, drip: float) -> None:
    with connect(quickly) as connection:
        connection.sendall(GET)
        if drip:
            threading.Thread(target=dripping, args=(connection, b"X: y\r\n", drip), daemon=True).start()
        assert problem(read(connection)) == (408, "request-too-slow")


def test_the_second_head_of_a_connection_has_so_much_time_too(quickly: Running) -> None:
    with connect(quickly) as connection:
        connection.sendall(GET + b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        threading.Thread(target=dripping, args=(connection, b"\r\n", 0.05), daemon=True).start()
        assert problem(read(connection)) == (408, "request-too-slow")


def dripping(connection: socket.socket, piece: bytes, pause: float) -> None:
    with contextlib.suppress(OSError):
        for _ in range(400):
            connection.sendall(piece)
            time.sleep(pause)


def test_who_says_nothing_is_not_waited_for(quickly: Running) -> None:
    with connect(quickly) as connection:
        assert read(connection) == b""
    with connect(quickly) as connection:
        connection.sendall(GET + b"\r\n")
        answer = read(connection)  # until the keep-alive's end
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1") == 1


def test_a_body_of_which_nothing_comes_is_given_up_and_its_files_are_gone(quickly: Running) -> None:
    with connect(quickly) as connection:
        connection.sendall(POST + b"begin")
        assert problem(read(connection)) == (408, "request-too-slow")
    assert list(quickly.parts.store.scratch.iterdir()) == []
    assert left(quickly.parts) == []


def test_a_body_that_comes_slowly_but_comes_is_waited_for(quickly: Running) -> None:
    pieces = [b"x" * 100] * 12
    end = b"\r\n--B--\r\n"
    size = len(POST.partition(b"\r\n\r\n")[2]) + 1200 + len(end)
    with connect(quickly) as connection:
        connection.sendall(POST.replace(b"1000000", str(size).encode()))
        for piece in pieces:
            time.sleep(0.05)
            connection.sendall(piece)
        connection.sendall(end)
        assert connection.recv(65536).startswith(b"HTTP/1.1 202 ")


def test_there_are_so_many_connections_and_then_an_answer_that_says_so(quickly: Running) -> None:
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(connect(quickly)) for _ in range(3)]
        for connection in first:
            connection.sendall(GET + b"\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        one_more = stack.enter_context(connect(quickly))
        one_more.sendall(GET + b"\r\n")
        answer = read(one_more)
        assert problem(answer) == (503, "too-many-connections")
        assert b"\r\nRetry-After: " in answer
        # Who is far beyond is not even answered.
        beyond = [stack.enter_context(connect(quickly)) for _ in range(12)]
        assert b"" in [read(connection) for connection in beyond]
    deadline = time.monotonic() + PATIENCE
    while not answered(quickly):
        assert time.monotonic() < deadline


def answered(running: Running) -> bool:
    with connect(running) as connection:
        connection.sendall(GET + b"Connection: close\r\n\r\n")
        return read(connection).startswith(b"HTTP/1.1 200 ")


def test_requests_in_one_go_are_all_answered_in_turn(web: Running) -> None:
    with connect(web) as connection:
        connection.sendall((GET + b"\r\n") * 3 + GET + b"Connection: close\r\n\r\n")
        assert read(connection).count(b"HTTP/1.1 200 OK") == 4


@pytest.mark.parametrize("framing", [b"Content-Length: 50000000", b"Transfer-Encoding: chunked"])
def test_an_early_answer_reaches_who_sends_on(web: Running, framing: bytes) -> None:
    """It would be lost with a close at once: what comes for a closed connection is answered with a reset."""
    with connect(web) as connection:
        connection.sendall(POST.partition(b"Content-Length")[0].replace(b"multipart", b"other") + framing + b"\r\n\r\n")
        pour(connection, b"10000\r\n" + b"A" * 65536 + b"\r\n", 300)
        status, kind = problem(read(connection))
    assert (status, kind) == (422, "invalid-request")


def test_a_slow_reader_gets_all_of_an_early_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(wire, "LINGER_SECONDS", 0.05)
    with served(settings, large) as address, socket.create_connection(address, timeout=PATIENCE) as connection:
        connection.sendall(GET + b"Content-Length: 5\r\n\r\nhello")
        time.sleep(0.5)
        answer = read(connection)
    assert len(answer.partition(b"\r\n\r\n")[2]) == LARGE


LARGE = 20_000_000


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", str(LARGE).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # until the client has gone


@contextlib.contextmanager
def served(settings: Settings, app: ASGIApp) -> Iterator[tuple[str, int]]:
    """An application of the test's own, within the limits; its address."""
    server = wire.server_of(app, settings, port=0, lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
