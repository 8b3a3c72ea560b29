"""What is done for accuracy besides cutting: `effort` refit, tune and polish, through the service."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from httpx import Headers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from rightrank.models.assemble.build import Building
from rightrank.models.errors import Cancelled, DataError
from rightrank.models.improve import polish, tune
from rightrank.models.improve.distill import Recipe
from rightrank.service.jobs import effort, ingest
from rightrank.service.jobs.attempt import Job
from rightrank.service.jobs.engine import INGEST
from rightrank.service.registry.layout import improved_key, tuning_key
from tests import reading
from tests.models import nets
from tests.service.conftest import Files, Running, left


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small convolutional network, images with structure for calibration, and others to be measured on."""
    folder = tmp_path_factory.mktemp("effort")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10),
    ).eval()  # fmt: skip
    model[7].weight.data *= 40  # so that classes are told apart
    inputs = torch.randn(600, 1, 8, 8).cumsum(2).cumsum(3) / 4
    dynamic = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    paths = {role: folder / f"{role}.safetensors" for role in ("evaluation", "calibration")}
    paths["checkpoint"] = folder / "model.pt2"
    torch.export.save(torch.export.export(model, (inputs[:4],), dynamic_shapes=dynamic), paths["checkpoint"])
    save_file({"inputs": inputs[:400].contiguous()}, paths["calibration"])
    save_file({"inputs": inputs[400:].contiguous()}, paths["evaluation"])
    return paths


def publish(service: Running, paths: dict[str, Path], options: str) -> str:
    answer = service.push(paths, name="net", options=options)
    assert answer.status_code == 202, answer.text
    ended = service.end(answer.json()["operation"], 120)
    assert ended["error"] is None, ended
    return str(answer.json()["id"])


