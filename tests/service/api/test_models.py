from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from rightrank.service.api.models import read_cursor, write_cursor
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import manifest_key, record_key
from rightrank.service.settings import Settings
from tests.service.api.test_auth import bearer, line
from tests.service.conftest import Files, Running, at_work, left, serving
from tests.service.registry.test_catalogue import finished


def test_a_description_tells_what_can_be_asked_for(shared: Running, demo: str) -> None:
    described = shared.client.get("/models/demo").json()
    assert described["min_budget"]["params"] < 0.2
    assert described["inputs"][0]["shape"] == [None, 1, 8, 8]
    assert {link: shared.client.get(path).status_code for link, path in described["links"].items()} == {
        "self": 200,
        "curve": 200,
        "sizes": 200,
        "importance": 200,
    }


def test_a_description_is_the_same_by_every_reference(shared: Running, demo: str) -> None:
    assert shared.client.get(f"/models/{demo}").json() == shared.client.get("/models/demo@1").json()


def test_a_description_gives_nothing_internal_away(shared: Running) -> None:
    text = shared.client.get("/models/demo").text
    assert str(shared.parts.settings.data) not in text
    assert "owner" not in text


def test_the_curve_rises_in_size_and_ends_with_the_original(shared: Running) -> None:
    curve = shared.client.get("/models/demo/curve").json()
    sizes = [point["bytes"] for point in curve["points"]]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)
    assert curve["points"][-1]["budget"] == 1.0
    assert curve["points"][-1]["accuracy"] == curve["baseline"]["value"]
    assert all(point["low"] <= point["accuracy"] <= point["high"] for point in curve["points"])


def test_importance_has_a_value_for_every_basis(shared: Running) -> None:
    body = shared.client.get("/models/demo/importance").json()
    assert [layer["layer"] for layer in body["layers"]] == ["1", "3", "5"]
    assert all(len(layer["importance"]) == layer["rank"] for layer in body["layers"])


