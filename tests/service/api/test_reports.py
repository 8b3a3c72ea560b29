"""Numbers that a publisher reports: of these bytes and no others, beside what the service measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from rightrank.models.measure.metrics import METRICS
from rightrank.service.api import schemas
from rightrank.service.registry.layout import manifest_key, record_key, reported_key
from rightrank.service.registry.reports import MOST
from rightrank.service.settings import Settings
from tests.service.api.test_access import KEYS, ask
from tests.service.api.test_auth import line
from tests.service.api.test_schemas import hold
from tests.service.conftest import Running, at_work, serving

WER = {"value": 0.083, "n": 2000, "low": 0.0712, "high": 0.0951, "higher_is_better": False}


@pytest.fixture
def web(stocked: Settings) -> Iterator[Running]:
    with serving(stocked) as running:
        yield running


def sizes(web: Running) -> list[dict[str, Any]]:
    """The points of the curve, each with the SHA-256 of its file."""
    id = web.parts.catalogue.resolve("demo")
    records = {record.plan.digest: record for record in web.parts.catalogue.records(id)}
    points = web.client.get("/models/demo/curve").json()["points"]
    return [{**point, "sha256": records[point["plan"]].sha256} for point in points]


def report(web: Running, sha256: str, metric: str = "wer", **number: Any) -> httpx.Response:
    return web.client.put(f"/models/demo/reports/{sha256}/{metric}", json=number or WER)


def facts(web: Running, size: dict[str, Any]) -> httpx.Headers:
    return web.client.head("/models/demo", params={"max_params": size["params"]}).headers


def test_a_report_stands_with_its_file_everywhere_and_is_marked_as_the_publishers(web: Running) -> None:
    before, other = sizes(web)[:2]
    measured = facts(web, before)
    answer = report(web, before["sha256"])
    assert answer.status_code == 200
    hold(schemas.Report, answer.json())
    assert answer.json()["plan"] == before["plan"] and answer.json()["before"] == []
    after, untouched = sizes(web)[:2]
    (reported,) = after["reported"]
    assert {key: reported[key] for key in WER} == WER and reported["metric"] == "wer"
    assert untouched == other and {**after, "reported": []} == before
    given, of_each = facts(web, before), ("date", "x-request-id")
    assert given["RightRank-Reported"] == 'wer="0.083";n=2000;low="0.0712";high="0.0951";better=lower'
    assert {name: value for name, value in given.items() if name not in ("rightrank-reported", *of_each)} == {
        name: value for name, value in measured.items() if name not in of_each
    }
    assert "RightRank-Reported" not in facts(web, other)
    kept = web.client.get(
        "/models/demo", params={"max_params": before["params"]}, headers={"If-None-Match": given["ETag"]}
    )
    assert (kept.status_code, kept.headers["RightRank-Reported"]) == (304, given["RightRank-Reported"])
    ready = web.client.head(
        "/models/demo", params={"max_params": before["params"], "ready": 1}, headers={"If-None-Match": "*"}
    )
    assert ready.headers["RightRank-Reported"] == given["RightRank-Reported"]
    described = web.client.get("/models/demo").json()
    assert described["reported"] == [{"metric": "wer", "files": 1, "higher_is_better": False}]
    hold(schemas.Description, described)
    hold(schemas.Curve, web.client.get("/models/demo/curve").json())


def test_reports_of_one_metric_follow_each_other_and_the_same_again_changes_nothing(web: Running) -> None:
    sha256 = sizes(web)[0]["sha256"]
    for value in (0.09, 0.083, 0.083):
        answer = report(web, sha256, value=value)
        assert answer.status_code == 200
    assert [each["value"] for each in (answer.json(), *answer.json()["before"])] == [0.083, 0.09]
    place = f"/models/demo/reports/{sha256}/wer"
    assert web.client.get(place).json() == answer.json()
    assert web.client.delete(place).json() == answer.json()
    for method in ("GET", "DELETE"):
        assert web.client.request(method, place).json()["type"] == "/problems/report-not-found"
    assert sizes(web)[0]["reported"] == [] and web.client.get("/models/demo").json()["reported"] == []


def test_of_a_file_that_is_none_of_the_models_nothing_is_taken(web: Running) -> None:
    answer = report(web, "0" * 64)
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/file-unknown")
    assert web.parts.store.keys(reported_key(web.parts.catalogue.resolve("demo"))) == []


def test_a_number_never_stands_with_other_bytes_of_the_same_size(web: Running) -> None:
    """Another version of torch, say, cut the same plan to others: what was measured of the first is not of them."""
    size, id = sizes(web)[0], web.parts.catalogue.resolve("demo")
    assert report(web, size["sha256"]).status_code == 200
    key = record_key(id, size["plan"])
    record = web.parts.store.read_json(key)
    assert record is not None
    web.parts.store.delete(key)
    web.parts.store.create_json(key, record | {"sha256": "1" * 64})
    assert report(web, "1" * 64, "cer").status_code == 200  # which this process did not know of yet
    assert [each["metric"] for each in sizes(web)[0]["reported"]] == ["cer"]
    shown = web.client.get(f"/models/demo/reports/{size['sha256']}/wer").json()
    assert (shown["value"], shown["plan"]) == (0.083, None)
    assert report(web, size["sha256"]).status_code == 409


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"0.5", b'{"value": NaN}', b'{"value": Infinity}', b'{"value": -1e400}',
     b'{"value": ' + b"9" * 400 + b"}", b'{"value": ' + b"9" * 9000 + b"}", b'{"value": "0.5"}', b'{"value": true}',
     b'{"value": null}', b'{"value": [1]}', b'{"value": 1, "n": 0}', b'{"value": 1, "n": 1.5}',
     b'{"value": 1, "n": 1000000000000000}', b'{"value": 1, "low": 0}', b'{"value": 1, "low": 2, "high": 3}',
     b'{"value": 1, "low": NaN, "high": 3}', b'{"value": 1, "higher_is_better": 1}', b'{"value": 1, "metric": "wer"}',
     b"[" * 9000],
)  # fmt: skip
def test_what_is_no_number_is_refused_in_words(web: Running, body: bytes) -> None:
    place = f"/models/demo/reports/{sizes(web)[0]['sha256']}/wer"
    answer = web.client.put(place, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert answer.json()["detail"].startswith("body")
    assert web.client.get(place).status_code == 404


@pytest.mark.parametrize("metric", ["WER", "5", "a" * 33, "a b", "-a", "é", 'a"', "a;b", *METRICS])
def test_a_metric_is_a_word_and_none_of_the_services(web: Running, metric: str) -> None:
    answer = report(web, sizes(web)[0]["sha256"], metric)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")


def test_a_file_has_only_so_many_metrics_and_all_of_them_fit_its_headers(web: Running) -> None:
    size = sizes(web)[0]
    worst = {"value": -1.7976931348623157e308, "low": -1.7976931348623157e308, "high": -1.797693134862315e308}
    for number in range(MOST):
        name = f"{number:x}".rjust(32, "m")
        assert report(web, size["sha256"], name, **worst, n=999_999_999_999_999).status_code == 200
    answer = report(web, size["sha256"], "more")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/too-many-reports")
    header = facts(web, size)["RightRank-Reported"]
    assert header.count(", ") == MOST - 1 and len(header) < 4000


def test_reports_at_once_are_all_kept(web: Running) -> None:
    sha256 = sizes(web)[0]["sha256"]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda value: report(web, sha256, value=float(value)), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    found = web.client.get(f"/models/demo/reports/{sha256}/wer").json()
    assert sorted(each["value"] for each in (found, *found["before"])) == [float(value) for value in range(6)]


def test_of_a_model_that_is_not_there_nothing_is_taken(web: Running) -> None:
    id, sha256 = web.parts.catalogue.resolve("demo"), sizes(web)[0]["sha256"]
    assert report(web, sha256).status_code == 200
    with serving(web.parts.settings) as other:  # another process, which deletes it
        other.client.delete(f"/models/{id}")
        place = f"/models/{id}/reports/{sha256}/wer"
        assert web.client.put(place, json={"value": 1.0}).json()["type"] == "/problems/model-deleted"
        other.client.post(f"/models/{id}/undelete")
        assert web.client.get(place).json()["value"] == 0.083
        other.client.delete(f"/models/{id}?purge=true")
    assert web.client.put(place, json={"value": 1.0}).json()["type"] == "/problems/model-not-found"
    assert web.parts.store.keys("models") == []
    pushed = web.client.post("/models", files={"checkpoint": ("a.pt2", b"anything")}).json()
    answer = web.client.put(f"/models/{pushed['id']}/reports/{sha256}/wer", json={"value": 1.0})
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/model-not-ready")


def test_a_report_under_way_when_its_model_is_purged_leaves_nothing(
    web: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a process that stood still for longer than its lock lasts."""
    id, sha256 = web.parts.catalogue.resolve("demo"), sizes(web)[0]["sha256"]
    add = web.parts.catalogue.reports.add

    def late(*arguments: Any) -> None:
        web.parts.store.delete(*web.parts.store.keys(f"models/{id}"))
        add(*arguments)

    monkeypatch.setattr(web.parts.catalogue.reports, "add", late)
    assert report(web, sha256).json()["type"] == "/problems/model-not-found"
    assert web.parts.store.keys(f"models/{id}") == []


