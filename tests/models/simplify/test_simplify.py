from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from rightrank.models.simplify.simplify import simplify
from tests.models import nets


def half_dead() -> nn.Module:
    """A computed weight with zero rows."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(8, 4)))
    with torch.no_grad():
        net[0].weight[:3] = net[0].bias[:3] = 0  # type: ignore[index,operator]
    return net.eval()


def test_both_steps_are_taken_and_reported_and_the_outputs_stay(tmp_path: Path) -> None:
    program = nets.read(half_dead(), (6,), tmp_path)
    smaller, _, reports = simplify(program)
    assert reports["computed"]["stored"] and reports["eliminated"]["removed"] == 3
    assert smaller.parameters < program.parameters
    assert reports["eliminated"]["params_after"] == smaller.parameters
    x = [torch.randn(5, 6)]
    torch.testing.assert_close(smaller.run(x), program.run(x))
    assert json.dumps(reports)


def test_a_program_that_is_simple_already_comes_back_as_the_very_object(tmp_path: Path) -> None:
    program = nets.read(nets.make(nets.Small), nets.SHAPES[nets.Small], tmp_path)
    same, _, reports = simplify(program)
    assert same is program
    assert not reports["computed"]["stored"] and not reports["eliminated"]["removed"]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ZeroDivisionError])
def test_an_elimination_that_stumbles_leaves_the_program_as_it_is_and_says_why(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def eliminate(*_: Any, **__: Any) -> Any:
        raise error("no such luck\nand more")

    program = nets.read(nets.make(nets.Halved), nets.SHAPES[nets.Halved], tmp_path)
    monkeypatch.setattr("rightrank.models.simplify.zeros.eliminate", eliminate)
    same, _, reports = simplify(program)
    assert same is program
    rejected = reports["eliminated"]["rejected"]
    assert rejected.startswith(f"the elimination failed: {error.__name__}: ") and "no such luck" in rejected
    assert reports["eliminated"]["params_after"] == program.parameters
