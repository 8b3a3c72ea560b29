from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import improve as improve_module
from models import master
from models.emit import torchscript
from models.improve import improve, method_of
from models.plan import Plan, Planner
from tests.models.nets import SHAPES, Halved, Small, make, source


@pytest.fixture
def kept(tmp_path: Path) -> tuple[nn.Module, Path, Tensor]:
    """A master that can be refit, its module, and inputs that it has not seen."""
    torch.manual_seed(0)
    data = torch.randn(320, *SHAPES[Small]).cumsum(2)
    module = make(Small)
    folder = source(module, SHAPES[Small], tmp_path / "source", data[:256])
    master.build(folder, tmp_path / "master", refit=True)
    return module, tmp_path / "master", data[256:]


def outputs(folder: Path, plan: Plan, refitted: Path | None, x: Tensor) -> Tensor:
    file = io.BytesIO()
    torchscript.write(folder, plan, file, refitted)
    assert len(file.getvalue()) == plan.bytes
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-any-return]


def test_a_file_of_a_refit_plan_has_the_plans_size_and_is_nearer_to_the_original(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path
) -> None:
    module, folder, unseen = kept
    plan = Planner.open(folder).plan(max_params=1900)
    assert improve(folder, plan.ranks, tmp_path / "r.safetensors", master.silent) .startswith("refit")
    with torch.no_grad():
        whole = module(unseen)
    errors = [float((outputs(folder, plan, r, unseen) - whole).norm()) for r in (None, tmp_path / "r.safetensors")]
    assert errors[1] < errors[0]


def test_where_a_refit_is_no_better_on_held_back_inputs_the_cut_stays(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, unseen = kept
    plan = Planner.open(folder).plan(max_params=1900)
    broken = {"down/stem": torch.zeros(1, 27), "up/stem": torch.zeros(1, 16)}
    monkeypatch.setattr(improve_module, "refit", lambda *_: broken)
    assert improve(folder, plan.ranks, tmp_path / "r.safetensors", master.silent) == "cut"
    assert torch.equal(
        outputs(folder, plan, tmp_path / "r.safetensors", unseen), outputs(folder, plan, None, unseen)
    )


def test_the_file_says_what_won(kept: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    _, folder, _ = kept
    won = improve(folder, Planner.open(folder).smallest.ranks, tmp_path / "r.safetensors", master.silent)
    assert method_of(tmp_path / "r.safetensors") == won
    assert bool(load_file(tmp_path / "r.safetensors")) == (won != "cut")


def test_the_original_is_never_changed(kept: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    _, folder, _ = kept
    assert improve(folder, Planner.open(folder).plan(1.0).ranks, tmp_path / "r.safetensors", master.silent) == "cut"
    assert load_file(tmp_path / "r.safetensors") == {}


def test_a_network_that_lost_its_zero_channels_can_be_refit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, module = torch.randn(320, *SHAPES[Halved]).cumsum(2), make(Halved)
    folder, own = tmp_path / "master", tmp_path / "r.safetensors"
    master.build(source(module, SHAPES[Halved], tmp_path / "source", data[:256]), folder, refit=True)
    planner = Planner.open(folder)
    plan = planner.plan(max_params=1200)
    assert improve(folder, plan.ranks, own, master.silent) != "cut"
    with torch.no_grad():
        whole = module(data[256:])
    errors = [float((outputs(folder, plan, each, data[256:]) - whole).norm()) for each in (None, own)]
    assert errors[1] < errors[0]
    assert improve(folder, planner.plan(0.99).ranks, own, master.silent) == "cut"