def test_a_size_is_asked_for_by_what_is_reported_of_it(stocked: Settings) -> None:
    with serving(stocked) as web, at_work(stocked):
        small, middle, *_, whole = sizes(web)
        for size, wer, bleu in ((small, 0.2, 20.5), (middle, 0.1, 30.0), (whole, 0.05, 31.5)):
            assert report(web, size["sha256"], "wer", value=wer, higher_is_better=False).status_code == 200
            assert report(web, size["sha256"], "bleu", value=bleu, higher_is_better=True).status_code == 200

        def plan(query: str) -> tuple[int, Any]:
            answer = web.client.get(f"/models/demo?{query}")
            return answer.status_code, answer.headers.get("RightRank-Plan") or answer.json()

        assert plan("max_error=0.1&metric=wer") == (200, middle["plan"])
        assert plan("max_error=0.0999&metric=wer") == (200, whole["plan"])
        assert plan("min_accuracy=30&metric=bleu") == (200, middle["plan"])
        for more in ("", "&ready=1"):
            assert plan(f"min_accuracy=-5&metric=bleu{more}") == (200, small["plan"])
        assert plan(f"max_error=0.1&metric=wer&max_params={middle['params']}") == (200, middle["plan"])
        status, problem = plan("max_error=0.01&metric=wer")
        assert (status, problem["type"], problem["nearest"]) == (422, "/problems/budget-unreachable", 0.05)
        assert problem["detail"] == "No reported cut of this model reaches a wer of at most 0.01."
        status, problem = plan(f"max_error=0.05&metric=wer&max_params={middle['params']}")
        assert (status, problem["parameter"], problem["nearest"]) == (422, "max_error", 0.1)
        status, problem = plan(f"max_error=0.2&metric=wer&max_params={small['params'] - 1}")
        assert status == 422 and problem.get("parameter", "max_params") == "max_params"
        assert plan("min_accuracy=0.5&metric=cer")[1]["type"] == "/problems/budget-unreachable"
        status, problem = plan("min_accuracy=0.1&metric=wer")
        assert (status, problem["hint"]) == (422, "Ask for `max_error=0.1` of it.")
        answer = web.client.head("/models/demo@1?max_error=0.1&metric=wer")
        assert "no-cache" in answer.headers["Cache-Control"]
        # What the service measured is asked for as ever.
        assert plan("min_accuracy=0.0") == (200, small["plan"])


