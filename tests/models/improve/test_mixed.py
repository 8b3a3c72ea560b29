"""A plan of levels, improved within its bytes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.improve import polish
from rightrank.models.improve.choose import method_of
from rightrank.models.improve.distill import Recipe
from rightrank.models.improve.mixed import improve_mixed
from rightrank.models.improve.refit import INPUTS
from rightrank.models.master.levels import OWN
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.progress import silent
from tests.models.nets import SHAPES, Separable, Small, build, make, source

MIXED = Output(writer=2, encoding="levels")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Tensor]:
    """A master that can be refit, its module, and inputs that it has not seen."""
    torch.manual_seed(0)
    data, folder = torch.randn(320, *SHAPES[Small]).cumsum(2), tmp_path_factory.mktemp("mixed")
    module = make(Small)
    build(source(module, SHAPES[Small], folder / "source", data[:256]), folder / "master", keep=INPUTS, mixed=True)
    return module, folder / "master", data[256:]


def outputs(folder: Path, plan: Plan, changes: Path | None, x: Tensor) -> Tensor:
    file = io.BytesIO()
    formats.write(folder, plan, file, changes)
    assert len(file.getvalue()) == plan.bytes
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_it_is_as_large_as_planned_and_nearer_to_the_original(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path, share: float
) -> None:
    module, folder, unseen = kept
    found = Planner.open(folder, MIXED)
    plan = found._at(int(share * (len(found) - 1)))
    method = improve_mixed(folder, plan, tmp_path / "own", silent)
    assert method == method_of(tmp_path / "own") and method.startswith("refit")
    with torch.no_grad():
        whole = module(unseen)
    errors = [float((outputs(folder, plan, own, unseen) - whole).norm()) for own in (None, tmp_path / "own")]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("batch", [None, 32])
def test_trained_further_it_is_as_large_and_nearer_still(tmp_path: Path, batch: int | None) -> None:
    """Of a program for a fixed number of samples, too, which is not refit."""
    torch.manual_seed(0)
    data, module = torch.randn(320, *SHAPES[Separable]).cumsum(2), make(Separable)
    files = source(module, SHAPES[Separable], tmp_path / "source", data[:256], batch=batch)
    build(files, tmp_path / "master", keep=INPUTS, mixed=True)
    found = Planner.open(tmp_path / "master", MIXED)
    plan = found._at(len(found) // 4)
    recipe = Recipe(100, 1, polish.RATE, batch=32, classes=False)
    methods = [
        improve_mixed(tmp_path / "master", plan, tmp_path / name, silent, False, training)
        for name, training in (("plain", None), ("trained", recipe))
    ]
    assert methods[1] == "polished"
    unseen = data[256:] if batch is None else data[256 : 256 + batch]
    with torch.no_grad():
        whole = module(unseen)
    errors = [
        float((outputs(tmp_path / "master", plan, tmp_path / name, unseen) - whole).norm())
        for name in ("plain", "trained")
    ]
    assert errors[1] < errors[0]


def test_what_it_changes_are_levels_and_what_corrects_them(
    kept: tuple[nn.Module, Path, Tensor], tmp_path: Path
) -> None:
    _, folder, _ = kept
    plan = Planner.open(folder, MIXED).smallest
    improve_mixed(folder, plan, tmp_path / "own", silent)
    with safe_open(tmp_path / "own", "numpy") as file:
        names = list(file.keys())
    levels = [name for name in names if name.startswith(f"{OWN}/")]
    assert levels and all("weight" not in name for name in {*names} - {*levels})


def test_too_few_inputs_leave_the_cut(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.randn(3, *SHAPES[Small])
    build(source(make(Small), SHAPES[Small], tmp_path / "source", data), tmp_path / "master", keep=INPUTS, mixed=True)
    plan = Planner.open(tmp_path / "master", MIXED).smallest
    assert improve_mixed(tmp_path / "master", plan, tmp_path / "own", silent) == "cut"
    one, other = (outputs(tmp_path / "master", plan, own, data) for own in (None, tmp_path / "own"))
    assert torch.equal(one, other)
