"""Bodies that are no files: who may not send one is answered before it is read, and it is never large or slow."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rightrank.service.api.bodies import JSON_LIMIT
from rightrank.service.settings import Settings
from tests.service.api.test_auth import bearer, line
from tests.service.conftest import Running, serving

ALIAS = "/names/demo/aliases/stable"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def guarded(stocked: Settings, tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "keys").write_text(line("root", "admin") + line("reader", "fetch"))
    limits = {"keys_file": tmp_path / "keys", "body_seconds": 0.3}
    with serving(stocked.model_copy(update=limits)) as running:
        yield running


def begun(running: Running, key: str, first: bytes) -> bytes:
    """What is answered to a request whose body only begins."""
    host, port = running.client.base_url.host, running.client.base_url.port
    head = f"PUT {ALIAS} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {bearer(key)['Authorization']}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n"
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(head.encode() + first)
        return connection.recv(65536)


@pytest.mark.parametrize(
    ("key", "first", "status"),
    [
        ("nobody", b"{", b"401"),
        ("reader", b"{", b"403"),
        ("root", b" " * (JSON_LIMIT + 1), b"413"),
        ("root", b"{", b"408"),
    ],
)
def test_nobody_has_the_service_wait_for_or_hold_a_long_body(
    guarded: Running, key: str, first: bytes, status: bytes
) -> None:
    assert begun(guarded, key, first).split()[1] == status


@pytest.mark.parametrize(
    ("body", "told"),
    [(b'{"version": 1', "JSON"), (b"\xff", "JSON"), (b"{}", "body.version"), (b'{"version": "x"}', "body.version"),
     (b"[" * 10_000, "JSON"), (b'{"version": ' + b"9" * 9000 + b"}", "out of range")],
)  # fmt: skip
def test_what_is_no_json_of_that_form_is_refused_by_its_place(guarded: Running, body: bytes, told: str) -> None:
    answer = guarded.client.put(ALIAS, content=body, headers=bearer("root") | JSON)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert told in answer.json()["detail"]


def test_what_does_not_say_that_it_is_json_is_none(guarded: Running) -> None:
    answer = guarded.client.put(ALIAS, content=b'{"version": 1}', headers=bearer("root"))
    assert answer.status_code == 422 and "Content-Type" in answer.json()["hint"]
    headers = bearer("root") | {"Content-Type": "application/json; charset=utf-8"}
    assert guarded.client.put(ALIAS, content=b'{"version": 1}', headers=headers).status_code == 200
