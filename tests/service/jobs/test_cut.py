from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from rightrank.models.measure.accuracy import Measurement
from rightrank.models.plan.planner import Plan
from rightrank.service.jobs import cut, cutter
from rightrank.service.jobs.attempt import Job
from rightrank.service.jobs.cutter import Cutter
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import WAITING
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import EVALUATION, MASTER, REFERENCE, record_key, upload_key, where
from rightrank.service.settings import Settings
from tests import reading
from tests.service.conftest import at_work, serving


def job_of(parts: Parts, budget: float) -> tuple[Job, Plan]:
    id = parts.catalogue.resolve("demo")
    plan = parts.catalogue.open(id).planner.plan(budget=budget)
    parts.cut(id, plan)
    attempt = parts.engine.take((WAITING,), rest=0)
    assert attempt is not None
    return Job(parts, attempt, threading.Event(), reading.shared()), plan


def test_a_cut_is_in_the_cache_and_its_measurement_in_the_store(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.45)
    result = cut.run(job)
    artifact = parts.cache.find(job.model, plan.digest)
    record = parts.store.read_json(record_key(job.model, plan.digest))
    assert artifact is not None and record is not None
    data = b"".join(parts.cache.read(artifact, 0, artifact.size))
    assert hashlib.sha256(data).hexdigest() == artifact.sha256 == record["sha256"] == result["sha256"]
    assert len(data) == plan.bytes == record["size"]
    assert record["measurement"]["n"] == 200


def test_a_cut_that_is_known_is_not_measured_again(stocked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.5)
    monkeypatch.setattr(cutter, "measure", lambda *_, **__: pytest.fail("it was measured"))
    cut.run(job)
    assert parts.cache.find(job.model, plan.digest) is not None


def test_a_cut_that_is_there_is_not_made_again(stocked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = job_of(Parts.of(stocked), 0.5)
    first = cut.run(job)
    monkeypatch.setattr(cutter.formats, "write", lambda *_: pytest.fail("it was written"))
    assert cut.run(job) == first


def test_other_bytes_than_those_measured_are_measured_anew(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.5)
    key = record_key(job.model, plan.digest)
    record = parts.store.read_json(key)
    assert record is not None
    parts.store.delete(key)
    parts.store.create_json(key, record | {"sha256": "0" * 64, "measurement": None})
    cut.run(job)
    assert parts.store.read_json(key) == record


def test_a_file_of_another_size_than_planned_is_not_served(stocked: Settings, tmp_path: Path) -> None:
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.45)
    wrong = dataclasses.replace(plan, bytes=plan.bytes + 1)
    with (
        parts.catalogue.folder(parts.catalogue.open(job.model).manifest, MASTER) as folder,
        pytest.raises(RuntimeError, match="bytes"),
    ):
        Cutter(folder, None, job.progress).cut(wrong, tmp_path / "a.pt")


def test_progress_leads_from_the_cut_to_the_measurement(stocked: Settings) -> None:
    job, _ = job_of(Parts.of(stocked), 0.45)
    phases: list[str] = []
    job.progress = lambda phase, *_: phases.append(phase)  # type: ignore[method-assign]
    cut.run(job)
    assert list(dict.fromkeys(phases)) == ["cut", "measure"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_cut_is_compared_with_what_was_kept_of_the_original_or_else_with_its_file(
    stocked: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: bool
) -> None:
    asked: dict[str, Any] = {}

    def measure(artifact: Path, evaluation: Path, **rest: Any) -> Any:
        asked.update(rest)
        assert kept or rest["original"].read_bytes() != artifact.read_bytes()
        raise RuntimeError("enough")

    monkeypatch.setattr(cutter, "measure", measure)
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.45)
    folder = tmp_path / "master"
    with parts.catalogue.folder(parts.catalogue.open(job.model).manifest, (*MASTER, EVALUATION, REFERENCE)) as there:
        shutil.copytree(there, folder)
    if not kept:
        (folder / REFERENCE).unlink()
    with pytest.raises(RuntimeError, match="enough"):
        Cutter(folder, None, job.progress).cut(plan, tmp_path / "a.pt")
    assert (asked["original"] is None) == kept and (asked["reference"] is not None) == kept


