from __future__ import annotations

import hashlib
import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rightrank.models import architectures
from rightrank.models.measure.measures import MEASURES
from rightrank.models.measure.metrics import METRICS
from rightrank.service.jobs import attempt, ingest, make
from rightrank.service.jobs.attempt import Job, Lost, Runner
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import INGEST
from rightrank.service.jobs.operations import cut_id
from rightrank.service.problems import Problem
from rightrank.service.registry import cache
from rightrank.service.registry.layout import MADE, manifest_key, record_key, where
from rightrank.service.settings import Settings
from tests import reading
from tests.models import nets
from tests.models.nets import WORDS, encoded, encoder
from tests.service.conftest import Files, Running, at_work, left


def test_a_model_is_decomposed_measured_and_named(shared: Running, demo: str) -> None:
    manifest = shared.client.get("/models/demo").json()
    assert manifest["id"] == demo and manifest["names"] == ["demo@1"]
    assert manifest["baseline"]["value"] == 1.0 and manifest["baseline"]["n"] == 200
    assert manifest["params"] == 64 * 96 + 96 + 96 * 64 + 64 + 64 * 10 + 10
    assert {layer["decomposed"] for layer in manifest["layers"]} == {True}
    assert manifest["bytes"] == len(shared.client.get("/models/demo?budget=1").content)


def test_the_operation_says_what_the_model_is_called(shared: Running, demo: str) -> None:
    result = shared.client.get(f"/operations/ingest-{demo}").json()["result"]
    assert result == {"model": demo, "url": f"/models/{demo}", "name": "demo", "version": 1}


def test_what_was_left_out_and_that_it_hardly_gets_smaller_stand_in_the_operation_and_the_model(
    service: Running, tmp_path: Path
) -> None:
    state = architectures.build("mlp", in_features=6, hidden=[4], num_classes=3).state_dict()
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    save_file({**named, "loss.weight": torch.ones(3)}, tmp_path / "net.safetensors")
    answer = service.push(
        {"checkpoint": tmp_path / "net.safetensors"},
        architecture='{"name": "mlp", "in_features": 6, "hidden": [4], "num_classes": 3}',
    ).json()
    notes = service.end(answer["operation"])["result"]["notes"]
    assert len(notes) == 2 and "loss.weight" in notes[0]
    assert notes[1].startswith("This model's file cannot get below")
    assert service.client.get(f"/models/{answer['id']}").json()["notes"] == notes


def test_a_card_stands_in_the_model_and_in_its_files(service: Running, files: Files) -> None:
    said = {"license": "MIT", "labels": [str(each) for each in range(10)], "preprocessing": {"mean": [0.5]}}
    plain = service.publish(files)
    id = service.publish(files, name="carded", card=json.dumps(said))
    shown = service.client.get("/models/carded").json()
    assert shown["card"] == said and shown["id"] == id != plain
    assert "card" not in service.client.get(f"/models/{plain}").json()
    for budget in (1, 0.5):
        answers = [service.client.get(f"/models/{each}?budget={budget}") for each in (id, plain)]
        found = {"card.json": ""}
        torch.jit.load(io.BytesIO(answers[0].content), _extra_files=found)
        assert json.loads(found["card.json"]) == said
        assert len({answer.headers["RightRank-Params"] for answer in answers}) == 1
    assert shown["bytes"] == len(service.client.get(f"/models/{id}?budget=1").content)


def test_labels_that_are_not_as_many_as_the_classes_are_refused_before_any_work(service: Running, files: Files) -> None:
    answer = service.push({"checkpoint": files.checkpoint}, card='{"labels": ["a", "b"]}').json()
    state = service.end(answer["operation"])
    assert state["error"]["type"].endswith("data-unusable") and state["progress"]["phase"] == "read"
    assert "2 labels of output 0, which has 10 numbers for each answer" in state["error"]["detail"]


