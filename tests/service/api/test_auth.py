from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.concurrency import run_in_threadpool

from rightrank.service.api import auth, models
from rightrank.service.api.auth import Gate
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, serving


def line(name: str, scopes: str) -> str:
    """A keys file's line for the key `<name>-secret`."""
    return f"{name} {scopes} {digest(name)}\n"


def digest(name: str) -> str:
    return hashlib.sha256(f"{name}-secret".encode()).hexdigest()


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


@pytest.mark.parametrize(("name", "status"), [("dev", 403), ("ann", 403), ("root", 200)])
def test_deleting_takes_an_admin(guarded: Running, name: str, status: int) -> None:
    assert guarded.client.delete("/models/demo", headers=bearer(name)).status_code == status


def test_fetching_takes_a_key_and_is_private_then(guarded: Running) -> None:
    record = guarded.known("demo")
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


@pytest.mark.parametrize("text", ["", "# nobody\n", "ann fetch", f"ann fly {'0' * 64}"])
def test_a_keys_file_without_a_key_or_with_a_mistake_stops_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match="keys"):
        Gate(tmp_path / "keys")


def test_a_key_that_has_expired_says_so(guarded: Running, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line("dev", "fetch").rstrip() + " 2001-02-03\n")
    guarded.gate.look()
    answer = guarded.client.get("/models", headers=bearer("dev"))
    assert (answer.status_code, answer.json()["type"]) == (401, "/problems/unauthenticated")
    assert "'dev' has expired: its last day was 2001-02-03" in answer.json()["detail"]


def statuses(guarded: Running) -> dict[str, int]:
    found = {name: guarded.client.get("/models", headers=bearer(name)).status_code for name in ("ann", "dev", "new")}
    return found | {"": guarded.client.get("/models").status_code}


FORMER = {"ann": 200, "dev": 200, "new": 401, "": 401}


def test_a_service_that_runs_takes_up_changed_keys_by_itself(
    guarded: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert statuses(guarded) == FORMER
    monkeypatch.setattr(auth, "WATCH_SECONDS", 0.01)
    (tmp_path / "keys").write_text(line("ann", "fetch") + line("new", "fetch"))
    deadline = time.monotonic() + 20
    while statuses(guarded) != {"ann": 200, "dev": 401, "new": 200, "": 401}:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("change", ["gone", "broken", "a folder", "not text"])
def test_keys_that_cannot_be_read_again_stay_as_they_were(
    guarded: Running, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.unlink()
    if change == "a folder":
        file.mkdir()
    elif change != "gone":
        file.write_bytes(b"new fetch\n" if change == "broken" else b"\xff\xfe")
    for _ in range(3):
        guarded.gate.look()
    assert statuses(guarded) == FORMER
    assert [record.levelname for record in caplog.records if "could not be read again" in record.message] == ["ERROR"]


def test_a_keys_file_that_names_nobody_any_more_lets_nobody_in(guarded: Running, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# all gone\n")
    guarded.gate.look()
    assert set(statuses(guarded).values()) == {401}
    (tmp_path / "keys").write_text(line("new", "fetch"))
    guarded.gate.look()
    assert statuses(guarded) == {"ann": 401, "dev": 401, "new": 200, "": 401}


def test_a_file_that_looks_the_same_is_read_again_only_when_asked_for(guarded: Running, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    about = file.stat()
    text = file.read_text()
    with file.open("r+") as same:
        same.write(text.replace("dev", "new").replace(digest("dev"), digest("new")))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    guarded.gate.look()
    assert statuses(guarded) == FORMER
    guarded.gate.reread()
    guarded.gate.look()
    assert statuses(guarded) == {"ann": 200, "dev": 401, "new": 200, "": 401}


@pytest.mark.parametrize(
    "header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Anything", "X-Real-IP", "Via"]
)
def test_without_keys_what_came_through_a_proxy_is_refused_and_told_what_to_do(shared: Running, header: str) -> None:
    for method, path in (("GET", "/models/demo?budget=0.5"), ("POST", "/models"), ("DELETE", "/models/demo")):
        answer = shared.client.request(method, path, headers={header: "192.0.2.1"})
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")
        assert "RIGHTRANK_KEYS_FILE" in answer.json()["hint"]


def test_with_keys_a_proxy_may_stand_in_front(guarded: Running) -> None:
    headers = bearer("dev") | {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1", "Host": "models.example"}
    assert guarded.client.get("/models", headers=headers).status_code == 200


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