def test_what_nobody_measured_but_its_publisher_is_in_the_curve(stocked: Settings) -> None:
    with serving(stocked) as web:
        size, id = sizes(web)[0], web.parts.catalogue.resolve("demo")
        for key in web.parts.store.keys(f"models/{id}/measurements"):
            record = web.parts.store.read_json(key)
            assert record is not None
            web.parts.store.delete(key)
            web.parts.store.create_json(key, record | {"measurement": None})
        web.parts.catalogue.forget(id)
        assert sizes(web) == []
        assert report(web, size["sha256"]).status_code == 200
        curve = web.client.get("/models/demo/curve").json()
        hold(schemas.Curve, curve)
        (point,) = curve["points"]
        assert (point["accuracy"], point["metric"], point["reported"][0]["value"]) == (None, None, 0.083)
        assert facts(web, size)["RightRank-Accuracy"] == "unmeasured"


@pytest.fixture
def city(stocked: Settings, tmp_path: Path) -> Iterator[Running]:
    """A service with one model, `demo` and `acme.net`, and keys for some names and for all."""
    (tmp_path / "keys").write_text("".join(line(name, scopes) for name, scopes in KEYS.items()))
    with serving(stocked.model_copy(update={"keys_file": tmp_path / "keys"})) as running:
        running.parts.catalogue.publish("acme.net", running.parts.catalogue.resolve("demo"))
        yield running


def test_who_may_publish_all_of_a_models_names_reports(city: Running) -> None:
    id = city.parts.catalogue.resolve("demo")
    sha256 = city.parts.catalogue.records(id)[0].sha256
    place = f"/models/acme.net/reports/{sha256}/wer"
    answers = {key: ask(city, key, place, "PUT", json={"value": 0.5}).status_code for key in ("nobody", *KEYS)}
    # The model is also `demo`: whoever fetches that is not led by acme's numbers.
    assert answers == {"nobody": 401, "acme": 403, "reader": 403, "boss": 403, "other": 404, "one": 403, "mixed": 403,
                       "all": 200, "root": 200}  # fmt: skip
    city.parts.store.delete(*city.parts.store.keys("names/demo"))
    city.parts.catalogue._named.drop(lambda key: True)
    city.parts.catalogue._answers.drop(lambda key: True)
    assert ask(city, "acme", place, "PUT", json={"value": 0.25}).json()["by"] == "acme"
    assert [ask(city, key, place).json()["by"] for key in ("acme", "reader", "root")] == ["acme", None, "acme"]
    assert ask(city, "reader", place, "DELETE").status_code == 403
    assert ask(city, "boss", place, "DELETE").status_code == 200


def test_the_address_needs_no_header_of_the_fetch(web: Running, tmp_path: Path) -> None:
    """The SHA-256 of the file is all that a report needs, whenever it is made."""
    with at_work(web.parts.settings):
        content = web.client.get("/models/demo?budget=0.5").content
    assert report(web, hashlib.sha256(content).hexdigest()).status_code == 200


def test_what_is_stored_says_who_and_when_and_what_was_before(web: Running) -> None:
    id, sha256 = web.parts.catalogue.resolve("demo"), sizes(web)[0]["sha256"]
    report(web, sha256, value=1.0)
    report(web, sha256, value=2.0)
    stored = json.loads(web.parts.store.read(reported_key(id, sha256, "wer", 2)))["reports"]
    assert [each["value"] for each in stored] == [2.0, 1.0] and stored[0]["reported"] >= stored[1]["reported"]
    assert web.parts.store.exists(manifest_key(id))