def test_that_a_model_hardly_gets_smaller_is_told_before_it_is_decomposed(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "read", lambda job, upload, folder: nets.source(nn.Linear(3, 3), (3,), folder))
    answer = web.push({"checkpoint": files.checkpoint}).json()
    taken = web.parts.engine.take((INGEST,), rest=0)
    assert taken is not None
    job, told = Job(web.parts, taken, threading.Event(), reading.shared()), []
    report = job.progress

    def progress(phase: str, completed: int, total: int, unit: str) -> None:
        report(phase, completed, total, unit)
        state = web.client.get(f"/operations/{answer['operation']}").json()
        told.append((phase, state["progress"].get("note")))

    monkeypatch.setattr(job, "progress", progress)
    job.progress("read", 0, 1, "models")
    result = ingest.run(job)
    (note,) = web.client.get(f"/models/{answer['id']}").json()["notes"]
    assert note.startswith("This model cannot get below 0.75 of its parameters") and result["notes"] == [note]
    first = next(index for index, (_, said) in enumerate(told) if said)
    assert told[first] == ("decompose", note) and {phase for phase, _ in told[:first]} == {"read", "eliminate"}


def test_common_budgets_have_been_measured_in_the_background(shared: Running, demo: str) -> None:
    planner = shared.parts.catalogue.open(demo).planner
    points = {point["plan"] for point in shared.client.get(f"/models/{demo}/curve").json()["points"]}
    assert {planner.plan(budget=budget).digest for budget in planner.possible()} <= points


def test_the_publisher_says_which_budgets_are_measured_ahead(service: Running, files: Files) -> None:
    pushed = {"checkpoint": files.checkpoint, "evaluation": files.evaluation}
    answer = service.push(pushed, name="named", options='{"budgets": [0.25, 1, 0.000001]}').json()
    assert service.end(answer["operation"])["error"] is None
    model = service.parts.catalogue.open(answer["id"])
    plan = model.planner.plan(budget=0.25).digest
    assert service.end(cut_id(model.id, plan))["error"] is None
    kept = {record.plan.digest for record in service.parts.catalogue.records(model.id)}
    assert kept == {plan, model.planner.plan(budget=1).digest}
    waiting = {model.planner.plan(budget=budget).digest for budget in model.planner.possible()} - kept
    assert waiting and all(service.parts.engine.get(cut_id(model.id, each)) is None for each in waiting)


def test_budgets_have_one_spelling_and_are_for_what_can_be_measured(web: Running, files: Files) -> None:
    pushed = {"checkpoint": files.checkpoint, "evaluation": files.evaluation}
    spelled = [web.push(pushed, options=f'{{"budgets": {text}}}') for text in ("[0.5, 1, 0.5]", "[1.0, 0.5]")]
    assert spelled[0].json()["id"] == spelled[1].json()["id"]
    answer = web.push({"checkpoint": files.checkpoint}, options='{"budgets": [0.5]}')
    assert answer.status_code == 422 and "evaluation" in answer.json()["detail"]


@pytest.mark.parametrize("budgets", ["0.5", "[0]", "[1.5]", "[true]", '["0.5"]', "[NaN]", str([0.5] * 33)])
def test_budgets_that_are_none_are_refused(web: Running, files: Files, budgets: str) -> None:
    answer = web.push({"checkpoint": files.checkpoint}, options=f'{{"budgets": {budgets}}}')
    assert answer.status_code == 422 and "budgets" in answer.json()["detail"]
    assert left(web.parts) == []


def test_a_file_that_is_no_model_leaves_nothing(service: Running, files: Files, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"not a model at all")
    answer = service.push({"checkpoint": tmp_path / "model.pt2", "evaluation": files.evaluation}, name="bad")
    error = service.end(answer.json()["operation"])["error"]
    assert error["type"].startswith("/problems/checkpoint-")
    assert error["hint"]
    assert left(service.parts) == []
    assert service.client.get("/models/bad").status_code == 404
    assert list(service.parts.store.scratch.iterdir()) == []


def test_why_an_upload_was_refused_is_known_for_a_day_even_if_redis_forgets_it(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "bad.pt")
    operation = service.push({"checkpoint": tmp_path / "bad.pt"}).json()["operation"]
    error = service.end(operation)["error"]
    service.parts.cache.redis.flushdb()
    assert service.end(operation)["error"] == error
    service.parts.recover()
    assert service.end(operation)["error"] == error
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    service.parts.recover()
    assert service.parts.store.keys("") == []