def test_a_model_of_before_references_is_measured_the_same(stocked: Settings, tmp_path: Path) -> None:
    """Its original is run instead."""
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.45)
    found = []
    for name in ("new", "old"):
        folder = tmp_path / name
        with parts.catalogue.folder(parts.catalogue.open(job.model).manifest, (*MASTER, EVALUATION, REFERENCE)) as kept:
            shutil.copytree(kept, folder)
        if name == "old":
            (folder / REFERENCE).unlink()
        found.append(Cutter(folder, None, job.progress).cut(plan, tmp_path / "a.pt").measurement)
    assert found[0] is not None and found[0] == found[1]
    assert found[0]["changed"]["answers"] == 200 >= found[0]["changed"]["differ"] >= found[0]["changed"]["lost"] > 0


def test_without_targets_agreement_is_measured(stocked: Settings, tmp_path: Path) -> None:
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.45)
    folder = tmp_path / "master"
    with parts.catalogue.folder(parts.catalogue.open(job.model).manifest, (*MASTER, EVALUATION)) as kept:
        shutil.copytree(kept, folder)
    (folder / REFERENCE).unlink()
    save_file({"inputs": load_file(folder / EVALUATION)["inputs"]}, folder / EVALUATION)
    measurement = Cutter(folder, None, job.progress).cut(plan, tmp_path / "a.pt").measurement
    assert measurement is not None and measurement["metric"] == "agreement" and measurement["value"] < 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_measured_as_no_finite_number_is_unmeasured(
    stocked: Settings, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    monkeypatch.setattr(cutter, "measure", lambda *_, **__: Measurement("mse", value, 200, value, value))
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.45)
    cut.run(job)
    record = parts.catalogue.record(job.model, plan.digest)
    assert record is not None and record.measurement is None


def test_a_deleted_models_cut_fails_as_not_found(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    job, _ = job_of(parts, 0.45)
    parts.catalogue.discard(job.model)
    with pytest.raises(Exception, match="no model"):
        cut.run(job)


def test_a_model_deleted_before_its_files_are_read_is_not_found_by_those_who_wait(
    stocked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = cutter.formats.write

    def write(*arguments: Any) -> None:
        parts.catalogue.discard(id)
        written(*arguments)

    monkeypatch.setattr(cutter.formats, "write", write)
    with serving(stocked) as running, at_work(stocked):
        parts = running.parts
        id = parts.catalogue.resolve("demo")
        answer = running.client.get("/models/demo?budget=0.45")
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/model-not-found")
    assert parts.store.keys(f"models/{id}") == []


def test_a_file_lost_without_its_model_being_deleted_is_the_services_fault(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    job, _ = job_of(parts, 0.45)
    parts.store.delete(f"{where(parts.catalogue.open(job.model).manifest)}/master.safetensors")
    with pytest.raises(FileNotFoundError):
        cut.run(job)
    assert parts.catalogue.exists(job.model)


def test_a_cut_of_a_deleted_model_spares_the_same_model_uploaded_again(
    stocked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts.of(stocked)
    job, plan = job_of(parts, 0.45)
    upload = {**parts.catalogue.open(job.model).manifest}
    measured = cutter.measure

    def measure(*arguments: Any, **rest: Any) -> Any:
        found = measured(*arguments, **rest)
        parts.catalogue.discard(job.model)
        parts.store.create_json(upload_key(job.model), upload)
        return found

    monkeypatch.setattr(cutter, "measure", measure)
    with pytest.raises(Problem, match="deleted"):
        cut.run(job)
    assert parts.store.keys(f"models/{job.model}") == [upload_key(job.model)]


def test_a_record_reads_back_as_it_was(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    for record in parts.catalogue.records(parts.catalogue.resolve("demo")):
        written: Mapping[str, Any] = record.to_json()
        assert type(record).from_json(written) == record
