"""A store that an earlier version left is served as that version served it, whatever this one can do since.

`store/objects` is one, written at the commit that `store/expected.json` names, which says what was answered then: two
models of a small convolutional network, `plain` cut and `fitted` refit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.format import Data, Writer
from rightrank.models.emit.formats import FORMATS, newest
from rightrank.models.emit.precision import PRECISIONS
from rightrank.models.emit.torchscript.writer import ScriptWriter, TorchScript
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile
from rightrank.service.registry.layout import manifest_key
from rightrank.service.run.valkey import Embedded
from rightrank.service.settings import Settings
from tests.seams.conftest import added
from tests.service.conftest import Running, at_work, exported, network, serving

STORE = Path(__file__).parent / "store"
EXPECTED = json.loads((STORE / "expected.json").read_text())["models"]


class Dated(ScriptWriter):
    """Writes another date into a record's header, which nothing reads."""

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        first = next(found := super().pieces(master, ranks, changes))
        yield bytes(first).replace(b"\x00\x00\x21\x00", b"\x00\x00\x22\x00", 1)
        yield from found


class Third(TorchScript):
    """A later version of the writer, whose files are others."""

    version = 3

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        return Dated(template, encoding)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    """A service over a copy of the store, with an empty cache."""
    settings = Settings(data=tmp_path / "data", cache_bytes=64 * 1024 * 1024, wait=60)
    assert settings.store_folder is not None
    shutil.copytree(STORE / "objects", settings.store_folder)
    with Embedded(settings), at_work(settings), serving(settings) as running:
        yield running


def contents(store: Path) -> dict[str, str]:
    """The SHA-256 of every object."""
    files = (path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check(service: Running, name: str, asked: dict[str, Any]) -> None:
    """Every answer of a model is what it was."""
    for budget, headers in asked["sizes"].items():
        answer = service.client.get(f"/models/{name}", params={"budget": budget})
        assert answer.status_code == 200, answer.text
        assert {key: answer.headers[key] for key in headers} == headers
        assert f'"{hashlib.sha256(answer.content).hexdigest()}"' == headers["ETag"]


# Members that answers have got since, and what they are of a model that was published before.
SINCE: dict[str, Any] = {"reported": [], "worst": None, "changed": None}
SINCE |= {"precision": "float32", "format": "torchscript", "publisher": None}


def without(answer: Any) -> Any:
    """An answer without what has come since, where it says nothing."""
    if isinstance(answer, dict):
        return {k: without(v) for k, v in answer.items() if k not in SINCE or v != SINCE[k]}
    return [without(each) for each in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize("name", EXPECTED)
def test_a_store_of_an_earlier_version_is_answered_for_as_it_was(service: Running, name: str) -> None:
    store = service.parts.store.root
    assert store is not None
    before = contents(store)
    check(service, name, EXPECTED[name])
    described = service.client.get(f"/models/{name}").json()
    assert [(row["precision"], row["bytes"]) for row in described.pop("precisions")][0] == (
        "float32",
        described["bytes"],
    )
    formats = {row["format"]: row["precisions"] for row in described.pop("formats")}
    assert [*formats] == [*FORMATS] and formats["torchscript"][0] == "float32"
    assert described["links"].pop("sizes") == f"{described['links']['self']}/sizes"
    assert without(described) == EXPECTED[name]["model"]
    curve = without(service.client.get(f"/models/{name}/curve").json())
    assert curve.pop("higher_is_better") is True and curve.pop("share") is True
    assert curve == EXPECTED[name]["curve"]
    assert contents(store) == before == contents(STORE / "objects")


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_of_before_there_were_precisions_has_them_too(service: Running, name: str) -> None:
    files = {}
    described = service.client.get(f"/models/{name}").json()
    # But for levels, which it would have to have been given when it was published.
    assert [row["precision"] for row in described["precisions"]] == [each for each in PRECISIONS if each != "auto"]
    for precision in (row["precision"] for row in described["precisions"]):
        files[precision] = service.client.get(f"/models/{name}", params={"budget": 1, "precision": precision})
        assert files[precision].headers["RightRank-Precision"] == precision, files[precision].text
        assert "RightRank-Accuracy-Samples" in files[precision].headers
    assert files["float32"].headers["ETag"] == EXPECTED[name]["sizes"]["1"]["ETag"]
    sizes = [len(answer.content) for answer in files.values()]
    assert sizes == sorted(sizes, reverse=True)
    check(service, name, EXPECTED[name])


def test_a_later_writer_writes_what_is_published_since_and_nothing_else(service: Running, tmp_path: Path) -> None:
    with added(FORMATS, {"torchscript": (*FORMATS["torchscript"], Third())}):
        for name, asked in EXPECTED.items():
            check(service, name, asked)
        id = service.publish(exported(network(), tmp_path))
        manifest = service.parts.store.read_json(manifest_key(id))
        assert manifest is not None and manifest["writers"] == newest() | {"torchscript": 3}
        new = service.client.get(f"/models/{id}", params={"budget": 0.5}).content
        assert new[10:14] == b"\x00\x00\x22\x00"
        plan = service.parts.catalogue.open(id).planner.plan(budget=0.5)
        assert plan.output.writer == 3 and plan.to_json()["output"]["writer"] == 3


def test_a_model_of_a_later_version_is_refused_in_words(service: Running) -> None:
    id = EXPECTED["plain"]["model"]["id"]
    key = f"models/{id}/template.json"
    template = json.loads(service.parts.store.read(key))
    service.parts.store.delete(key)
    service.parts.store.create_json(key, {**template, "format": 7})
    answer = service.client.get(f"/models/{id}", params={"budget": 0.5})
    assert answer.status_code == 501
    assert answer.json()["type"] == "/problems/master-unreadable"
    assert "format 7" in answer.json()["detail"] and "upload it again" in answer.json()["hint"]


def test_a_models_writer_that_is_not_here_is_refused_in_words(service: Running) -> None:
    id = EXPECTED["plain"]["model"]["id"]
    manifest = service.parts.store.read_json(manifest_key(id))
    service.parts.store.delete(manifest_key(id))
    service.parts.store.create_json(manifest_key(id), {**(manifest or {}), "writers": {"torchscript": 9}})
    answer = service.client.get(f"/models/{id}", params={"budget": 0.5})
    assert answer.status_code == 501
    assert "writer 9" in answer.json()["detail"]