def test_evaluation_data_that_do_not_fit_fail_the_whole_upload(service: Running, files: Files, tmp_path: Path) -> None:
    targets = torch.zeros(4, dtype=torch.int64)
    save_file({"inputs": torch.zeros(4, 3, 9), "targets": targets}, tmp_path / "e.safetensors")
    answer = service.push({"checkpoint": files.checkpoint, "evaluation": tmp_path / "e.safetensors"})
    assert service.end(answer.json()["operation"])["error"]["type"] == "/problems/data-unusable"
    assert left(service.parts) == []


@pytest.mark.parametrize("batch", [1, 2])
def test_a_program_exported_for_one_batch_size_is_measured_at_that(
    service: Running, tmp_path: Path, batch: int
) -> None:
    class Pooled(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, channels, _, _ = x.shape
            return torch.as_tensor(super().forward(x.view(n, channels, -1).mean(2)))

    torch.manual_seed(0)
    model, inputs = Pooled(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 4)).eval(), torch.randn(199, 24, 3, 3)
    torch.export.save(torch.export.export(model, (inputs[:batch],)), tmp_path / "model.pt2")
    data = {"targets": {"targets": model(inputs).argmax(1)}, "none": {}}
    for name, targets in data.items():
        save_file({"inputs": inputs, **targets}, tmp_path / f"{name}.safetensors")
        id = service.publish(Files(tmp_path / "model.pt2", tmp_path / f"{name}.safetensors"))
        baseline = service.client.get(f"/models/{id}").json()["baseline"]
        assert (baseline["value"], baseline["n"]) == (1.0, 199)


