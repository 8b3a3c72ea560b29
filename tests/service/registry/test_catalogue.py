from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from rightrank.service.jobs.dispatch import Parts
from rightrank.service.problems import Problem
from rightrank.service.registry.catalogue import Catalogue
from rightrank.service.registry.layout import checkpoint_key, manifest_key, model_id, record_key, upload_key, wanted_key
from rightrank.service.registry.store import Store
from rightrank.service.settings import Settings

A, B, C = (f"m{letter * 24}" for letter in "abc")


def upload(**changes: object) -> dict[str, object]:
    plain = {"checkpoint": "1" * 64, "evaluation": None, "calibration": None, "architecture": None, "options": {}}
    return plain | changes


def finished(parts: Parts, id: str, **changes: object) -> None:
    parts.store.create_json(upload_key(id), upload(**changes))
    parts.store.create_json(manifest_key(id), upload(**changes) | {"id": id, "created": float(ord(id[1]))})


def test_the_same_upload_is_the_same_model_whatever_it_is_called() -> None:
    assert model_id(upload()) == model_id(upload(filename="other.pt2", name="x", size=3))


@pytest.mark.parametrize(
    "change",
    [{"checkpoint": "2" * 64}, {"evaluation": "1" * 64}, {"calibration": "1" * 64}, {"architecture": {"name": "mlp"}},
     {"options": {"criterion": "c1"}}],
)  # fmt: skip
def test_another_upload_is_another_model(change: dict[str, object]) -> None:
    assert model_id(upload(**change)) != model_id(upload())


def test_a_name_is_its_latest_version_and_every_version_stays(parts: Parts) -> None:
    for id in (A, B):
        finished(parts, id)
    assert [parts.catalogue.publish("net", id) for id in (A, B)] == [1, 2]
    assert [parts.catalogue.resolve(reference) for reference in ("net", "net@1", "net@2", A)] == [B, A, B, A]


def test_publishing_the_latest_again_is_no_new_version_and_going_back_is(parts: Parts) -> None:
    for id in (A, B):
        finished(parts, id)
    assert [parts.catalogue.publish("net", id) for id in (A, A, B, A, A)] == [1, 1, 2, 3, 3]


def test_a_name_falls_back_where_its_latest_model_is_deleted_and_no_number_is_used_twice(parts: Parts) -> None:
    for id in (A, B, C):
        finished(parts, id)
    parts.catalogue.publish("net", A)
    parts.catalogue.publish("net", B)
    parts.catalogue.discard(B)
    assert parts.catalogue.resolve("net") == A
    assert parts.catalogue.publish("net", C) == 3


def test_models_published_at_once_get_a_version_each(parts: Parts) -> None:
    ids = [f"m{n:024x}" for n in range(8)]
    for id in ids:
        finished(parts, id)
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda id: parts.catalogue.publish("net", id), ids))
    assert sorted(versions) == list(range(1, 9))


@pytest.mark.parametrize(
    "reference", ["net", "net@1", "net@0", "net@x", A[:-1], "../x", "Net", "net@1@2", "", "x" * 65]
)
def test_what_is_not_there_is_no_model(parts: Parts, reference: str) -> None:
    with pytest.raises(Problem) as caught:
        parts.catalogue.open(parts.catalogue.resolve(reference))
    assert caught.value.kind == "model-not-found"


def test_a_model_that_is_being_made_says_which_operation_makes_it(parts: Parts) -> None:
    parts.store.create_json(upload_key(A), upload())
    with pytest.raises(Problem) as caught:
        parts.catalogue.open(A)
    assert caught.value.kind == "model-not-ready"
    assert caught.value.members["operation"] == f"/operations/ingest-{A}"


def test_names_asked_for_early_are_given_once(parts: Parts) -> None:
    finished(parts, A)
    parts.store.create(wanted_key(A, "net"), b"{}")
    assert parts.catalogue.publish_wanted(A) == {"net": 1}
    assert parts.catalogue.publish_wanted(A) == {}


def test_a_deleted_model_takes_its_files_with_it_except_those_that_another_has_too(parts: Parts) -> None:
    finished(parts, A, checkpoint="1" * 64, evaluation="e" * 64)
    finished(parts, B, checkpoint="2" * 64, evaluation="e" * 64)
    for sha256 in ("1" * 64, "2" * 64, "e" * 64):
        parts.store.create(checkpoint_key(sha256), b"x")
    parts.catalogue.discard(A)
    assert parts.store.keys(f"models/{A}") == []
    assert parts.store.keys("checkpoints") == [checkpoint_key("2" * 64), checkpoint_key("e" * 64)]
    parts.catalogue.discard(B)
    assert parts.store.keys("checkpoints") == []


@pytest.fixture
def elsewhere(stocked: Settings, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Another process's, which has the model open and looks each time whether it is still that one."""
    monkeypatch.setattr("rightrank.service.registry.catalogue.RECHECK_SECONDS", 0.0)
    there = Catalogue(stocked, parts.store, parts.cache)
    id = there.resolve("demo")
    assert there.open(id).manifest["id"] == id
    return there


def test_a_model_deleted_elsewhere_is_soon_gone_here(elsewhere: Catalogue, parts: Parts) -> None:
    id = elsewhere.resolve("demo")
    parts.catalogue.discard(id)
    with pytest.raises(Problem, match="no model"):
        elsewhere.open(id)


def test_a_model_uploaded_again_elsewhere_is_soon_that_one_here(elsewhere: Catalogue, parts: Parts) -> None:
    id = elsewhere.resolve("demo")
    manifest = dict(elsewhere.open(id).manifest)
    parts.store.delete(manifest_key(id))
    parts.store.create_json(manifest_key(id), manifest | {"created": manifest["created"] + 1})
    assert elsewhere.open(id).manifest["created"] == manifest["created"] + 1


def test_models_are_listed_newest_first(parts: Parts) -> None:
    for id in (B, C, A):
        finished(parts, id)
    parts.store.create_json(upload_key(f"m{'d' * 24}"), upload())
    assert [manifest["id"] for manifest in parts.catalogue.manifests()] == [C, B, A]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"torn"])
