"""Whether a service would take an upload is said in its words, and what it would make of it in its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rightrank.models import architectures
from rightrank.models.checkpoint import readers
from rightrank.models.checkpoint.readers import Readers
from rightrank.service.client.flags import spoken
from tests.service.conftest import Files, Running, exported
from tests.service.local.test_cut import refusal, run, said

MLP = '{"name": "mlp", "in_features": 6, "hidden": [4], "num_classes": 3}'


def test_what_is_said_of_a_model_is_what_the_service_says(
    shared: Running, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rightrank.models.assemble.build.decompose", lambda *_: pytest.fail("it was decomposed"))
    found = said(run("check", files.checkpoint, "--evaluation", files.evaluation, "--json"))
    model = shared.client.get("/models/demo").json()
    same = ("params", "macs", "bytes", "inputs", "min_budget", "plans", "uncovered", "layers", "baseline", "precision")
    assert {key: found[key] for key in same} == {key: model[key] for key in same}
    assert found["notes"] == [] and "notes" not in model
    assert found["outputs"] == [{"shape": [None, 10]}]
    by_name = {each["precision"]: each for each in found["precisions"]}
    assert by_name.pop("auto")["bytes"] is None
    assert [each for each in model["precisions"] if each["precision"] != "auto"] == list(by_name.values())
    formats = {each["format"]: each["precisions"] for each in model["formats"] if each["format"] != "executorch"}
    assert {each["format"]: each["precisions"] for each in found["formats"]}.items() >= formats.items()


def same_as(model: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Of what both say, the members that are not the same; sizes of files are the service's for TorchScript alone."""
    formats = {each["format"]: (each["precisions"], each["reason"]) for each in found["formats"]}
    other = [name for name in found if name in model and name not in ("outputs", "formats", "name")]
    wrong = [name for name in other if found[name] != model[name]]
    # The service has no worker for .pte; here it could not be made either, or could.
    theirs = {each["format"]: (each["precisions"], each["reason"]) for each in model["formats"]}
    return wrong + [name for name in formats if name != "executorch" and formats[name] != theirs[name]]


def convolutional(folder: Path) -> Files:
    torch.manual_seed(3)
    stem, middle = nn.Conv2d(1, 24, 3, padding=1), nn.Conv2d(24, 32, 3, padding=1)
    pool = nn.AdaptiveAvgPool2d(1)
    return exported(nn.Sequential(stem, nn.ReLU(), middle, nn.ReLU(), pool, nn.Flatten(), nn.Linear(32, 10)), folder)


def test_what_numbers_decide_is_said_as_the_service_says_it(service: Running, tmp_path: Path) -> None:
    """Without calibration inputs at once; with them, made and thrown away."""
    files = convolutional(tmp_path)
    found = said(run("check", files.checkpoint, "--evaluation", files.evaluation, "--json"))
    model = service.client.get(f"/models/{service.publish(files)}").json()
    assert found["undecided"] == {"forms": [], "precisions": ["auto"], "smallest": True}
    assert {layer["form"] for layer in found["layers"]} == {"channel", "spatial"}
    assert same_as(model, found) == ["precisions"]
    for one, other in zip(found["precisions"], model["precisions"], strict=True):
        assert one == other or one == {"precision": "auto", "bytes": None, "smallest": None, "min_budget": None}

    save_file({"inputs": load_file(files.evaluation)["inputs"]}, tmp_path / "calibration.safetensors")
    flags = ["--evaluation", files.evaluation, "--calibration", tmp_path / "calibration.safetensors"]
    open_yet = said(run("check", files.checkpoint, *flags, "--json"))["undecided"]
    assert open_yet == {"forms": ["0", "2"], "precisions": ["auto", "w8a8"], "smallest": True}
    exact = said(run("check", files.checkpoint, *flags, "--exact", "--json"))
    roles = {"checkpoint": files.checkpoint, "evaluation": files.evaluation, "calibration": flags[-1]}
    answer = service.push(roles).json()
    assert service.end(answer["operation"])["error"] is None
    model = service.client.get(f"/models/{answer['id']}").json()
    assert exact["undecided"] == {"forms": [], "precisions": [], "smallest": False}
    assert same_as(model, exact) == []
    assert "w8a8" in {each["format"]: each["precisions"] for each in exact["formats"]}["onnx"]
    words = " ".join(run("check", files.checkpoint, *flags).stdout.split())
    assert (
        "or somewhat above" in words
        and "the form of 2 layers, what there is in auto and w8a8, the last bytes of the smallest files: --exact"
        in words
    )