@pytest.mark.parametrize("targets", [torch.zeros(6, dtype=torch.int64), torch.zeros(6, 4), None])
def test_an_original_that_gives_no_numbers_is_refused(
    service: Running, tmp_path: Path, targets: torch.Tensor | None
) -> None:
    class Logarithm(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (-super().forward(x).abs()).log()

    batch = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(Logarithm(8, 4).eval(), (torch.randn(2, 8),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "model.pt2")
    save_file({"inputs": torch.randn(6, 8)} | ({} if targets is None else {"targets": targets}), tmp_path / "e.st")
    answer = service.push({"checkpoint": tmp_path / "model.pt2", "evaluation": tmp_path / "e.st"})
    error = service.end(answer.json()["operation"])["error"]
    assert error["type"] == "/problems/data-unusable" and "NaN" in error["detail"] and error["hint"]
    assert left(service.parts) == []


def test_an_encoder_of_any_length_is_measured_cut_and_refit_by_its_inputs_names(
    service: Running, tmp_path: Path
) -> None:
    module, _ = encoder(tmp_path)
    for name, data in (("e", encoded(40)), ("c", encoded(100, seed=2))):
        arrays = {}
        for number, group in enumerate(data.samples.groups):
            arrays |= {f"input_ids.{number}": group[0], f"attention_mask.{number}": group[1]}
            if name == "e" and data.targets is not None:
                arrays[f"targets.{number}"] = data.targets[number]
        np.savez(tmp_path / f"{name}.npz", **{key: each.numpy() for key, each in arrays.items()})
    paths = {
        "checkpoint": tmp_path / "encoder.pt2",
        "evaluation": tmp_path / "e.npz",
        "calibration": tmp_path / "c.npz",
    }
    answer = service.push(paths, options='{"effort": "refit", "budgets": []}')
    assert service.end(answer.json()["operation"])["error"] is None
    url = f"/models/{answer.json()['id']}"
    described = service.client.get(url).json()
    assert [each["shape"] for each in described["inputs"]] == [[None, None], [None, None]]
    assert (described["baseline"]["metric"], described["baseline"]["value"], described["baseline"]["n"]) == (
        "top1",
        1,
        120,
    )
    file = service.client.get(url, params={"budget": 0.7})
    assert file.status_code == 200 and file.headers["RightRank-Method"] in ("cut", "refit")
    net = torch.jit.load(io.BytesIO(file.content))
    samples, right = encoded(40), 0
    assert samples.targets is not None
    for group, targets in zip(samples.samples.groups, samples.targets, strict=True):
        right += int((net(*group).argmax(1) == targets).sum())
    assert float(file.headers["RightRank-Accuracy"]) == right / 120
    whole = torch.jit.load(io.BytesIO(service.client.get(url, params={"budget": 1}).content))
    other = (torch.randint(0, WORDS, (3, 11)), torch.ones(3, 11, dtype=torch.int64))
    with torch.no_grad():
        assert torch.equal(whole(*other), module(*other))


@pytest.mark.parametrize("what", ["labels", "evaluation", "calibration", "few"])
def test_data_that_do_not_fit_are_refused_before_any_work(
    service: Running, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is decomposed all the same")

    monkeypatch.setattr(make, "build", never)
    encoder(tmp_path)
    ids, mask = torch.arange(2000).reshape(-1, 5) % WORDS, torch.ones(400, 5, dtype=torch.int64)
    few = 80 if what == "few" else 400
    bad = ids.clone()
    bad[61, 2] = WORDS
    evaluation = {"input_ids": bad if what == "evaluation" else ids, "attention_mask": mask}
    calibration = {"input_ids": bad if what == "calibration" else ids, "attention_mask": mask}
    save_file(evaluation | {"targets": torch.arange(400) % 3 + (what == "labels")}, tmp_path / "e.safetensors")
    save_file({name: each[:few].clone() for name, each in calibration.items()}, tmp_path / "c.safetensors")
    files = {"evaluation": tmp_path / "e.safetensors", "calibration": tmp_path / "c.safetensors"}
    answer = service.push({"checkpoint": tmp_path / "encoder.pt2", **files}, options='{"effort": "tune"}')
    error = service.end(answer.json()["operation"])["error"]
    words = {what: f"{what} input 61", "labels": "from 1 to 3", "few": "at least 320"}
    assert error["type"] == "/problems/data-unusable" and words[what] in error["detail"] and error["hint"]
    assert left(service.parts) == []


def test_an_upload_whose_files_never_arrived_is_taken_back(service: Running, files: Files) -> None:
    model = "m" + "a" * 24
    upload = {"checkpoint": "1" * 64, "evaluation": None, "calibration": None, "architecture": None, "options": {}}
    service.parts.store.create_json(f"models/{model}/upload.json", upload)
    error = service.end(service.parts.ingest(model))["error"]
    assert error["type"] == "/problems/upload-incomplete"
    assert left(service.parts) == []


def test_weights_with_an_architecture_are_a_model(service: Running, tmp_path: Path) -> None:
    model = architectures.build("mlp", in_features=12, hidden=[40], num_classes=10)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "e.npz", inputs=np.zeros((8, 12), np.float32), targets=np.zeros(8, np.int64))
    id = service.publish(
        Files(tmp_path / "w.safetensors", tmp_path / "e.npz"),
        architecture='{"name": "mlp", "in_features": 12, "hidden": [40], "num_classes": 10}',
    )
    assert service.client.get(f"/models/{id}").json()["architecture"]["name"] == "mlp"


def test_a_criterion_can_be_chosen(service: Running, files: Files) -> None:
    answer = service.push({"checkpoint": files.checkpoint}, options='{"criterion": "c1"}')
    assert service.end(answer.json()["operation"])["error"] is None
    assert service.client.get(f"/models/{answer.json()['id']}/importance").json()["criterion"] == "c1"


def test_an_ingest_that_was_interrupted_before_its_end_is_done_again_in_full(
    stocked: Settings, web: Running, files: Files
) -> None:
    id = web.parts.catalogue.resolve("demo")
    manifest = web.parts.catalogue.open(id).manifest
    before = web.parts.store.read(f"{where(manifest)}/master.safetensors")
    web.parts.store.delete(manifest_key(id), f"{where(manifest)}/plans.npz")
    web.parts.catalogue.forget(id)
    with at_work(stocked):
        assert web.end(web.parts.ingest(id))["error"] is None
    now = web.parts.catalogue.open(id).manifest
    assert now["id"] == id and now["folder"] != manifest["folder"]
    assert web.parts.store.read(f"{where(now)}/master.safetensors") == before
    assert web.parts.store.keys(where(manifest)) == []


def test_a_manifest_names_its_files_with_what_they_must_be(shared: Running, demo: str) -> None:
    manifest = shared.parts.catalogue.open(demo).manifest
    made = {"master.safetensors", "template.json", "plans.npz", "evaluation.safetensors", "reference.safetensors"}
    assert set(manifest["files"]) == made | {"int8.safetensors", "levels.safetensors", "mixture.npz"}
    for name, facts in manifest["files"].items():
        data = shared.parts.store.read(f"{where(manifest)}/{name}")
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    told = shared.client.get("/models/demo").json()
    assert not {"files", "folder", "token"} & set(told)


def test_a_running_ingest_can_be_cancelled_and_leaves_nothing(service: Running, files: Files) -> None:
    operation = service.push({"checkpoint": files.checkpoint}).json()["operation"]
    while service.client.get(f"/operations/{operation}").json()["state"] != "running":
        pass
    service.client.delete(f"/operations/{operation}")
    assert service.end(operation)["error"]["type"] == "/problems/cancelled"
    assert left(service.parts) == []


def test_the_metrics_on_offer_are_those_that_can_be_measured() -> None:
    assert set(MEASURES) == set(METRICS)


@pytest.mark.parametrize("field", ["sha256", "size", "measurement"])
def test_the_original_is_recorded_with_the_model(shared: Running, demo: str, field: str) -> None:
    plan = shared.parts.catalogue.open(demo).planner.plan(budget=1)
    record = shared.parts.store.read_json(record_key(demo, plan.digest))
    assert record is not None and record[field]


def test_what_the_reader_writes_on_the_way_is_gone_with_the_job(tmp_path: Path) -> None:
    with ingest.temporary_files_in(tmp_path), tempfile.TemporaryDirectory() as inside:
        assert Path(inside).parent == tmp_path
    with tempfile.TemporaryDirectory() as outside:
        assert Path(outside).parent != tmp_path


def test_zero_channels_go_and_the_whole_budget_is_still_the_upload(service: Running, halved: Files) -> None:
    id = service.publish(halved)
    manifest = service.client.get(f"/models/{id}").json()
    params = 64 * 96 + 96 + 96 * 64 + 64 + 64 * 10 + 10
    assert manifest["params"] == manifest["eliminated"]["params_before"] == params
    assert manifest["eliminated"]["removed"] == 48 + 32
    assert [layer["name"] for layer in manifest["eliminated"]["layers"]] == ["1", "3", "5"]
    assert [layer["n"] for layer in manifest["layers"]] == [48, 32, 10]
    assert manifest["min_budget"]["params"] < 0.3
    whole, less, half, cut = (service.client.get(f"/models/{id}?budget={budget}") for budget in (1, 0.9, 0.5, 0.3))
    assert whole.headers["RightRank-Params"] == str(params) and len(whole.content) == manifest["bytes"]
    assert less.headers["RightRank-Params"] == str(manifest["eliminated"]["params_after"])
    assert less.headers["RightRank-Accuracy"] == whole.headers["RightRank-Accuracy"] == "1.0"
    assert float(less.headers["RightRank-Baseline-Accuracy"]) == manifest["baseline"]["value"] == 1.0
    methods = [answer.headers["RightRank-Method"] for answer in (whole, less, half, cut)]
    assert methods == ["original", "reduced", "reduced", "cut"] and half.content == less.content
    inputs = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        outputs = [torch.jit.load(io.BytesIO(answer.content))(inputs) for answer in (whole, less)]
        uploaded = torch.export.load(halved.checkpoint).module()(inputs)
    assert torch.equal(outputs[0], uploaded)
    torch.testing.assert_close(outputs[1], uploaded, rtol=1e-5, atol=1e-5)


def test_a_network_without_zero_channels_says_so(shared: Running, demo: str) -> None:
    eliminated = shared.client.get(f"/models/{demo}").json()["eliminated"]
    assert (eliminated["removed"], eliminated["rejected"], eliminated["layers"]) == (0, "", [])


def begun(parts: Parts) -> Job:
    """The next ingest, begun here."""
    taken = parts.engine.take((INGEST,), rest=0)
    assert taken is not None
    return Job(parts, taken, threading.Event(), reading.shared())


@pytest.fixture
def frozen_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that nobody renews, as those of a process that is frozen."""
    monkeypatch.setattr(cache, "_renew", lambda *_: None)


def lapse(parts: Parts, id: str) -> None:
    """The time of whoever holds a model's lock is over."""
    parts.cache.redis.delete(f"rightrank:lock:model:{id}")


def overdue(parts: Parts, operation: str) -> None:
    """The lease of whoever is at the operation is over, also where nobody has looked for work for a while."""
    parts.cache.redis.set("rightrank:looked", "9999999999")
    parts.cache.redis.zadd("rightrank:leases", {operation: 0})


def at_phase(job: Job, phase: str, do: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has something happen when the job first comes to a phase."""
    progress, happened = job.progress, []

    def progress_and_do(now: str, completed: int, total: int, unit: str) -> None:
        progress(now, completed, total, unit)
        if now == phase and not happened:
            happened.append(phase)
            do()

    monkeypatch.setattr(job, "progress", progress_and_do)


def elsewhere(parts: Parts) -> None:
    """Another worker performs the next ingest from beginning to end."""
    taken = parts.engine.take((INGEST,), rest=0)
    assert taken is not None
    Runner(parts, {"ingest": ingest.run}, reading.shared()).perform(taken)


def complete(parts: Parts, id: str) -> bool:
    """Whether the model is there with all of its files, and nothing of another attempt."""
    model = parts.catalogue.open(id)
    there = set(parts.store.keys(f"models/{id}/{MADE}"))
    return there == {f"{where(model.manifest)}/{name}" for name in model.manifest["files"]}


def test_an_attempt_that_comes_late_changes_nothing_of_the_finished_model(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = web.push({"checkpoint": files.checkpoint, "evaluation": files.evaluation}).json()
    late, other, finished = begun(Parts.of(web.parts.settings)), Parts.of(web.parts.settings), []

    def overtake() -> None:
        overdue(web.parts, answer["operation"])
        elsewhere(other)
        finished.extend(web.parts.store.tag(key) for key in web.parts.store.keys(f"models/{answer['id']}"))

    at_phase(late, "store", overtake, monkeypatch)
    with pytest.raises(Lost):
        ingest.run(late)
    assert finished == [web.parts.store.tag(key) for key in web.parts.store.keys(f"models/{answer['id']}")]
    assert complete(web.parts, answer["id"])


def test_an_attempt_that_another_overtook_while_it_was_frozen_at_the_manifest_leaves_the_others(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch, frozen_locks: None
) -> None:
    answer = web.push({"checkpoint": files.checkpoint}).json()
    parts, other = Parts.of(web.parts.settings), Parts.of(web.parts.settings)
    late, establish = begun(parts), parts.catalogue.establish

    def frozen(id: str, manifest: Mapping[str, Any]) -> bool:
        lapse(parts, id)
        overdue(parts, answer["operation"])
        elsewhere(other)
        return establish(id, manifest)

    monkeypatch.setattr(parts.catalogue, "establish", frozen)
    ingest.run(late)
    assert complete(web.parts, answer["id"]) and web.end(answer["operation"])["error"] is None


@pytest.mark.parametrize("phase", ["read", "decompose", "store"])
def test_cancelled_and_uploaded_again_before_the_worker_notices_the_second_upload_is_ingested(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    answer = web.push({"checkpoint": files.checkpoint}, name="first").json()
    late = begun(Parts.of(web.parts.settings))

    def cancel_and_come_again() -> None:
        assert web.client.delete(f"/operations/{answer['operation']}").json()["state"] == "cancelled"
        assert web.push({"checkpoint": files.checkpoint}, name="second").json() == answer

    at_phase(late, phase, cancel_and_come_again, monkeypatch)
    Runner(late.parts, {"ingest": lambda job: ingest.run(late)}, reading.shared()).perform(late.attempt)
    assert web.client.get(f"/operations/{answer['operation']}").json()["state"] == "queued"
    elsewhere(Parts.of(web.parts.settings))
    assert web.end(answer["operation"])["result"]["name"] == "second"
    assert complete(web.parts, answer["id"])
    assert web.client.get("/models/first").status_code == 404


@pytest.mark.parametrize("again", [False, True])
def test_a_model_deleted_between_the_check_and_the_writing_of_its_manifest_is_gone_and_one_that_came_again_is_whole(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch, frozen_locks: None, again: bool
) -> None:
    answer = web.push({"checkpoint": files.checkpoint}).json()
    parts = Parts.of(web.parts.settings)
    late, create = begun(parts), parts.store.create_json

    def frozen(key: str, data: dict[str, Any]) -> bool:
        if key == manifest_key(answer["id"]):
            lapse(parts, answer["id"])
            assert web.client.delete(f"/models/{answer['id']}").status_code == 200
            if again:
                web.push({"checkpoint": files.checkpoint})
        return create(key, data)

    monkeypatch.setattr(parts.store, "create_json", frozen)
    Runner(parts, {"ingest": lambda job: ingest.run(late)}, reading.shared()).perform(late.attempt)
    monkeypatch.undo()
    if again:
        elsewhere(Parts.of(web.parts.settings))
        assert web.end(answer["operation"])["error"] is None and complete(web.parts, answer["id"])
    else:
        assert web.client.get(f"/models/{answer['id']}").status_code == 404
        assert left(web.parts) == []


def test_a_worker_killed_right_after_it_wrote_a_manifest_of_a_deleted_upload_leaves_no_model(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch, frozen_locks: None
) -> None:
    answer = web.push({"checkpoint": files.checkpoint}).json()
    parts = Parts.of(web.parts.settings)
    late, create = begun(parts), parts.store.create_json

    class Killed(BaseException):
        pass

    def killed(key: str, data: dict[str, Any]) -> bool:
        if key == manifest_key(answer["id"]):
            lapse(parts, answer["id"])
            assert web.client.delete(f"/models/{answer['id']}").status_code == 200
            create(key, data)
            raise Killed
        return create(key, data)

    monkeypatch.setattr(parts.store, "create_json", killed)
    with pytest.raises(Killed):
        ingest.run(late)
    monkeypatch.undo()
    web.parts.store.delete(*web.parts.store.keys(f"models/{answer['id']}/{MADE}"))
    assert web.client.get(f"/models/{answer['id']}").status_code == 404
    web.parts.recover()
    assert web.parts.store.keys("models") == []


@pytest.mark.parametrize("answered", [False, True])
def test_a_store_that_fails_at_the_manifest_leaves_a_whole_model_or_a_second_try(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    answer = web.push({"checkpoint": files.checkpoint}).json()
    parts = Parts.of(web.parts.settings)
    late, create, failed = begun(parts), parts.store.create_json, []

    def fails(key: str, data: dict[str, Any]) -> bool:
        if key == manifest_key(answer["id"]) and not failed:
            failed.append(answered and create(key, data))  # a request can be heard whose answer is not
            raise Problem("unavailable", "The store does not answer.")
        return create(key, data)

    monkeypatch.setattr(parts.store, "create_json", fails)
    monkeypatch.setattr(attempt, "FIRST_PAUSE", 0.0)
    Runner(parts, {"ingest": lambda job: ingest.run(late)}, reading.shared()).perform(late.attempt)
    elsewhere(parts)
    assert web.end(answer["operation"])["error"] is None and complete(web.parts, answer["id"])


def test_a_model_deleted_and_uploaded_again_while_it_is_read_is_ingested(
    web: Running, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = web.push({"checkpoint": files.checkpoint}).json()
    read, times = ingest.read, []

    def slow(job: Job, upload: Mapping[str, Any], program: Path) -> None:
        if not times:
            times.append(upload["uploaded"])
            assert web.client.delete(f"/models/{answer['id']}").status_code == 200
            assert web.push({"checkpoint": files.checkpoint}).json() == answer
        read(job, upload, program)

    monkeypatch.setattr(ingest, "read", slow)
    with at_work(web.parts.settings):
        while not web.end(answer["operation"])["result"]:
            pass
    assert web.parts.catalogue.open(answer["id"]).manifest["uploaded"] > times[0]
