from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rightrank.models.assemble.survey import survey
from rightrank.models.improve import tune
from rightrank.models.plan.path import DENSE, PlanPath, order
from rightrank.models.plan.planner import Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import SHAPES, Small, build, make, planner, recurring, source


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    torch.manual_seed(0)
    return planner(Small, tmp_path_factory.mktemp("path"), "logit", torch.randn(64, *SHAPES[Small]))[2]


@pytest.mark.parametrize("per_mac", [False, True])
def test_each_step_adds_the_basis_that_is_worth_most_of_those_left(found: Planner, per_mac: bool) -> None:
    layers = found.template.decomposed
    importance = [np.array(layer["importance"], dtype=float) for layer in found.importance()]
    growth = order(layers, importance, per_mac)
    level, worth = growth.floor.copy(), []
    for index in growth.steps:
        value = np.minimum.accumulate(importance[index])[level[index]]
        worth.append(value / (layers[index].positions if per_mac else 1))
        level[index] += 1
    assert worth == sorted(worth, reverse=True)
    assert level.tolist() == [layer.break_even + 1 for layer in layers]


def test_a_budget_of_macs_has_a_path_of_its_own(found: Planner) -> None:
    assert found._path_by_macs is not found._path
    differ = [found.plan(b, of="macs") for b in np.linspace(0.3, 0.95, 20)]
    assert any(plan not in [found._at(count) for count in range(len(found))] for plan in differ)
    assert found.plan(1.0, of="macs") == found.plan(1.0)


def test_both_paths_lead_from_the_same_smallest_to_the_same_whole(found: Planner) -> None:
    paths = (found._path, found._path_by_macs)
    assert len({path.ranks(0) for path in paths}) == len({path.params[-1] for path in paths}) == 1
    assert all(set(path.ranks(len(path) - 1)) == {DENSE} for path in paths)


def test_the_last_step_within_every_limit_is_taken() -> None:
    rising, wavering = np.array([1, 2, 3, 4]), np.array([10, 30, 20, 40])
    assert PlanPath.largest((rising, 3)) == 2
    assert PlanPath.largest((rising, 4), (wavering, 25)) == 2
    assert PlanPath.largest((rising, 2), (wavering, 25)) == 0
    assert PlanPath.largest((rising, 0)) is None
    assert PlanPath.largest((rising, 9), (wavering, 9)) is None


def test_a_tuned_master_has_one_path(found: Planner, tmp_path: Path) -> None:
    data = torch.randn(200, *SHAPES[Small])
    build(source(make(Small), SHAPES[Small], tmp_path / "source", data), tmp_path / "master")
    recipe = replace(tune.RECIPE, steps=1, batch=32)
    tune.tune(tmp_path / "master", Samples.of(data), recipe, state=tmp_path / "state", progress=silent, device="cpu")
    tuned = Planner.open(tmp_path / "master")
    assert tuned._path_by_macs is tuned._path


def test_by_macs_a_layer_that_saves_none_is_whole_before_others_grow() -> None:
    layers = survey(apart(recurring("gru"))).decomposed
    importance = [np.linspace(1, 0.5, layer.rank) for layer in layers]
    dear = next(index for index, layer in enumerate(layers) if layer.form.name == "product")
    by_macs, by_params = order(layers, importance, per_mac=True).steps, order(layers, importance).steps
    assert set(by_macs[: layers[dear].break_even]) == {dear} != set(by_params[: layers[dear].break_even])
    assert sorted(by_macs) == sorted(by_params)
