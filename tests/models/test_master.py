from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
import torch

from models import master
from models.emit import torchscript
from models.errors import Cancelled, DataError
from tests.models.nets import SHAPES, Small, make, planner, source


def outputs(folder: Path, plan: object, x: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    torchscript.write(folder, plan, file)  # type: ignore[arg-type]
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("criterion", ["c1c2", "logit"])
def test_building_twice_gives_the_same_bytes(criterion: str, tmp_path: Path) -> None:
    data = torch.randn(40, *SHAPES[Small])
    folders = [planner(Small, tmp_path / name, criterion, data)[1] for name in "ab"]
    for file in ("master.safetensors", "template.json", "plans.npz"):
        one, other = (hashlib.sha256((folder / file).read_bytes()).hexdigest() for folder in folders)
        assert one == other, file


def test_the_description_counts_every_parameter(tmp_path: Path) -> None:
    module = make(Small)
    described = master.build(source(module, SHAPES[Small], tmp_path / "s"), tmp_path / "m")
    assert described["params"] == sum(p.numel() for p in module.parameters())
    assert described["criterion"] == "energy"
    assert json.dumps(described)


def test_calibration_data_choose_the_criterion_that_uses_them(tmp_path: Path) -> None:
    folder = source(make(Small), SHAPES[Small], tmp_path / "s", torch.randn(40, *SHAPES[Small]))
    assert master.build(folder, tmp_path / "m")["criterion"] == "logit"


@pytest.mark.parametrize("criterion", ["whitened", "logit"])
def test_a_criterion_that_needs_data_says_so(criterion: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="calibration"):
        master.build(source(make(Small), SHAPES[Small], tmp_path / "s"), tmp_path / "m", criterion=criterion)


def test_an_unknown_criterion_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="c1c2"):
        master.build(source(make(Small), SHAPES[Small], tmp_path / "s"), tmp_path / "m", criterion="magic")


def test_cutting_in_the_metric_of_the_outputs_changes_them_less_than_plain_svd(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixing = torch.randn(3, 3)
    data = torch.einsum("ij,njhw->nihw", mixing, torch.randn(300, *SHAPES[Small]).cumsum(2)).contiguous()
    errors = {}
    for criterion in ("energy", "logit"):
        module, folder, planner_ = planner(Small, tmp_path / criterion, criterion, data[:200])
        x = data[200:]
        with torch.no_grad():
            whole = module(x)
        errors[criterion] = float((outputs(folder, planner_.plan(0.5), x) - whole).square().mean())
    assert errors["logit"] < errors["energy"]


def test_with_data_the_whole_budget_is_still_the_original_bit_for_bit(tmp_path: Path) -> None:
    x = torch.randn(4, *SHAPES[Small])
    module, folder, planner_ = planner(Small, tmp_path, "logit", torch.randn(40, *SHAPES[Small]))
    with torch.no_grad():
        assert torch.equal(outputs(folder, planner_.plan(1.0), x), module(x))


def test_progress_counts_layers_and_may_stop_the_work(tmp_path: Path) -> None:
    seen = []

    def stop_at_two(phase: str, completed: int, total: int, unit: str) -> None:
        seen.append((phase, completed, total, unit))
        if completed == 2:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        master.build(source(make(Small), SHAPES[Small], tmp_path / "s"), tmp_path / "m", progress=stop_at_two)
    assert [s[:2] for s in seen if s[0] == "decompose"] == [("decompose", 0), ("decompose", 1), ("decompose", 2)]
