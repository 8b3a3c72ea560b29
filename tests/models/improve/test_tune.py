from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rightrank.models.emit import formats
from rightrank.models.errors import Cancelled, DataError
from rightrank.models.improve import distill, tune
from rightrank.models.improve.distill import Recipe
from rightrank.models.master import variant
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.models.nets import SHAPES, Halved, Small, build, make, source

RECIPE = Recipe(steps=160, students=2, batch=32, rate=3e-3, classes=False)


@pytest.fixture(scope="module")
def untuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Tensor]:
    """A module, its master, and inputs with structure."""
    folder = tmp_path_factory.mktemp("tune")
    torch.manual_seed(0)
    data = torch.randn(400, *SHAPES[Small]).cumsum(2) / 3
    module = make(Small)
    build(source(module, SHAPES[Small], folder / "source", data), folder / "master")
    return module, folder / "master", data


def copied(untuned: tuple[nn.Module, Path, Tensor], folder: Path) -> Path:
    folder.mkdir()
    for file in untuned[1].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def tuned(untuned: tuple[nn.Module, Path, Tensor], tmp_path_factory: pytest.TempPathFactory, device: str) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    out = copied(untuned, folder / "master")
    tune.tune(out, Samples.of(untuned[2]), RECIPE, state=folder / "state.safetensors", progress=silent, device=device)
    return out


def outputs(folder: Path, plan: Plan, x: Tensor) -> Tensor:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    assert len(file.getvalue()) == plan.bytes
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-any-return]


def test_small_prefixes_come_nearer_to_the_original(untuned: tuple[nn.Module, Path, Tensor], tuned: Path) -> None:
    module, before, _ = untuned
    torch.manual_seed(1)
    x = torch.randn(200, *SHAPES[Small]).cumsum(2) / 3
    with torch.no_grad():
        whole = module(x)
    plan = Planner.open(tuned).plan(max_params=2800)
    errors = [float((outputs(folder, plan, x) - whole).norm()) for folder in (before, tuned)]
    assert errors[1] < 0.9 * errors[0]


def test_plans_and_the_original_are_what_they_were(untuned: tuple[nn.Module, Path, Tensor], tuned: Path) -> None:
    module, before, _ = untuned
    old, new = Planner.open(before), Planner.open(tuned)
    assert [old._at(count) for count in range(len(old))] == [new._at(count) for count in range(len(new))]
    x = torch.randn(3, *SHAPES[Small])
    with torch.no_grad():
        assert torch.equal(outputs(tuned, new.plan(1.0), x), module(x))


def test_above_the_size_up_to_which_it_helps_the_cut_is_kept(
    untuned: tuple[nn.Module, Path, Tensor], tuned: Path
) -> None:
    old, new = Planner.open(untuned[1]), Planner.open(tuned)
    assert new.template.tuned is not None
    below, x = new.template.tuned.below, torch.randn(3, *SHAPES[Small])
    assert old.smallest.params <= below < new.template.params
    for count in range(0, len(new), 5):
        plan = new._at(count)
        same = torch.equal(outputs(tuned, plan, x), outputs(untuned[1], plan, x))
        assert same == (plan.params > below) == (new.template.knot(plan.ranks) is None)


def test_every_tuned_size_gives_its_file_and_the_tensors_that_it_was_compared_by(tuned: Path) -> None:
    planner, stored = Planner.open(tuned), load_file(tuned / "master.safetensors")
    x = torch.randn(4, *SHAPES[Small])
    for count in range(0, len(planner), 9):
        plan = planner._at(count)
        expected = variant.variant(planner.template, stored, plan.ranks).program().run([x])[0]
        torch.testing.assert_close(outputs(tuned, plan, x), expected, rtol=1e-3, atol=1e-4)


