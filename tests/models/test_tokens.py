"""Networks whose inputs are integers: all that calibration inputs allow is done for them too."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import master, tune
from models.emit import torchscript
from models.improve import improve
from models.plan import Plan, Planner
from models.refit import INPUTS
from tests.models.nets import make, source

LENGTH, WORDS = 6, 12


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(3 * self.first(self.words(x))).mean(1))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A master, and what is said of it."""
    folder = tmp_path_factory.mktemp("tokens")
    program = source(make(Reader), (LENGTH,), folder / "source", tokens(400))
    return folder / "master", master.build(program, folder / "master", keep=INPUTS)


def tokens(count: int, seed: int = 1) -> Tensor:
    """Not all of the words are met: the data have something to say."""
    return torch.randint(0, WORDS // 2, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def error(folder: Path, plan: Plan, changes: Path | None = None) -> float:
    file = io.BytesIO()
    torchscript.write(folder, plan, file, changes)
    x = tokens(100, seed=2)
    with torch.no_grad():
        return float((torch.jit.load(io.BytesIO(file.getvalue()))(x) - make(Reader)(x)).norm())


def test_the_cut_is_nearer_than_one_that_knows_no_data(built: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, described = built
    assert described["criterion"] in ("logit", "fisher")
    master.build(folder.parent / "source", tmp_path / "blind", criterion="energy")
    planner = Planner.open(folder)
    size = int(0.7 * planner.template.params)
    plan = Planner.open(tmp_path / "blind").plan(max_params=size)
    cut, uninformed = error(folder, planner.plan(max_params=size)), error(tmp_path / "blind", plan)
    assert cut < uninformed


def test_a_refit_is_nearer_still(built: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    folder, _ = built
    planner = Planner.open(folder)
    plan = planner.plan(max_params=int(0.5 * planner.template.params))
    assert improve(folder, plan.ranks, tmp_path / "changes", master.silent).startswith("refit")
    assert error(folder, plan, tmp_path / "changes") < error(folder, plan)


def test_they_can_be_tuned(built: tuple[Path, dict[str, object]]) -> None:
    folder, _ = built
    recipe = dataclasses.replace(tune.RECIPE, steps=60, batch=32)
    curve = tune.tune(folder, tokens(400), recipe, state=folder / "state", progress=master.silent)
    assert curve[0]["tuned"] < curve[0]["cut"]
