from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rightrank.service.api.forms import FORM_OVERHEAD
from rightrank.service.registry.layout import checkpoint_key
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, left, serving


def push(web: Running, content: bytes = b"anything", **fields: str) -> httpx.Response:
    return web.client.post("/models", files={"checkpoint": ("a.pt2", content)}, data=fields)


def test_an_upload_is_accepted_with_where_to_look(web: Running) -> None:
    answer = push(web, name="net")
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/models/{answer.json()['id']}"
    assert answer.json()["operation"] == f"ingest-{answer.json()['id']}"
    waiting = web.client.get(answer.headers["Location"])
    assert (waiting.status_code, waiting.json()["type"]) == (503, "/problems/model-not-ready")
    assert waiting.headers["Retry-After"]
    assert waiting.json()["operation"] == f"/operations/{answer.json()['operation']}"
    assert web.client.get("/models").json()["models"] == []


def test_the_same_upload_twice_is_one_model_and_one_job(web: Running) -> None:
    first, second = push(web), push(web, name="net")
    assert first.json() == second.json()
    assert web.parts.engine.length("ingest") == 1


def test_the_same_upload_at_once_is_one_model_and_one_job(web: Running) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: push(web).json()["id"], range(8)))
    assert len(set(answers)) == 1
    assert web.parts.engine.length("ingest") == 1
    assert len(web.parts.store.keys("checkpoints")) == 1


def test_another_option_makes_another_model_of_the_same_file(web: Running) -> None:
    plain, chosen = push(web).json()["id"], push(web, options='{"criterion": "c1"}').json()["id"]
    assert plain != chosen
    assert len(web.parts.store.keys("checkpoints")) == 1


def test_an_architecture_has_one_meaning_however_it_is_spelled(web: Running) -> None:
    spellings = ("mlp", '{"name": "mlp"}', '{"arguments": {}, "name": "mlp"}')
    assert len({push(web, architecture=text).json()["id"] for text in spellings}) == 1
    nested = '{"name": "mlp", "arguments": {"hidden": [3]}}'
    assert push(web, architecture='{"name": "mlp", "hidden": [3]}').json() == push(web, architecture=nested).json()


def test_another_card_makes_another_model_and_no_card_is_as_none_was(web: Running) -> None:
    cards = ('{"license": "MIT"}', ' { "license" : "MIT", "labels": null}', '{"license": "BSD-3-Clause"}', "{}", "")
    ids = [push(web, card=text).json()["id"] for text in cards]
    assert ids[0] == ids[1] != ids[2] and ids[3] == ids[4] == push(web).json()["id"]
    assert len(set(ids)) == 3


def test_a_finished_model_is_published_at_once(stocked: Settings, demo: str, files: Files) -> None:
    with serving(stocked) as web:
        answer = web.push({"checkpoint": files.checkpoint, "evaluation": files.evaluation}, name="second.name")
        assert answer.json()["id"] == demo
        assert web.client.get(f"/operations/{answer.json()['operation']}").json()["done"]
        assert web.client.get("/models/second.name@1").json()["names"] == ["demo@1", "second.name@1"]


@pytest.mark.parametrize(
    "fields",
    [{"name": "Upper"}, {"name": "-x"}, {"name": "a/b"}, {"name": "a@1"}, {"name": "x" * 65}, {"name": "m" + "a" * 24},
     {"options": "["}, {"options": "[]"}, {"options": '{"criterion": "best"}'}, {"options": '{"criterion": ["c1"]}'},
     {"options": '{"speed": 1}'}, {"options": '{"metric": "vibes"}'}, {"options": "[" * 60000},
     {"architecture": "{}"}, {"architecture": '{"name": 3}'}, {"architecture": '{"name": "mlp", "arguments": 1}'},
     {"card": "MIT"}, {"card": "[1]"}, {"card": '{"licence": "MIT"}'}, {"card": '{"preprocessing": {"a": NaN}}'},
     {"unknown": "x"}],
)  # fmt: skip
def test_a_field_that_cannot_be_meant_is_refused_and_nothing_is_kept(web: Running, fields: dict[str, str]) -> None:
    answer = push(web, **fields)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert left(web.parts) == []
    assert list(web.parts.store.scratch.iterdir()) == []


def test_an_upload_needs_a_checkpoint_with_something_in_it(web: Running) -> None:
    assert push(web, b"").status_code == 422
    assert web.client.post("/models", files={"evaluation": ("e", b"x")}).status_code == 422


def test_an_upload_beyond_the_limit_is_refused_by_what_it_declares(web: Running) -> None:
    limit = web.parts.settings.upload_limit
    with socket.create_connection((web.client.base_url.host, web.client.base_url.port)) as connection:
        connection.sendall(
            b"POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            b"Content-Length: %d\r\n\r\n" % (limit + FORM_OVERHEAD + 1)
        )
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"/problems/upload-too-large" in answer and b'"limit":%d' % limit in answer


def test_an_upload_beyond_the_limit_is_refused_while_it_comes(web: Running) -> None:
    limit = web.parts.settings.upload_limit

    def body() -> Iterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="checkpoint"; filename="a"\r\n\r\n'
        for _ in range(limit // 1000 + 100):
            yield b"x" * 1000

    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = web.client.post("/models", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/upload-too-large")
    assert list(web.parts.store.scratch.iterdir()) == []


def test_an_upload_at_the_limit_is_taken(web: Running) -> None:
    limit = web.parts.settings.upload_limit
    assert push(web, b"x" * limit).status_code == 202
    assert push(web, b"x" * (limit + 1)).status_code == 413


def test_an_upload_that_breaks_off_leaves_nothing(web: Running) -> None:
    host, port = web.client.base_url.host, web.client.base_url.port
    with socket.create_connection((host, port)) as connection:
        connection.sendall(
            b"POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=B\r\n\r\n"
            b'--B\r\nContent-Disposition: form-data; name="checkpoint"; filename="a"\r\n\r\nxxx'
        )
        while not list(web.parts.store.scratch.iterdir()):
            pass
    while list(web.parts.store.scratch.iterdir()):
        pass
    assert left(web.parts) == []


def test_what_was_uploaded_is_stored_bit_for_bit(web: Running) -> None:
    content = bytes(range(256)) * 5000
    push(web, content)
    (key,) = web.parts.store.keys("checkpoints")
    assert web.parts.store.read(key) == content
    upload = json.loads(web.parts.store.read(web.parts.store.keys("models")[0]))
    assert checkpoint_key(upload["checkpoint"]) == key


def test_a_full_queue_refuses_before_the_body_is_sent(web: Running) -> None:
    for n in range(web.parts.settings.queue_limit):
        web.parts.engine.send(f"ingest-{n}", "ingest", {})
    answer = push(web)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-full")
    assert left(web.parts) == []
