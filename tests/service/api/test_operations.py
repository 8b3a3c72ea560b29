from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

from rightrank.service.settings import Settings
from tests.service.conftest import Running, at_work, left


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