def test_one_manifest_that_cannot_be_read_hides_no_other_model(parts: Parts, data: bytes) -> None:
    for id in (A, B):
        finished(parts, id)
        parts.catalogue.publish(f"net-{id[1]}", id)
    parts.store.delete(manifest_key(A))
    parts.store.create(manifest_key(A), data)
    assert [manifest["id"] for manifest in parts.catalogue.manifests()] == [B]
    assert parts.catalogue.resolve("net-b") == B


@pytest.mark.parametrize("data", [b"", b"{}"])
def test_a_version_that_cannot_be_read_keeps_its_number(parts: Parts, data: bytes) -> None:
    for id in (A, B):
        finished(parts, id)
        parts.catalogue.publish("net", id)
    parts.store.delete("names/net/2.json")
    parts.store.create("names/net/2.json", data)
    fresh = Catalogue(parts.settings, parts.store, parts.cache)
    assert fresh.resolve("net") == A
    assert fresh.names() == {A: ["net@1"]}
    assert fresh.publish("net", B) == 3


def test_an_upload_that_cannot_be_read_keeps_its_files_whatever_becomes_of_it(parts: Parts) -> None:
    parts.store.create(upload_key(A), b"torn")
    parts.store.create(checkpoint_key("1" * 64), b"x")
    parts.catalogue.discard(A)
    assert parts.store.read(f"damaged/{upload_key(A)}") == b"torn"
    assert parts.store.exists(checkpoint_key("1" * 64))


def test_a_record_in_other_words_is_neither_used_nor_set_aside(parts: Parts) -> None:
    finished(parts, A)
    parts.store.create_json(record_key(A, "f" * 32), {"words": "of another version"})
    with pytest.raises(Problem) as caught:
        parts.catalogue.record(A, "f" * 32)
    assert caught.value.kind == "master-unreadable"
    assert parts.catalogue.records(A) == []
    assert parts.store.exists(record_key(A, "f" * 32))


def test_a_planner_is_made_of_no_file_that_changed(stocked: Settings, parts: Parts) -> None:
    id = parts.catalogue.resolve("demo")
    manifest = dict(parts.store.read_json(manifest_key(id)) or {})
    plans = f"models/{id}/{'' if 'folder' not in manifest else manifest['folder'] + '/'}plans.npz"
    files = manifest.get("files", {}) | {"plans.npz": {"sha256": "0" * 64, "size": len(parts.store.read(plans))}}
    parts.store.delete(manifest_key(id))
    parts.store.create_json(manifest_key(id), manifest | {"files": files})
    with pytest.raises(Problem) as caught:
        parts.catalogue.open(id)
    assert caught.value.kind == "unavailable"


def test_a_name_that_was_given_just_before_a_kill_is_not_given_again_over_a_later_one(parts: Parts) -> None:
    for id in (A, B):
        parts.store.create_json(upload_key(id), upload(uploaded=1.0))
        parts.store.create_json(manifest_key(id), upload() | {"id": id, "created": 2.0})
    parts.store.create(wanted_key(A, "net"), b"{}")
    assert parts.catalogue.publish("net", A) == 1  # and then the worker was killed
    assert parts.catalogue.publish("net", B) == 2
    assert parts.catalogue.publish_wanted(A) == {"net": 1}
    assert parts.catalogue.resolve("net") == B and parts.store.keys(f"models/{A}/wanted") == []


def test_what_a_cut_writes_just_before_its_model_is_purged_goes_with_it(
    stocked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts.of(stocked)
    id, delete = parts.catalogue.resolve("demo"), Store.delete
    found: list[bool] = []

    def late(store: Store, *keys: str) -> None:
        """A cut ends between a purge's first look at what there is, and the manifest's end."""
        if manifest_key(id) in keys and not found:
            for key in (record_key(id, "f" * 32), f"models/{id}/artifacts/f.pt"):
                store.create(key, b"{}")
            found.append(store.exists(manifest_key(id)))
        delete(store, *keys)

    monkeypatch.setattr(Store, "delete", late)
    assert parts.catalogue.discard(id)
    assert found == [True] and parts.store.keys(f"models/{id}") == []


def test_a_model_that_was_purged_and_came_again_elsewhere_is_the_new_one_here(stocked: Settings) -> None:
    here, there = Parts.of(stocked), Parts.of(stocked)
    id = here.catalogue.resolve("demo")
    (before,) = here.catalogue.manifests()  # listed, and never opened
    manifest = dict(there.catalogue.open(id).manifest)
    for name in manifest["files"]:
        source = f"models/{id}/{manifest['folder']}/{name}"
        there.store.create(f"models/{id}/made/new/{name}", there.store.read(source))
    there.store.delete(*(key for key in there.store.keys(f"models/{id}/made") if "/made/new/" not in key))
    there.store.delete(manifest_key(id))
    there.store.create_json(manifest_key(id), {**manifest, "folder": "made/new", "created": before["created"] + 1})
    assert here.catalogue.open(id).manifest["folder"] == "made/new"
    assert here.catalogue.manifests()[0]["folder"] == "made/new"
