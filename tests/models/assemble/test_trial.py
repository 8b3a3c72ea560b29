from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rightrank.models import checkpoint
from rightrank.models.assemble import build as assemble
from rightrank.models.assemble import trial
from rightrank.models.plan.planner import Planner
from rightrank.models.program.samples import Samples
from tests.models.nets import SHAPES, Small, build, make, read, source


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPES[Small]).cumsum(2) / 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return source(make(Small), SHAPES[Small], tmp_path_factory.mktemp("trial") / "source", images(200))


def test_the_nearer_criterion_is_taken_and_both_are_told(folder: Path, tmp_path: Path) -> None:
    described = build(folder, tmp_path / "chosen")
    tried = described["tried"]
    assert set(tried) == set(trial.CANDIDATES) and all(math.isfinite(value) for value in tried.values())
    assert described["criterion"] == min(tried, key=tried.__getitem__)
    given = build(folder, tmp_path / "given", criterion=described["criterion"])
    assert given["tried"] == {}
    for name in ("master.safetensors", "plans.npz", "ranges.safetensors", "template.json"):
        assert (tmp_path / "chosen" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()
    assert sorted(file.name for file in (tmp_path / "chosen").iterdir()) == [
        "master.safetensors", "plans.npz", "ranges.safetensors", "template.json"
    ]  # fmt: skip


@pytest.mark.parametrize("best", trial.CANDIDATES)
def test_what_decides_is_how_far_cuts_are_on_inputs_that_were_held_back(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    seen: list[Tensor] = []

    def far(where: Path, held: Tensor, classes: object) -> float:
        assert Planner.open(where).template.decomposed
        seen.append(held)
        return float(where.name != best)

    monkeypatch.setattr(trial, "_far", far)
    assert build(folder, tmp_path / "chosen")["criterion"] == best
    assert [len(held) for held in seen] == [40, 40]


@pytest.mark.parametrize("best", trial.CANDIDATES)
def test_inputs_beyond_those_of_the_choice_count_as_if_there_had_been_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    monkeypatch.setattr(trial, "INPUTS", 100)
    monkeypatch.setattr(trial, "_far", lambda where, held, classes: float(where.name != best))
    assert build(folder, tmp_path / "chosen")["criterion"] == best
    build(folder, tmp_path / "given", criterion=best)
    for name in ("master.safetensors", "plans.npz", "ranges.safetensors", "template.json"):
        assert (tmp_path / "chosen" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()


def test_a_cut_at_full_size_is_nearest(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(folder, tmp_path / "out", criterion="logit")
    held = Samples.of(images(40))
    far = trial._far(tmp_path / "out", held, True)
    monkeypatch.setattr(trial, "BUDGETS", (1.0, 0.9))
    assert trial._far(tmp_path / "out", held, True) < far


def test_outputs_that_are_not_classes_leave_no_choice(folder: Path, tmp_path: Path) -> None:
    described = build(folder, tmp_path / "numbers", classes=False)
    assert described["tried"] == {} and described["criterion"] == "logit"
    program = read(nn.Conv2d(3, 4, 3), (3, 8, 8), tmp_path)
    assert not trial.possible(program, Samples.of(torch.randn(200, 3, 8, 8)))
    assert trial.possible(program, Samples.of(torch.randn(200, 3, 8, 8)), "places")


class Tagging(nn.Module):
    """A class for each of the words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(30, 24), nn.Linear(24, 24), nn.Linear(24, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(2 * self.inner(self.words(x))))


def test_where_classes_stand_at_each_place_criteria_are_tried_on_these(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 30, (200, 6))
    export = torch.export.export(Tagging().eval(), (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(export, tmp_path / "tagging.pt2")
    program = checkpoint.read(tmp_path / "tagging.pt2")
    tried = assemble.build(program, tmp_path / "master", Samples.of(x), classes="places")["tried"]
    assert set(tried) == {"logit", "fisher"} and all(0 < each < 1 for each in tried.values())
    assert assemble.build(program, tmp_path / "other", Samples.of(x))["tried"] == {}


def test_too_few_inputs_leave_no_choice(tmp_path: Path) -> None:
    few = source(make(Small), SHAPES[Small], tmp_path / "source", images(60))
    assert build(few, tmp_path / "out")["tried"] == {}


@pytest.mark.parametrize("scale", [100.0, math.nan])
def test_what_is_lost_counts_as_much_as_knowing_nothing_and_no_more(folder: Path, tmp_path: Path, scale: float) -> None:
    build(folder, tmp_path / "out", criterion="logit")
    stored = load_file(tmp_path / "out" / "master.safetensors")
    spoilt = {name: value * scale if name.startswith("up/") else value for name, value in stored.items()}
    save_file(spoilt, tmp_path / "out" / "master.safetensors")
    assert trial._far(tmp_path / "out", Samples.of(images(40)), True) == 1.0
