from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.concurrency import run_in_threadpool

from rightrank.service.api import models
from rightrank.service.api.auth import read_keys
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, serving


def line(name: str, scopes: str) -> str:
    """A keys file's line for the key `<name>-secret`."""
    return f"{name} {scopes} {hashlib.sha256(f'{name}-secret'.encode()).hexdigest()}\n"


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}-secret"}


@pytest.fixture
def guarded(stocked: Settings, tmp_path: Path) -> Iterator[Running]:
    """A service that knows three people."""
    keys = tmp_path / "keys"
    keys.write_text("# who may what\n\n" + line("ann", "publish,fetch") + line("dev", "fetch") + line("root", "admin"))
    with serving(stocked.model_copy(update={"keys_file": keys, "jobs_per_key": 2})) as running:
        yield running


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic dev-secret", "dev-secret"])
def test_without_a_known_key_nothing_is_told(guarded: Running, key: str) -> None:
    for path in ("/models", "/models/demo", "/models/demo?budget=0.5", "/operations/x", "/metrics", "/models/nothing"):
        answer = guarded.client.get(path, headers={"Authorization": key} if key else {})
        assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_health_and_the_page_need_no_key(guarded: Running) -> None:
    assert {guarded.client.get(path).status_code for path in ("/healthz", "/readyz", "/")} == {200}


@pytest.mark.parametrize(("name", "status"), [("dev", 403), ("ann", 202), ("root", 202)])
def test_publishing_takes_its_scope(guarded: Running, files: Files, name: str, status: int) -> None:
    form = {"checkpoint": ("model.pt2", b"anything")}
    assert guarded.client.post("/models", files=form, headers=bearer(name)).status_code == status


@pytest.mark.parametrize(("name", "status"), [("dev", 403), ("ann", 403), ("root", 204)])
def test_deleting_takes_an_admin(guarded: Running, name: str, status: int) -> None:
    assert guarded.client.delete("/models/demo", headers=bearer(name)).status_code == status


def test_fetching_takes_a_key_and_is_private_then(guarded: Running) -> None:
    record = guarded.parts.catalogue.records(guarded.parts.catalogue.resolve("demo"))[0]
    headers = bearer("dev") | {"If-None-Match": f'"{record.sha256}"'}
    answer = guarded.client.get(f"/models/demo@1?max_params={record.plan.params}", headers=headers)
    assert answer.status_code == 304
    assert answer.headers["Cache-Control"].startswith("private")


def test_a_key_has_so_many_jobs_and_no_more(guarded: Running) -> None:
    def publish(content: bytes, name: str) -> int:
        form = {"checkpoint": ("model.pt2", content)}
        return guarded.client.post("/models", files=form, headers=bearer(name)).status_code

    assert [publish(content, "ann") for content in (b"1", b"2", b"3")] == [202, 202, 429]
    assert publish(b"4", "root") == 202
    waiting = guarded.client.get("/models/demo?budget=0.45", headers=bearer("ann") | {"Prefer": "wait=0"})
    assert (waiting.status_code, waiting.json()["type"]) == (429, "/problems/too-many-jobs")


def test_uploads_that_come_in_side_by_side_are_so_many_and_no_more(
    guarded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them begin while none is under way."""
    together, before = threading.Barrier(4), len(guarded.parts.store.keys("checkpoints"))

    async def slowly(*given: Any) -> Any:
        form = await receive(*given)
        await run_in_threadpool(together.wait, 20)
        return form

    receive = models.receive
    monkeypatch.setattr(models, "receive", slowly)

    def publish(content: bytes) -> int:
        form = {"checkpoint": ("model.pt2", content)}
        return guarded.client.post("/models", files=form, headers=bearer("ann")).status_code

    with ThreadPoolExecutor(4) as pool:
        found = sorted(pool.map(publish, (b"1", b"2", b"3", b"4")))
    assert found == [202, 202, 429, 429]
    assert len(guarded.parts.store.keys("checkpoints")) == 2 + before


@pytest.mark.parametrize(
    "text", ["", "ann fetch", "ann fetch 123", f"ann fly {'0' * 64}", f"ann fetch {'0' * 64} more"]
)
def test_a_keys_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match="keys"):
        read_keys(tmp_path / "keys")


def test_the_keys_file_gives_no_key_away(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line("ann", "publish"))
    assert "ann-secret" not in repr(read_keys(tmp_path / "keys"))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "192.168.1.5"])
def test_without_keys_a_foreign_host_name_is_refused(shared: Running, host: str) -> None:
    answer = shared.client.get("/models", headers={"Host": host})
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"])
def test_without_keys_every_name_of_this_machine_will_do(shared: Running, host: str) -> None:
    assert shared.client.get("/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://[x", 403), ("http://localhost:8000", 422)],
)
def test_without_keys_a_form_on_another_site_cannot_publish(shared: Running, origin: str, status: int) -> None:
    assert shared.client.post("/models", files={"other": b"x"}, headers={"Origin": origin}).status_code == status