def fetched(service: Running, id: str, budget: float, **besides: str) -> Headers:
    """The headers of a size, once it is there."""
    query = {"budget": budget, **besides}
    answer = service.client.get(f"/models/{id}", params=query)
    while answer.status_code == 503:
        assert service.end(answer.json()["operation"].rsplit("/", 1)[-1], 120)["error"] is None
        answer = service.client.get(f"/models/{id}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.headers


def agreement(service: Running, id: str, budget: float = 0.4) -> tuple[float, str]:
    headers = fetched(service, id, budget)
    return float(headers["RightRank-Accuracy"]), headers["RightRank-Method"]


def test_a_refit_is_made_once_for_each_size_and_says_so(service: Running, published: dict[str, Path]) -> None:
    cut, id = (publish(service, published, f'{{"effort": "{kind}"}}') for kind in ("cut", "refit"))
    assert agreement(service, cut)[1] == "cut"
    better, method = agreement(service, id)
    assert method.startswith("refit") and better >= agreement(service, cut)[0]
    plan = service.parts.catalogue.open(id).planner.plan(budget=0.4)
    assert service.parts.store.exists(improved_key(id, plan.digest))
    assert not service.parts.store.keys(f"models/{cut}/improved")
    first = service.client.get(f"/models/{id}?budget=0.4").headers["ETag"]
    service.parts.cache.redis.flushdb()
    assert service.client.get(f"/models/{id}?budget=0.4").headers["ETag"] == first
    points = service.client.get(f"/models/{id}/curve").json()["points"]
    assert {point["method"] for point in points} <= {"original", "cut", "cut+bn", "refit", "refit+bn"}
    assert service.client.head(f"/models/{id}?budget=1").headers["RightRank-Method"] == "original"


def test_a_network_without_its_zero_channels_is_handed_out_as_it_is(
    service: Running, halved: Files, published: dict[str, Path], tmp_path: Path
) -> None:
    save_file({"inputs": torch.randn(400, 1, 8, 8)}, tmp_path / "calibration.safetensors")
    paths = {"checkpoint": halved.checkpoint, "evaluation": halved.evaluation}
    id = publish(service, {**paths, "calibration": tmp_path / "calibration.safetensors"}, '{"effort": "refit"}')
    headers = service.client.head(f"/models/{id}?budget=0.9").headers
    assert (headers["RightRank-Method"], headers["RightRank-Accuracy"]) == ("reduced", "1.0")
    plan = service.parts.catalogue.open(id).planner.plan(budget=0.9)
    assert not service.parts.store.exists(improved_key(id, plan.digest))
    smaller = service.parts.catalogue.open(id).planner.plan(budget=0.3)
    assert any(smaller.ranks)
    assert service.client.head(f"/models/{id}?budget=0.3").headers["RightRank-Method"] in ("cut", "refit")
    assert service.parts.store.exists(improved_key(id, smaller.digest))


def test_a_tuned_model_says_what_the_training_came_to(service: Running, published: dict[str, Path]) -> None:
    id = publish(service, published, '{"effort": "tune", "tune_steps": 60}')
    described = service.client.get(f"/models/{id}").json()
    assert described["options"] == {"effort": "tune", "tune_steps": 60}
    curve = described["tuned"]
    assert [point["params"] for point in curve] == sorted({point["params"] for point in curve})
    assert all(point["cut"] >= 0 and point["tuned"] >= 0 for point in curve)
    knot = service.parts.catalogue.open(id).planner.template.knot
    plan = service.parts.catalogue.open(id).planner.plan(budget=0.4)
    assert agreement(service, id)[1] == ("cut" if knot(plan.ranks) is None else "tuned")
    assert service.client.head(f"/models/{id}?budget=1").headers["RightRank-Accuracy"] == "1.0"
    assert not service.parts.store.exists(tuning_key(id))


def test_a_polished_size_is_trained_once_and_says_so(service: Running, published: dict[str, Path]) -> None:
    cut = publish(service, published, '{"effort": "cut"}')
    id = publish(service, published, '{"effort": "polish", "tune_steps": 200}')
    assert agreement(service, id, 0.3)[1] == "polished"
    inputs = load_file(published["evaluation"])["inputs"]
    whole, ours, plain = (
        torch.jit.load(io.BytesIO(service.client.get(f"/models/{each}?budget={budget}").content))(inputs).softmax(1)
        for each, budget in ((id, 1), (id, 0.3), (cut, 0.3))
    )
    assert (ours - whole).norm() < (plain - whole).norm()
    plan = service.parts.catalogue.open(id).planner.plan(budget=0.3)
    assert service.parts.store.exists(improved_key(id, plan.digest))
    first = fetched(service, id, 0.3)["ETag"]
    service.parts.cache.redis.flushdb()
    assert fetched(service, id, 0.3)["ETag"] == first
    assert fetched(service, id, 1)["RightRank-Accuracy"] == "1.0"
    mixed = [fetched(service, each, 0.12, precision="auto") for each in (id, cut)]
    assert [each["RightRank-Method"] for each in mixed] == ["polished", "cut"]
    assert mixed[0]["RightRank-Plan"] == mixed[1]["RightRank-Plan"]
    assert mixed[0]["Content-Length"] == mixed[1]["Content-Length"]


def test_options_bound_both_trainings() -> None:
    def steps(options: dict[str, Any], basis: Recipe) -> tuple[int, float | None]:
        found = effort.recipe(options, basis, True)
        return found.steps, found.seconds

    assert [steps({}, basis)[0] for basis in (tune.RECIPE, polish.RECIPE)] == [tune.STEPS, polish.STEPS]
    limits = {"tune_steps": 1, "tune_seconds": 9}
    assert [steps(limits, basis) for basis in (tune.RECIPE, polish.RECIPE)] == [(1, 9), (1, 9)]


def test_a_training_whose_worker_is_killed_is_taken_up_by_the_next(
    web: Running, published: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = web.push(published, options='{"effort": "tune", "tune_steps": 60}').json()
    taken = web.parts.engine.take((INGEST,), rest=0)
    assert taken is not None
    steps: list[int] = []

    def attempt(until: tuple[str, int]) -> None:
        assert web.parts.engine.beat(taken) == "ours"
        job = Job(web.parts, taken, threading.Event(), reading.shared())

        def progress(phase: str, completed: int, total: int, unit: str) -> None:
            if phase == "tune":
                steps.append(completed)
            if (phase, completed) == until:
                raise Cancelled("as if it were killed")

        monkeypatch.setattr(job, "progress", progress)
        ingest.run(job)

    with pytest.raises(Cancelled):
        attempt(("tune", 40))
    assert web.parts.store.exists(tuning_key(answer["id"]))
    steps.clear()
    with pytest.raises(Cancelled):
        attempt(("measure", 0))
    assert steps[0] == 25 and steps[-1] == 60
    steps.clear()
    attempt(("", 0))
    assert steps == [60]
    assert not web.parts.store.exists(tuning_key(answer["id"]))
    web.parts.store.create(tuning_key(answer["id"]), b"of a worker that was killed when all but this was done")
    attempt(("", 0))
    assert not web.parts.store.exists(tuning_key(answer["id"]))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ('{"effort": "much"}', "effort"),
        ('{"effort": "tune", "tune_steps": 0}', "tune_steps"),
        ('{"effort": "tune", "tune_steps": 1.5}', "tune_steps"),
        ('{"effort": "tune", "tune_steps": true}', "tune_steps"),
        ('{"effort": "tune", "tune_seconds": "1"}', "tune_seconds"),
        ('{"effort": "refit", "tune_steps": 5}', "tune"),
    ],
)
def test_an_effort_that_makes_no_sense_is_refused(
    web: Running, published: dict[str, Path], options: str, word: str
) -> None:
    answer = web.push(published, options=options)
    assert answer.status_code == 422 and word in answer.json()["detail"]
    assert left(web.parts) == []


@pytest.mark.parametrize("kind", ["refit", "tune", "polish"])
def test_an_effort_without_calibration_inputs_is_refused(web: Running, files: Files, kind: str) -> None:
    answer = web.push({"checkpoint": files.checkpoint}, options=f'{{"effort": "{kind}"}}')
    assert answer.status_code == 422 and "calibration" in answer.json()["detail"]


