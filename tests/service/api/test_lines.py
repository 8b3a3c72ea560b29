from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from rightrank.service import logs
from rightrank.service.api import lines
from rightrank.service.api.app import RESOURCES
from rightrank.service.api.router import operation_id
from rightrank.service.settings import Settings
from tests.service.api.test_auth import bearer
from tests.service.api.test_auth import line as key_of
from tests.service.conftest import Files, Running, at_work, serving


class Log:
    """What is written as JSON while a test runs."""

    def __init__(self, out: io.StringIO) -> None:
        self._out = out

    def take(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines that came since, of an event or all."""
        text = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        found = [json.loads(each) for each in text.splitlines()]
        return [each for each in found if event in (None, each["event"])]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    handler = logging.StreamHandler(out := io.StringIO())
    handler.setFormatter(logs.Json())
    logs.log.addHandler(handler)
    before = logs.log.level
    logs.log.setLevel(logging.INFO)
    yield Log(out)
    logs.log.setLevel(before)
    logs.log.removeHandler(handler)


@pytest.fixture
def guarded(stocked: Settings, tmp_path: Path) -> Iterator[Running]:
    keys = tmp_path / "keys"
    keys.write_text(key_of("ann", "publish,fetch") + key_of("root", "admin"))
    with serving(stocked.model_copy(update={"keys_file": keys})) as running:
        yield running


def test_every_route_that_changes_something_has_an_event() -> None:
    routes = [route for resource in RESOURCES for route in resource.router.routes if isinstance(route, APIRoute)]
    changing = {operation_id(route) for route in routes if not route.methods <= {"GET", "HEAD"}}
    assert changing and set(lines.EVENTS) == changing | {lines.FETCH}
    assert len(set(lines.EVENTS.values())) == len(lines.EVENTS)


def test_a_fetch_says_which_file_went_to_whom(guarded: Running, log: Log) -> None:
    record = guarded.known("demo")
    url = f"/models/demo?max_params={record.plan.params}"
    with at_work(guarded.parts.settings):
        whole = guarded.client.get(url, headers=bearer("ann") | {"X-Request-Id": "from-the-proxy.1"})
    first = log.take("fetch")[-1]
    assert whole.headers["X-Request-Id"] == first["request"] == "from-the-proxy.1"
    assert (first["status"], first["bytes"], first["key"]) == (200, len(whole.content), "ann")
    assert (first["model"], first["plan"]) == (whole.headers["RightRank-Model"], record.plan.digest)
    assert (first["format"], first["asked"]) == ("torchscript", f"max_params={record.plan.params}")
    assert first["ms"] > 0 and "broken" not in first and "client" not in first

    same = guarded.client.get(url, headers=bearer("ann") | {"If-None-Match": whole.headers["ETag"]})
    part = guarded.client.get(url, headers=bearer("ann") | {"Range": "bytes=0-9"})
    lesser = guarded.client.get("/models/demo?budget=0.00001", headers=bearer("ann"))
    found = log.take()
    assert [line["status"] for line in found] == [same.status_code, part.status_code, lesser.status_code]
    assert [line["status"] for line in found] == [304, 206, 422]
    assert [line["bytes"] for line in found[:2]] == [0, 10]
    assert found[2]["problem"] == "budget-unreachable" and found[2]["detail"] == lesser.json()["detail"]
    assert len({line["request"] for line in found}) == 3 and "plan" not in found[2]

    for path in ("/models/demo", "/models", "/models/demo/curve", "/healthz"):
        guarded.client.get(path, headers=bearer("ann"))
    assert log.take() == []


def test_who_has_no_key_is_told_of_and_no_secret_is(guarded: Running, log: Log) -> None:
    guarded.client.get("/models", headers={"Authorization": "Bearer a-secret-of-mine"})
    guarded.client.delete("/models/demo", headers=bearer("ann"))
    unknown, refused = log.take()
    assert (unknown["event"], unknown["status"], unknown["problem"]) == ("request", 401, "unauthenticated")
    assert unknown["client"] == "127.0.0.1" and "key" not in unknown
    assert (refused["event"], refused["status"], refused["key"]) == ("delete", 403, "ann")
    assert "secret" not in json.dumps([unknown, refused])


def test_what_nobody_foresaw_has_a_line_and_an_answer_of_one_name(
    guarded: Running, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(guarded.parts.catalogue, "names", fail)
    answer = guarded.client.get("/models", headers=bearer("ann"))
    (line,) = log.take("request")
    assert answer.status_code == line["status"] == 500 and line["request"] == answer.headers["X-Request-Id"]
    assert (line["problem"], line["detail"]) == ("internal", answer.json()["detail"]) and "secret" not in line["detail"]


def test_each_change_says_what_it_changed(guarded: Running, log: Log) -> None:
    record, root = guarded.known("demo"), bearer("root")
    id = guarded.parts.catalogue.resolve("demo")
    report = f"/models/demo/reports/{record.sha256}/wer"
    guarded.client.put("/names/demo/aliases/stable", json={"version": 1}, headers=root)
    guarded.client.put(report, json={"value": 1.5}, headers=root)
    guarded.client.delete(report, headers=root)
    guarded.client.delete("/names/demo/aliases/stable", headers=root)
    guarded.client.delete("/models/demo@1", headers=root)
    guarded.client.post("/models/demo@1/undelete", headers=root)
    found = log.take()
    expected = ["alias", "report", "report-withdrawn", "alias-removed", "delete", "undelete"]
    assert [line["event"] for line in found] == expected and {line["status"] for line in found} == {200}
    assert {line["key"] for line in found} == {"root"}
    assert found[0]["version"] == 1 and found[0]["path"] == "/names/demo/aliases/stable"
    assert [line.get("model") for line in found] == [None, id, id, None, id, id]


def test_an_upload_is_told_of_and_so_is_how_it_ends(guarded: Running, files: Files, log: Log) -> None:
    form = {"checkpoint": ("model.pt2", b"no model")}
    named = guarded.client.post("/models", files=form, data={"name": "net"}, headers=bearer("ann"))
    refused = guarded.client.post("/models", files=form, data={"name": "a\nb"}, headers=bearer("ann"))
    taken, not_taken = log.take("upload")
    assert (taken["status"], taken["model"], taken["name"]) == (202, named.json()["id"], "net")
    assert (taken["operation"], taken["received"], taken["key"]) == (named.json()["operation"], 8, "ann")
    assert (not_taken["status"], not_taken["problem"]) == (422, "invalid-request")
    assert not_taken["detail"] == refused.json()["detail"]
    with at_work(guarded.parts.settings):
        while not (ended := log.take("operation-ended")):
            pass
    assert (ended[0]["operation"], ended[0]["outcome"]) == (named.json()["operation"], "failed")
    assert ended[0]["problem"].startswith("checkpoint-") and ended[0]["detail"] and ended[0]["ms"] > 0
