from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

import rightrank
from rightrank.models.errors import BudgetError, DataError, PrecisionError
from rightrank.models.master.master import Master
from tests.models.nets import SHAPES, Attending, Small, encoded, encoder, export, make

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_notebook_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lines follow a reader's own: a trained `model`, and `images` and `labels` of it."""
    (block,) = [
        each for each in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "rightrank.build" in each
    ]
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    model, images = make(Small), torch.randn(100, *SHAPES[Small])
    with torch.no_grad():
        labels = model(images).argmax(1)
    Path("block.py").write_text(block)
    runpy.run_path("block.py", {"model": model, "images": images, "labels": labels})
    assert "top1" in capsys.readouterr().out
    assert torch.jit.load("small.pt")(images).shape == (100, 10)  # type: ignore[no-untyped-call]
    assert Path("small.pt").stat().st_size > 0


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Master:
    folder = tmp_path_factory.mktemp("face")
    program = rightrank.read(export(make(Small), SHAPES[Small], folder / "model.pt2"))
    return rightrank.build(program, folder / "master", torch.randn(80, *SHAPES[Small], dtype=torch.float64))


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (torch.randn(40, 3, 12), r"the model takes \(n, 3, 12, 12\)"),
        (torch.randn(3, 12, 12), r"the model takes \(n, 3, 12, 12\)"),
        (torch.full((40, *SHAPES[Small]), torch.nan), "NaN"),
        (torch.zeros(40, *SHAPES[Small], dtype=torch.int64), "the model takes float32"),
    ],
)
def test_calibration_that_does_not_fit_is_refused_in_words(
    calibration: torch.Tensor, words: str, tmp_path: Path
) -> None:
    program = rightrank.read(export(make(Small), SHAPES[Small], tmp_path / "model.pt2"))
    with pytest.raises(DataError, match=words):
        rightrank.build(program, tmp_path / "master", calibration)
    assert not (tmp_path / "master").exists()


def test_a_file_is_no_program(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="as read gives it"):
        rightrank.build("model.pt2", tmp_path)  # type: ignore[arg-type]


def test_a_plan_has_the_precision_asked_for(master: Master, tmp_path: Path) -> None:
    exact, whole = rightrank.plan(master, 1), rightrank.plan(master, 1, precision="float16")
    assert exact == rightrank.plan(master, 1, precision="float32") and whole.bytes < exact.bytes
    assert rightrank.write(master, whole, tmp_path / "half.pt").stat().st_size == whole.bytes
    with pytest.raises(PrecisionError, match="They have float32, float16, int8, auto"):
        rightrank.plan(master, 1, precision="int4")


def test_a_plan_takes_limits_that_are_some(master: Master) -> None:
    with pytest.raises(ValueError, match="one or several of budget, max_bytes, .* was given none"):
        rightrank.plan(master)
    alone = rightrank.plan(master, 0.5)
    both = rightrank.plan(master, 0.5, max_bytes=alone.bytes - 1, max_macs=alone.macs)
    assert both.bytes < alone.bytes and both.macs <= alone.macs and both.params <= alone.params
    for budget in (30, 0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="is no share"):
            rightrank.plan(master, budget)
    with pytest.raises(ValueError, match="params or of macs"):
        rightrank.plan(master, 0.5, of="bytes")  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="below what this model can be cut to"):
        rightrank.plan(master, 0.001)


def test_another_masters_plan_is_refused_and_leaves_no_file(master: Master, tmp_path: Path) -> None:
    program = rightrank.read(export(make(Attending), SHAPES[Attending], tmp_path / "model.pt2"))
    other = rightrank.plan(rightrank.build(program, tmp_path / "other"), 1.0)
    with pytest.raises(ValueError, match="another master"):
        rightrank.write(master, other, tmp_path / "small.pt")
    assert not [*tmp_path.glob("small*")]


def test_what_cannot_be_measured_is_refused_in_words(master: Master, tmp_path: Path) -> None:
    file = rightrank.write(master, rightrank.plan(master, 1.0), tmp_path / "net.pt")
    images, labels = torch.randn(20, *SHAPES[Small]), torch.zeros(20, dtype=torch.int64)
    assert rightrank.measure(file, images.numpy(), labels.tolist()).n == 20  # type: ignore[arg-type]
    for inputs, targets, metric, words in (
        (images, labels[:5], None, "20 inputs but 5 targets"),
        (images[:0], labels[:0], None, "no inputs"),
        (images, labels, "agreement", "is no metric to measure a file by"),
        (images, labels + 99, None, "Targets run from 99"),
        (images[:, :1], labels, None, "does not run on evaluation inputs"),
    ):
        with pytest.raises(DataError, match=words):
            rightrank.measure(file, inputs, targets, metric=metric)


def test_a_network_of_several_inputs_and_lengths_is_calibrated_and_measured(tmp_path: Path) -> None:
    module, program = encoder(tmp_path)
    groups = encoded(40).samples.groups
    names = ("input_ids", "attention_mask")
    named = {f"{name}.{k}": x for k, group in enumerate(groups) for name, x in zip(names, group, strict=True)}
    small = rightrank.build(program, tmp_path / "master", named, criterion="logit")
    file = rightrank.write(small, rightrank.plan(small, 1.0), tmp_path / "net.pt")
    with torch.no_grad():
        labels = module(*groups[2]).argmax(1)
    assert rightrank.measure(file, groups[2], labels).value == 1
