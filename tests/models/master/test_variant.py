from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rightrank.models.emit import formats
from rightrank.models.master import variant
from tests.models.nets import SHAPES, Halved, Small, planner


@pytest.mark.parametrize("params", [0, 2000, 2500, 10**6])
def test_the_tensors_give_what_the_file_gives(tmp_path: Path, params: int) -> None:
    calibration = torch.randn(64, *SHAPES[Small])
    _, folder, planner_ = planner(Small, tmp_path, "logit", calibration)
    plan = planner_.plan(max_params=params or planner_.smallest.params)
    file, template, x = io.BytesIO(), planner_.template, torch.randn(5, *SHAPES[Small])
    formats.write(folder, plan, file)
    file.seek(0)
    program = variant.variant(template, load_file(folder / "master.safetensors"), plan.ranks).program()
    with torch.no_grad():
        expected = torch.jit.load(file)(x)
        torch.testing.assert_close(program.run([x])[0], expected, rtol=1e-4, atol=1e-5)


def test_a_replaced_entry_takes_the_place_of_the_masters(tmp_path: Path) -> None:
    _, folder, planner_ = planner(Small, tmp_path)
    stored, ranks = load_file(folder / "master.safetensors"), planner_.smallest.ranks
    changed = variant.variant(planner_.template, stored, ranks, {"dense/norm.weight": torch.full((16,), 7.0)})
    assert changed.program().tensors["norm.weight"].tolist() == [7.0] * 16


def test_without_zero_channels_the_smaller_program_and_the_uploaded_one_can_both_be_run(tmp_path: Path) -> None:
    module, folder, planner_ = planner(Halved, tmp_path)
    template, stored, x = planner_.template, load_file(folder / "master.safetensors"), torch.randn(5, *SHAPES[Halved])
    assert template.uploaded is not None
    smaller = variant.variant(template, stored, planner_.plan(0.9).ranks).program()
    uploaded = variant.variant(template.uploaded, stored, ()).program()
    with torch.no_grad():
        assert torch.equal(uploaded.run([x])[0], module(x))
        torch.testing.assert_close(smaller.run([x])[0], module(x), rtol=1e-5, atol=1e-5)