def test_people_are_told_the_sizes_and_what_stays(
    tmp_path: Path, borrowed: type[Readers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "Readers", borrowed)  # and here by readers of the command's own

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places, self.head = nn.Parameter(torch.randn(64, 32)), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(torch.relu(x + self.places)).mean(1)

    free = ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(torch.export.export(Words(), (torch.rand(2, 64, 32),), dynamic_shapes=free), tmp_path / "net.pt2")
    result = run("check", tmp_path / "net.pt2")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    for each in ("net.pt2 can be published", "Inputs x: float32 (N, 64, 32)", "Outputs (N, 4)", "1 of 1 can be cut",
                 "places, read by add", "float16", "onnx", "pt2 float32: "):  # fmt: skip
        assert each in words, words
    assert "Note: This model cannot get below 0.9" in " ".join(result.stderr.split())


def garbage(folder: Path, files: Files) -> list[Any]:
    (folder / "net.pt2").write_bytes(b"not a model at all")
    return [folder / "net.pt2"]


def empty(folder: Path, files: Files) -> list[Any]:
    (folder / "net.pt2").write_bytes(b"")
    return [folder / "net.pt2"]


def other_labels(folder: Path, files: Files) -> list[Any]:
    data = load_file(files.evaluation)
    save_file({**data, "targets": data["targets"] + 1}, folder / "eval.safetensors")
    return [files.checkpoint, "--evaluation", folder / "eval.safetensors"]


def no_calibration(folder: Path, files: Files) -> list[Any]:
    return [files.checkpoint, "--effort", "refit"]


def no_such_precision(folder: Path, files: Files) -> list[Any]:
    return [files.checkpoint, "--precision", "float64"]


def no_option(folder: Path, files: Files) -> list[Any]:
    return [files.checkpoint, "--option", "speed=3"]


ROLES = {"--evaluation": "evaluation", "--calibration": "calibration"}


@pytest.mark.parametrize(
    "case",
    [garbage, empty, other_labels, no_such_precision, no_calibration, no_option],
)
def test_a_refusal_is_the_services(
    service: Running, files: Files, tmp_path: Path, case: Callable[[Path, Files], list[Any]]
) -> None:
    checkpoint, *flags = case(tmp_path, files)
    pairs = list(zip(flags[::2], flags[1::2], strict=True))
    paths = {"checkpoint": checkpoint} | {ROLES[name]: value for name, value in pairs if name in ROLES}
    options = {}
    for name, value in pairs:
        if name not in ROLES:
            key, value = value.split("=") if name == "--option" else (name[2:], value)
            options[key] = int(value) if value.isdigit() else value
    answer = service.push(paths, options=json.dumps(options))
    words = answer.json() if answer.status_code != 202 else service.end(answer.json()["operation"])["error"]
    assert words is not None
    assert refusal(run("check", checkpoint, *flags, "--json")) == words
    if case in (empty, no_calibration, no_option):
        told = run("check", checkpoint, *flags)
        assert told.exit_code == 1 and told.stdout == ""
        assert spoken(f"{words['detail']} {words.get('hint', '')}".strip()) in told.stderr
    if case in (other_labels, no_option):
        assert refusal(run("cut", checkpoint, *flags, "-o", tmp_path / "a.pt", "--json")) == words
        assert not (tmp_path / "a.pt").exists()


def test_weights_alone_are_read_with_their_architecture_and_what_was_left_out_is_told(tmp_path: Path) -> None:
    state = architectures.build("mlp", in_features=6, hidden=[4], num_classes=3).state_dict()
    named = {f"model.{name}": tensor for name, tensor in state.items()}
    save_file({**named, "loss.weight": torch.ones(3)}, tmp_path / "net.safetensors")
    found = said(run("check", tmp_path / "net.safetensors", "--architecture", MLP, "--json"))
    assert "loss.weight" in found["notes"][0] and found["params"] == 6 * 4 + 4 + 4 * 3 + 3
