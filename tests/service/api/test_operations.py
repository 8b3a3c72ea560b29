from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rightrank.service.jobs.engine import QUEUES
from rightrank.service.problems import Problem, describe
from rightrank.service.registry.layout import failure_key
from rightrank.service.settings import Settings
from tests.service.api.test_auth import bearer, line
from tests.service.conftest import Running, at_work, left, serving


def publish(web: Running) -> str:
    answer = web.client.post("/models", files={"checkpoint": ("a.pt2", b"anything")})
    return str(answer.json()["operation"])


def events(web: Running, operation: str) -> Iterator[tuple[str, dict[str, object]]]:
    with web.client.stream("GET", f"/operations/{operation}/events") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_an_operation_that_waits_says_so(web: Running) -> None:
    operation = web.client.get(f"/operations/{publish(web)}").json()
    assert operation["done"] is False
    assert operation["progress"] == {"phase": "queued", "completed": 0, "total": 0, "unit": ""}


def test_events_follow_an_operation_to_its_end(web: Running, settings: Settings) -> None:
    operation = publish(web)
    found: list[tuple[str, dict[str, object]]] = []
    thread = threading.Thread(target=lambda: found.extend(events(web, operation)))
    thread.start()
    while not found:
        time.sleep(0.01)
    with at_work(settings):
        thread.join(60)
    assert [name for name, _ in found[:-1]] == ["progress"] * (len(found) - 1)
    assert found[0][1]["state"] == "queued"
    assert found[-1][0] == "done" and found[-1][1]["error"]


def test_events_of_an_operation_that_has_ended_are_its_end(shared: Running, demo: str) -> None:
    ((name, operation),) = events(shared, f"ingest-{demo}")
    assert name == "done" and operation["result"]


def test_events_of_no_operation_are_404(shared: Running) -> None:
    assert shared.client.get("/operations/nothing/events").status_code == 404


def test_a_cancelled_operation_stays_cancelled(web: Running, settings: Settings) -> None:
    operation = publish(web)
    assert web.client.delete(f"/operations/{operation}").json()["state"] == "cancelled"
    with at_work(settings):
        assert web.end(operation)["error"]["type"] == "/problems/cancelled"
    assert left(web.parts) == []


def test_cancelling_what_has_ended_changes_nothing(shared: Running, demo: str) -> None:
    before = shared.client.get(f"/operations/ingest-{demo}").json()
    assert shared.client.delete(f"/operations/ingest-{demo}").json() == before
    assert shared.client.get(f"/models/{demo}").status_code == 200


def test_what_is_under_way_and_waits_is_listed(web: Running) -> None:
    assert web.client.get("/operations").json() == {"operations": []}
    answer = web.client.post("/models", files={"checkpoint": ("a.pt2", b"anything")}, data={"name": "digits"}).json()
    (listed,) = web.client.get("/operations").json()["operations"]
    assert listed["names"] == ["digits"]
    operation = web.client.get(f"/operations/{answer['operation']}").json()
    assert listed == operation | {"names": ["digits"], "bytes": None, "format": None}
    web.client.delete(f"/operations/{answer['operation']}")
    assert web.client.get("/operations").json() == {"operations": []}


def test_a_size_under_way_is_told_by_its_file(stocked: Settings) -> None:
    with serving(stocked) as running:
        planned = running.client.get("/models/demo/plan?max_params=3001&format=pt2").json()
        running.client.get("/models/demo?max_params=3001&format=pt2", headers={"Prefer": "respond-async"})
        found = running.client.get("/operations").json()["operations"]
        (listed,) = [each for each in found if each["id"].endswith(planned["plan"])]
        assert (listed["bytes"], listed["format"], listed["names"]) == (planned["bytes"], "pt2", ["demo"])


def test_an_upload_that_was_given_up_is_listed_until_it_is_gone(web: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    id = web.client.post("/models", files={"checkpoint": ("a.pt2", b"anything")}).json()["id"]
    parts = web.parts
    attempt = parts.engine.take(QUEUES, rest=0)
    assert attempt is not None
    error = describe(Problem("gave-up", "It kept failing."))
    parts.store.create_json(failure_key(id), error)
    assert parts.engine.fail(attempt, error)
    (listed,) = web.client.get("/operations").json()["operations"]
    assert (listed["id"], listed["state"], listed["error"]["detail"]) == (f"ingest-{id}", "failed", "It kept failing.")

    def again(prefix: str) -> None:
        raise AssertionError(f"all of {prefix} is listed again, and a page asks every few moments")

    monkeypatch.setattr(parts.store, "sizes", again)
    assert web.client.get("/operations").json()["operations"] == [listed]
    web.client.delete(f"/models/{id}")
    assert web.client.get("/operations").json() == {"operations": []}


def test_what_another_key_does_is_not_listed(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line("root", "admin") + line("narrow", "publish:other.*"))
    with serving(settings.model_copy(update={"keys_file": tmp_path / "keys"})) as running:
        for who, name in (("root", "digits"), ("narrow", "other.net")):
            form = {"checkpoint": ("a.pt2", f"anything of {who}".encode())}
            running.client.post("/models", files=form, data={"name": name}, headers=bearer(who)).raise_for_status()
        for who, names in (("root", [["digits"], ["other.net"]]), ("narrow", [["other.net"]])):
            found = running.client.get("/operations", headers=bearer(who)).json()["operations"]
            assert sorted(each["names"] for each in found) == names