def test_numbers_that_are_not_finite_are_null(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    records = [parts.store.read_json(key) for key in parts.store.keys(f"models/{id}/measurements")]
    manifest = parts.store.read_json(manifest_key(id))
    assert manifest is not None and len(records) > 1
    nowhere = {"metric": "mse", "n": 200, **dict.fromkeys(("value", "low", "high"), math.nan)}
    changed = {manifest_key(id): manifest | {"baseline": nowhere, "tuned": [{"budget": 0.5, "error": math.inf}]}}
    changed |= {record_key(id, each["plan"]["digest"]): each | {"measurement": nowhere} for each in records if each}
    for key, document in changed.items():
        parts.store.delete(key)
        parts.store.create_json(key, document)
    with serving(stocked) as running, at_work(stocked):
        described, listed, curve = (
            running.client.get(path) for path in ("/models/demo", "/models", "/models/demo/curve")
        )
        headers = running.client.get("/models/demo?budget=0.5").headers
    null = {"metric": "mse", "n": 200, "value": None, "low": None, "high": None}
    assert described.json()["baseline"] == listed.json()["models"][0]["baseline"] == curve.json()["baseline"] == null
    assert described.json()["tuned"] == [{"budget": 0.5, "error": None}] and curve.json()["points"] == []
    assert headers["RightRank-Accuracy"] == "unmeasured"
    assert not {name for name in headers if name in ("rightrank-baseline-accuracy", "rightrank-accuracy-interval")}


def test_pages_hold_every_model_once_and_the_newest_first(web: Running) -> None:
    ids = [f"m{letter * 24}" for letter in "abcde"]
    for id in ids:
        finished(web.parts, id)
    for id in ids:
        manifest = web.parts.catalogue.manifest(id)
        brief = {"params": 1, "macs": 1, "bytes": 1, "criterion": "c1", "baseline": None}
        web.parts.store.delete(f"models/{id}/manifest.json")
        web.parts.store.create_json(f"models/{id}/manifest.json", {**manifest, **brief})
        web.parts.catalogue.forget(id)
    found, cursor = [], None
    while True:
        page = web.client.get("/models", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [model["id"] for model in page["models"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "bm90IGEgY3Vyc29y", "é"])
def test_a_cursor_that_was_made_up_is_refused(cursor: str) -> None:
    with pytest.raises(Problem):
        read_cursor(cursor)


def test_a_cursor_reads_back_exactly() -> None:
    manifest = {"created": 1795499783.4489086, "id": "m" + "a" * 24}
    assert read_cursor(write_cursor(manifest)) == (manifest["created"], manifest["id"])


def test_a_deleted_model_is_gone_by_every_road_and_can_be_had_back(stocked: Settings) -> None:
    with serving(stocked) as web:
        id = web.parts.catalogue.resolve("demo")
        before = web.client.get("/models/demo").json()
        told = web.client.delete("/models/demo").json()
        assert (told["id"], told["names"]) == (id, ["demo@1"]) and told["until"] > time.time() + 80_000
        for path in (id, "demo@1", f"{id}?budget=1", f"{id}/curve"):
            answer = web.client.get(f"/models/{path}")
            assert (answer.status_code, answer.json()["type"]) == (410, "/problems/model-deleted")
            assert answer.json()["until"] == told["until"]
        assert web.client.get("/models/demo").status_code == 404
        assert web.client.get("/models").json()["models"] == []
        assert web.client.delete(f"/models/{id}").json() == told
        assert web.client.post(f"/models/{id}/undelete").json() == {**told, "until": None}
        assert web.client.get("/models/demo").json() == before
        assert web.client.get("/models").json()["models"]


def test_a_purged_model_is_forgotten_with_all_its_data(stocked: Settings) -> None:
    with serving(stocked) as web:
        id = web.parts.catalogue.resolve("demo")
        web.client.delete(f"/models/{id}")
        assert web.client.delete(f"/models/{id}?purge=true").json() == {"id": id, "names": ["demo@1"], "until": None}
        assert web.parts.store.keys("") == ["names/demo/1.json"]
        assert web.client.get(f"/models/{id}").status_code == 404
        for again in (web.client.post(f"/models/{id}/undelete"), web.client.delete(f"/models/{id}")):
            assert again.status_code == 404


def test_a_deleted_model_is_forgotten_after_a_day_and_not_before(
    stocked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(stocked) as web:
        id = web.parts.catalogue.resolve("demo")
        web.client.delete(f"/models/{id}")
        for finished in (True, False):
            web.parts.recover(finished)
            assert web.client.get(f"/models/{id}").status_code == 410
        monkeypatch.setattr("rightrank.service.registry.catalogue.UNDO_SECONDS", -1.0)
        web.parts.recover(finished=False)
        assert web.parts.store.keys("models") == web.parts.store.keys("checkpoints") == []


def test_a_deleted_model_can_be_published_again(service: Running, files: Files) -> None:
    first = service.publish(files, name="net")
    etag = service.client.get("/models/net?budget=0.5").headers["ETag"]
    service.client.delete("/models/net")
    assert service.publish(files, name="net") == first
    assert service.client.get("/models/net@1?budget=0.5").headers["ETag"] == etag


def test_a_model_that_is_being_ingested_can_be_deleted(web: Running) -> None:
    answer = web.client.post("/models", files={"checkpoint": ("a", b"anything")}).json()
    assert web.client.delete(f"/models/{answer['id']}").json() == {"id": answer["id"], "names": [], "until": None}
    assert web.client.get(f"/operations/{answer['operation']}").json()["error"]["type"] == "/problems/cancelled"
    assert left(web.parts) == []


@pytest.mark.parametrize("wanted", ["demo", "EM", "demo@1", " demo "])
def test_models_are_found_by_a_part_of_a_name(shared: Running, demo: str, wanted: str) -> None:
    found = shared.client.get("/models", params={"search": wanted}).json()["models"]
    assert [model["id"] for model in found] == [demo]
    assert shared.client.get("/models", params={"search": demo[:8]}).json()["models"] == found
    assert shared.client.get("/models", params={"search": f"{wanted}x"}).json()["models"] == []


def test_who_published_is_told_to_who_may_know(settings: Settings, files: Files, tmp_path: Path) -> None:
    keys = (line("ann", "publish,fetch"), line("dev", "fetch:digits"), line("ops", "admin"))
    (tmp_path / "keys").write_text("".join(keys))
    settings = settings.model_copy(update={"keys_file": tmp_path / "keys"})
    with at_work(settings), serving(settings) as running:
        running.client.headers.update(bearer("ann"))
        running.publish(files, name="digits")
        for who, publisher in (("ann", "ann"), ("ops", "ann"), ("dev", None)):
            (listed,) = running.client.get("/models", headers=bearer(who)).json()["models"]
            described = running.client.get("/models/digits", headers=bearer(who)).json()
            assert (listed["publisher"], described["publisher"]) == (publisher, publisher)


def test_a_curve_says_which_way_its_measure_goes(shared: Running) -> None:
    curve = shared.client.get("/models/demo/curve").json()
    assert (curve["higher_is_better"], curve["share"]) == (True, True)