def test_a_training_that_was_killed_goes_on_and_ends_the_same(
    untuned: tuple[nn.Module, Path, Tensor], tuned: Path, tmp_path: Path, device: str
) -> None:
    out, state = copied(untuned, tmp_path / "master"), tmp_path / "state.safetensors"

    def killed(phase: str, completed: int, total: int, unit: str) -> None:
        if phase == "tune" and completed == 130:
            raise Cancelled("enough")

    saved: list[int] = []
    with pytest.raises(Cancelled):
        tune.tune(
            out,
            Samples.of(untuned[2]),
            RECIPE,
            state=state,
            progress=killed,
            saved=lambda: saved.append(1),
            device=device,
        )
    assert len(saved) == 5
    steps: list[int] = []

    def watch(phase: str, completed: int, total: int, unit: str) -> None:
        if phase == "tune":
            steps.append(completed)

    tune.tune(out, Samples.of(untuned[2]), RECIPE, state=state, progress=watch, device=device)
    assert steps[0] == 125
    once, twice = load_file(tuned / "master.safetensors"), load_file(out / "master.safetensors")
    assert once.keys() == twice.keys()
    assert all(torch.allclose(once[name], twice[name], rtol=1e-3, atol=1e-4) for name in once)


def test_a_training_with_another_recipe_starts_anew(untuned: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    for steps, expected in ((3, 0), (2, 0), (2, None)):
        seen: list[int] = []

        def watch(phase: str, completed: int, total: int, unit: str, seen: list[int] = seen) -> None:
            if phase == "tune" and completed < total:
                seen.append(completed)

        recipe = dataclasses.replace(RECIPE, steps=steps)
        tune.tune(
            copied(untuned, tmp_path / f"{steps}{expected}"),
            Samples.of(untuned[2]),
            recipe,
            state=state,
            progress=watch,
        )
        assert next(iter(seen), None) == expected


def test_a_training_of_another_network_or_optimizer_starts_anew(
    untuned: tuple[nn.Module, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, recipe = tmp_path / "state.safetensors", dataclasses.replace(RECIPE, steps=2)
    steps: list[int] = []

    def watch(phase: str, completed: int, total: int, unit: str) -> None:
        if phase == "tune" and completed < total:
            steps.append(completed)

    def training(out: Path, data: Tensor) -> list[int]:
        steps.clear()
        tune.tune(out, Samples.of(data), recipe, state=state, progress=watch, device="cpu")
        return [*steps]

    other = torch.randn(400, 12)
    build(source(make(Branching), (12,), tmp_path / "source", other), tmp_path / "branching")
    assert training(tmp_path / "branching", other) == [0, 1]
    assert training(copied(untuned, tmp_path / "first"), untuned[2]) == [0, 1]
    assert training(copied(untuned, tmp_path / "same"), untuned[2]) == []
    monkeypatch.setattr(distill, "MUON", 2.0)
    assert training(copied(untuned, tmp_path / "rate"), untuned[2]) == [0, 1]


def test_a_time_limit_ends_the_training_early(untuned: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    out = copied(untuned, tmp_path / "master")
    recipe = dataclasses.replace(RECIPE, steps=10**6, seconds=0.3)
    curve = tune.tune(
        out, Samples.of(untuned[2]), recipe, state=tmp_path / "s.safetensors", progress=silent, device="cpu"
    )
    assert curve and Planner.open(out).template.tuned is not None


def test_too_few_inputs_are_refused(untuned: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    out = copied(untuned, tmp_path / "master")
    with pytest.raises(DataError, match="at least"):
        tune.tune(out, Samples.of(untuned[2][:100]), RECIPE, state=tmp_path / "s", progress=silent)


def test_a_program_for_single_samples_is_refused(untuned: tuple[nn.Module, Path, Tensor], tmp_path: Path) -> None:
    out = copied(untuned, tmp_path / "master")
    template = json.loads((out / "template.json").read_text())
    template["graph"]["inputs"][0][2][0] = 1
    (out / "template.json").write_text(json.dumps(template))
    with pytest.raises(DataError, match="single samples"):
        tune.tune(out, Samples.of(untuned[2]), RECIPE, state=tmp_path / "s", progress=silent)


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(64, 64).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x.double())


def test_a_network_that_lost_its_zero_channels_can_be_tuned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, module, folder = torch.randn(400, *SHAPES[Halved]).cumsum(2) / 3, make(Halved), tmp_path / "master"
    build(source(module, SHAPES[Halved], tmp_path / "source", data), folder)
    before, x = Planner.open(folder), data[:100]
    whole, reduced = before.plan(1.0), before.plan(0.99)
    plan = before.plan(max_params=before.smallest.params + 200)
    with torch.no_grad():
        expected = module(x)
    error = float((outputs(folder, plan, x) - expected).norm())
    tune.tune(folder, Samples.of(data), RECIPE, state=tmp_path / "state.safetensors", progress=silent, device="cpu")
    after = Planner.open(folder)
    assert [after.plan(1.0), after.plan(0.99)] == [whole, reduced] and reduced.reduced
    assert float((outputs(folder, plan, x) - expected).norm()) < error
    assert torch.equal(outputs(folder, whole, x), expected)
    torch.testing.assert_close(outputs(folder, reduced, x), expected, rtol=1e-5, atol=1e-5)


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    data = torch.randn(400, 64)
    build(source(Double(), (64,), tmp_path / "source", data), tmp_path / "master")
    with pytest.raises(DataError, match="float32"):
        tune.tune(tmp_path / "master", Samples.of(data), RECIPE, state=tmp_path / "s", progress=silent)


def test_the_threshold_is_where_the_errors_are_least() -> None:
    def point(params: int, cut: float, tuned: float) -> dict[str, float]:
        return {"params": params, "cut": cut, "tuned": tuned}

    assert tune._threshold([point(1, 1.0, 0.5), point(2, 0.5, 0.1), point(3, 0.1, 0.2)]) == 2
    assert tune._threshold([point(1, 0.5, 1.0), point(2, 0.5, 0.01), point(3, 0.1, 0.2)]) == 2
    assert tune._threshold([point(1, 0.5, 1.0), point(2, 0.1, 0.2)]) == 0
    infinite = [point(1, math.inf, 0.1), point(2, math.inf, 0.1), point(3, 0.5, 0.1), point(4, 0.1, 0.2)]
    assert tune._threshold(infinite) == 3
    assert tune._threshold([point(1, math.inf, math.inf), point(2, 0.5, 0.1)]) == 2


class Branching(nn.Module):
    """Two layers beside one, then one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.beside, self.twice = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.relu(self.first(x))) + self.beside(x)
        return self.twice(torch.relu(self.twice(x)))


def test_depth_counts_the_layers_that_lie_behind_one_another(tmp_path: Path) -> None:
    build(source(make(Branching), (12,), tmp_path / "source"), tmp_path / "master")
    assert tune.depth(Planner.open(tmp_path / "master").template) == 4


def test_deep_networks_learn_at_a_lower_rate(
    untuned: tuple[nn.Module, Path, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = tune.depth(Planner.open(untuned[1]).template)
    assert (tune.slower(shallow), tune.slower(tune.DEEP), tune.slower(2 * tune.DEEP)) == (1, 1, 0.25)

    def learnt(name: str, rate: float) -> dict[str, Tensor]:
        out = copied(untuned, tmp_path / name)
        recipe = dataclasses.replace(RECIPE, steps=2, rate=rate)
        state = tmp_path / f"{name}.safetensors"
        tune.tune(out, Samples.of(untuned[2]), recipe, state=state, progress=silent, device="cpu")
        return {key: value for key, value in load_file(state).items() if key.startswith("value/")}

    quarter, whole = learnt("quarter", 1e-3), learnt("whole", 4e-3)
    monkeypatch.setattr(tune, "DEEP", shallow / 2)
    deep = learnt("deep", 4e-3)
    assert all(torch.equal(deep[key], quarter[key]) for key in deep)
    assert not all(torch.equal(deep[key], whole[key]) for key in deep)