def test_too_few_inputs_to_tune_fail_the_upload_in_words(
    service: Running, published: dict[str, Path], tmp_path: Path
) -> None:
    few: dict[str, Any] = {**published, "calibration": tmp_path / "few.safetensors"}
    save_file({"inputs": torch.randn(20, 1, 8, 8)}, few["calibration"])
    answer = service.push(few, options='{"effort": "tune"}').json()
    error = service.end(answer["operation"])["error"]
    assert error["type"] == "/problems/data-unusable" and "calibration" in error["detail"]
    assert left(service.parts) == []


class Casting(nn.Module):
    """Its tensors are float32, but it applies them as halves: what stands for its layers' weights is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 48), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.last):
            x = torch.relu(functional.linear(x.flatten(1).half(), layer.weight.half(), layer.bias.half()))
        return x.float()


@pytest.mark.parametrize(
    ("kind", "model", "dtype"),
    [
        ("tune", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).bfloat16(), torch.bfloat16),
        ("polish", Casting(), torch.float32),
    ],
)
def test_a_network_of_halves_is_not_trained_and_that_is_said_before_any_work(
    web: Running,
    kind: str,
    model: nn.Module,
    dtype: torch.dtype,
    published: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decomposed: list[object] = []
    for name in ("learn", "decompose"):
        monkeypatch.setattr(Building, name, lambda *given: decomposed.append(given))

    def read(job: Job, upload: object, folder: Path) -> None:
        """What the sandbox does, here."""
        nets.source(model.eval(), (1, 8, 8), folder, torch.randn(400, 1, 8, 8, dtype=dtype))

    monkeypatch.setattr(ingest, "read", read)
    web.push(published, options=f'{{"effort": "{kind}"}}')
    taken = web.parts.engine.take((INGEST,), rest=0)
    assert taken is not None
    with pytest.raises(DataError, match="float16") as refusal:
        ingest.run(Job(web.parts, taken, threading.Event(), reading.shared()))
    assert "`effort=refit`" in refusal.value.hint and decomposed == []


@pytest.mark.parametrize(
    ("options", "metric", "expected"),
    [
        ({}, None, True),
        ({}, "top1", "places"),
        ({}, "mse", False),
        ({"metric": "mse"}, None, False),
        ({"metric": "agreement"}, "agreement", "places"),
        ({}, "overlap", False),
    ],
)
def test_what_accuracy_is_says_whether_outputs_are_classes(
    options: dict[str, str], metric: str | None, expected: object
) -> None:
    assert effort.classes(options, metric) == expected


def test_a_network_for_a_fixed_number_of_samples_is_not_refit(
    service: Running, published: dict[str, Path], tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    torch.export.save(torch.export.export(model, (torch.randn(4, 1, 8, 8),)), tmp_path / "fixed.pt2")
    files = {"checkpoint": tmp_path / "fixed.pt2", "calibration": published["calibration"]}
    answer = service.push(files, name="fixed", options='{"effort": "refit"}')
    error = service.end(answer.json()["operation"], 120)["error"]
    assert error["type"] == "/problems/data-unusable" and "dynamic batch size" in str(error)


@pytest.mark.parametrize(
    "options", ['{"effort": "cut"}', '{"effort": "refit"}', '{"effort": "tune", "tune_steps": 20}']
)
def test_files_that_compute_in_int8_are_made_and_measured_at_any_effort(
    service: Running, published: dict[str, Path], options: str
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    id = publish(service, published, options)
    (offered,) = [each for each in service.client.get(f"/models/{id}").json()["formats"] if each["format"] == "onnx"]
    assert offered["precisions"] == ["float32", "float16", "int8", "int4", "w8a8"]
    accuracies = {}
    for precision in ("float32", "int4", "w8a8"):
        answer = service.client.get(f"/models/{id}?budget=0.4&format=onnx&precision={precision}")
        while answer.status_code == 503:
            assert service.end(answer.json()["operation"].rsplit("/", 1)[-1], 120)["error"] is None
            answer = service.client.get(f"/models/{id}?budget=0.4&format=onnx&precision={precision}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["RightRank-Precision"] == precision
        accuracies[precision] = float(answer.headers["RightRank-Accuracy"])
    assert accuracies["w8a8"] > accuracies["float32"] - 0.1
    refused = service.client.get(f"/models/{id}?budget=0.4&precision=w8a8")
    assert refused.status_code == 422 and "files that compute in int8 are those of onnx" in refused.json()["detail"]


def test_a_model_without_calibration_inputs_has_no_files_that_compute_in_int8(shared: Running, demo: str) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    answer = shared.client.get(f"/models/{demo}?budget=0.5&format=onnx&precision=w8a8")
    assert answer.status_code == 422 and answer.json()["type"] == "/problems/precision-unavailable"
    assert "which calibration inputs tell" in answer.json()["detail"]
