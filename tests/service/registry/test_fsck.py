from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rightrank.service.registry.fsck import LEFTOVER, LOST, NOTE, REMADE, Finding, Fsck
from rightrank.service.registry.store import Store
from rightrank.service.settings import Settings
from tests.faulty_s3 import Bucket

ID, OTHER = f"m{'a' * 24}", f"m{'b' * 24}"
BLOB = b"what was uploaded"
SHA256 = hashlib.sha256(BLOB).hexdigest()
PLAN = "f" * 32
REPORT = f"models/{ID}/reported/{SHA256}/wer/2.json"
FILES = {"master.safetensors": b"master", "template.json": b"{}", "plans.npz": b"plans"}


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, bucket: Bucket) -> Store:
    """A store with one model in it, all of which is as it should be."""
    store = Store(Settings(data=tmp_path, store_url="s3://bucket" if request.param == "bucket" else None))
    upload: dict[str, Any] = {"id": ID, "checkpoint": SHA256, "evaluation": None, "calibration": None, "options": {}}
    store.create_json(f"models/{ID}/upload.json", upload)
    store.create(f"checkpoints/{SHA256}", BLOB)
    files = {n: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for n, data in FILES.items()}
    for name, data in FILES.items():
        store.create(f"models/{ID}/attempt-1/{name}", data)
    (tmp_path / "artifact").write_bytes(BLOB)
    store.create_artifact(f"models/{ID}/artifacts/{PLAN}.pt", tmp_path / "artifact")
    record = {"sha256": SHA256, "size": len(BLOB), "stored": True}
    store.create_json(f"models/{ID}/measurements/{PLAN}.json", record)
    store.create_json(f"models/{ID}/manifest.json", {**upload, "created": 1.0, "folder": "attempt-1", "files": files})
    store.create_json("names/net.partial-2/1.json", {"id": ID})
    store.create_json(REPORT, {"reports": []})
    return store


def found(store: Store, **how: bool) -> list[tuple[str, str]]:
    return [(finding.kind, finding.key) for finding in Fsck(store, **how).run()]


def overwrite(store: Store, key: str, data: bytes) -> None:
    store.delete(key)
    assert store.create(key, data)


def test_nothing_is_found_where_all_is_well(store: Store) -> None:
    assert found(store) == []


@pytest.mark.parametrize(
    ("key", "data", "kind"),
    [
        (f"models/{ID}/attempt-1/master.safetensors", b"maste?", LOST),
        (f"checkpoints/{SHA256}", BLOB[::-1], LOST),
        (f"models/{ID}/artifacts/{PLAN}.pt", BLOB[::-1], REMADE),
    ],
)
def test_other_bytes_of_the_same_size_are_found_unless_it_must_be_quick(
    store: Store, key: str, data: bytes, kind: str
) -> None:
    overwrite(store, key, data)
    assert found(store) == [(kind, key)]
    assert found(store, quick=True) == []


@pytest.mark.parametrize("data", [None, b""])
def test_a_file_that_is_gone_or_empty_is_found_at_once(store: Store, data: bytes | None) -> None:
    key = f"models/{ID}/attempt-1/plans.npz"
    store.delete(key)
    if data is not None:
        store.create(key, data)
    assert found(store, quick=True) == [(LOST, key)]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (f"models/{ID}/manifest.json", REMADE),
        (f"models/{ID}/upload.json", LOST),
        (f"models/{ID}/measurements/{PLAN}.json", REMADE),
        (REPORT, LOST),
        ("names/net.partial-2/1.json", LOST),
    ],
)
def test_what_cannot_be_read_is_found_and_set_aside_and_takes_nothing_with_it(
    store: Store, key: str, kind: str
) -> None:
    overwrite(store, key, b'{"torn')
    before = store.keys("")
    assert (kind, key) in found(store)
    assert store.keys("") == before
    assert (kind, key) in found(store, repair=True)
    assert store.read(f"damaged/{key}") == b'{"torn' and not store.exists(key)
    assert store.read(f"checkpoints/{SHA256}") == BLOB


def test_a_checkpoint_that_is_gone_is_lost(store: Store) -> None:
    store.delete(f"checkpoints/{SHA256}")
    assert found(store) == [(LOST, f"checkpoints/{SHA256}")]


def test_leftovers_are_removed_when_they_are_old_and_only_then(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    leftovers = [
        f"checkpoints/{'0' * 64}",
        f"models/{ID}/attempt-0/master.safetensors",
        f"models/{ID}/artifacts/{'e' * 32}.pt",
        REPORT.replace("2.json", "1.json"),
        f"models/{OTHER}/wanted/net",
        "staged/x",
    ]
    for key in leftovers:
        store.create(key, b"{}")
    wanted = sorted((LEFTOVER, key) for key in leftovers)
    before = store.keys("")
    assert sorted(found(store)) == sorted(found(store, repair=True)) == wanted
    assert store.keys("") == before
    later = time.time() + 2 * 24 * 3600
    monkeypatch.setattr("rightrank.service.registry.fsck.time.time", lambda: later)
    assert sorted(found(store)) == wanted and store.keys("") == before
    assert sorted(found(store, repair=True)) == wanted
    assert store.keys("") == sorted(set(before) - set(leftovers))


def test_what_an_upload_that_cannot_be_read_may_refer_to_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.create(f"damaged/models/{OTHER}/upload.json", b"torn")
    store.create(f"checkpoints/{'0' * 64}", b"x")
    later = time.time() + 2 * 24 * 3600
    monkeypatch.setattr("rightrank.service.registry.fsck.time.time", lambda: later)
    assert (NOTE, f"checkpoints/{'0' * 64}") in found(store, repair=True)
    assert store.exists(f"checkpoints/{'0' * 64}")


def test_a_report_of_a_file_that_is_no_size_any_more_is_noted_and_kept(store: Store) -> None:
    other, none = REPORT.replace(SHA256, "0" * 64), f"models/{ID}/reported/x"
    for key in (other, none):
        store.create(key, b"{}")
    assert sorted(found(store, repair=True)) == sorted([(NOTE, other), (NOTE, none)])
    assert store.exists(other)


def test_what_a_model_of_an_earlier_version_has_is_no_leftover(store: Store) -> None:
    overwrite(store, f"models/{ID}/manifest.json", b'{"created": 1.0, "checkpoint": null, "evaluation": null}')
    for name in (*FILES, "refit.safetensors"):
        store.create(f"models/{ID}/{name}", b"x")
    assert found(store) == []


def test_a_file_that_was_never_finished_is_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Settings(data=tmp_path))
    store.create("names/net/1.json", b'{"id": "x"}')
    folder = tmp_path / "store" / "names" / "net"
    for name in ("2.json#123", f"2.json.partial-{'0' * 32}"):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (0, 0))
    findings = [finding for finding in Fsck(store, repair=True).run() if finding.kind == LEFTOVER]
    assert len(findings) == 2 and all(isinstance(finding, Finding) and finding.done for finding in findings)
    assert [path.name for path in folder.iterdir()] == ["1.json"]
