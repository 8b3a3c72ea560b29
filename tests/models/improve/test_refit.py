from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightrank.models.assemble import build as assemble
from rightrank.models.assemble.survey import survey
from rightrank.models.emit import formats
from rightrank.models.errors import DataError
from rightrank.models.factor.factors import by_basis
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.improve import refit, tune
from rightrank.models.improve.choose import improve
from rightrank.models.master.master import Master
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import SHAPES, Small, build, encoded, encoder, gather, make, read, recurring, source


def prepared(
    module: nn.Module, shape: tuple[int, ...], x: Tensor, folder: Path
) -> tuple[Program, tuple[Layer, ...], list[Moments]]:
    program = read(module, shape, folder)
    decomposed = survey(program).decomposed
    return program, decomposed, gather(program, decomposed, x)


def plainly(layer: Layer, program: Program, moments: Moments, rank: int) -> dict[str, Tensor]:
    """The entries of a layer's plain cut."""
    kept = layer.form.factors(layer, program.tensors[layer.weight], moments).keep(layer, rank)
    return {f"{side}/{layer.name}": factor for side, factor in kept.items()}


def refitted(program: Program, ranks: Sequence[int], moments: Sequence[Moments], x: Tensor) -> dict[str, Tensor]:
    template = survey(program)
    weights = [layer.weight for layer in template.decomposed]
    gradients = {weight: Gradients.of(each) for weight, each in zip(weights, moments, strict=True)}
    cut = program
    for layer, rank, moment in zip(template.decomposed, ranks, moments, strict=True):
        if rank:
            cut = substituted(cut, (layer,), plainly(layer, program, moment, rank))
    inputs = refit.affordable(program, Samples.of(x))
    return refit.refit(program, template.layers, template.by_weight(ranks), gradients, cut, inputs, silent)


def substituted(program: Program, decomposed: tuple[Layer, ...], found: dict[str, Tensor]) -> Program:
    result = dict(program.tensors)
    for layer in decomposed:
        if f"down/{layer.name}" in found:
            factors = {side: found[f"{side}/{layer.name}"] for side in layer.form.sides}
            result[layer.weight] = layer.form.product(layer, factors)
    result |= {name.removeprefix("corrected/"): row for name, row in found.items() if name.startswith("corrected/")}
    result |= {name.removeprefix("dense/"): value for name, value in found.items() if name.startswith("dense/")}
    return program.with_tensors(result)


def test_a_refit_network_is_nearer_to_the_original_than_the_cut_on_images_it_has_not_seen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.randn(320, *SHAPES[Small]).cumsum(2)
    seen, unseen = data[:256], data[256:]
    program, decomposed, moments = prepared(make(Small), SHAPES[Small], seen, tmp_path)
    ranks = [max(1, layer.break_even // 3) for layer in decomposed]
    cut: dict[str, Tensor] = {}
    for layer, rank, moment in zip(decomposed, ranks, moments, strict=True):
        cut |= plainly(layer, program, moment, rank)
    better = refitted(program, ranks, moments, seen)
    whole = program.run([unseen])[0]
    errors = [
        float((substituted(program, decomposed, found).run([unseen])[0] - whole).square().mean())
        for found in (cut, better)
    ]
    assert errors[1] < errors[0]


def test_where_nothing_is_cut_nothing_is_refit(tmp_path: Path) -> None:
    x = torch.randn(64, *SHAPES[Small])
    program, decomposed, moments = prepared(make(Small), SHAPES[Small], x, tmp_path)
    assert refitted(program, [0] * len(decomposed), moments, x) == {}


def test_a_whole_layer_makes_good_what_a_cut_one_before_it_lost(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.randn(320, *SHAPES[Small]).cumsum(2)
    seen, unseen = data[:256], data[256:]
    program, decomposed, moments = prepared(make(Small), SHAPES[Small], seen, tmp_path)
    ranks = [1, *[0] * (len(decomposed) - 1)]
    found = refitted(program, ranks, moments, seen)
    first = {name: value for name, value in found.items() if not name.startswith("dense/")}
    assert {f"dense/{layer.weight}" for layer in decomposed[1:]} <= found.keys()
    wanted = program.run([unseen])[0]
    errors = [
        float((substituted(program, decomposed, each).run([unseen])[0] - wanted).square().mean())
        for each in (first, found)
    ]
    assert errors[1] < 0.7 * errors[0]


class Residual(nn.Module):
    """The shortcut of a sum is cut; its branch can make that good, before a batch norm or without one."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        if norm:
            nn.init.uniform_(self.norm.weight, 0.2, 2)
            nn.init.uniform_(self.norm.running_var, 0.2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.norm(self.branch(torch.relu(x)))


@pytest.mark.parametrize("norm", [True, False])
def test_a_branch_makes_good_what_its_shortcut_lacks(
    norm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    data = torch.randn(320, 3, 8, 8)
    seen, unseen = data[:256], data[256:]
    program, decomposed, moments = prepared(make(partial(Residual, norm)), (3, 8, 8), seen, tmp_path)
    wanted = program.run([unseen])[0]

    def error() -> float:
        better = substituted(program, decomposed, refitted(program, [2, 0], moments, seen))
        return float((better.run([unseen])[0] - wanted).square().mean())

    with_it = error()
    assert refitted(program, [2, 0], moments, seen).keys() >= {"dense/branch.weight"}
    monkeypatch.setattr(refit._Walk, "_missing", lambda walk, node, values, whole: None)
    assert with_it < 0.9 * error()


def test_factors_have_the_plans_ranks_and_the_weights_type(tmp_path: Path) -> None:
    x = torch.randn(64, *SHAPES[Small])
    program, decomposed, moments = prepared(make(Small), SHAPES[Small], x, tmp_path)
    found = refitted(program, [2] * len(decomposed), moments, x)
    for layer in decomposed:
        factors = {side: found[f"{side}/{layer.name}"] for side in ("down", "up")}
        assert {side: tuple(factor.shape) for side, factor in factors.items()} == layer.factor_shapes(2)
        assert {factor.dtype for factor in factors.values()} == {torch.float32}
        down, up = (by_basis(layer, side, factor) for side, factor in factors.items())
        assert (down.shape, up.shape) == ((2, layer.m), (2, layer.n))


def test_a_refit_without_data_is_refused(tmp_path: Path) -> None:
    folder = source(make(Small), SHAPES[Small], tmp_path / "source")
    with pytest.raises(DataError, match="calibration"):
        build(folder, tmp_path / "master", keep=1000)


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(12, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x)


def test_the_mean_of_the_outputs_is_kept(tmp_path: Path) -> None:
    x = torch.randn(300, 12) + 1
    program, decomposed, moments = prepared(make(One), (12,), x, tmp_path)
    found = refitted(program, [2], moments, x)
    whole, less = (each.run([x])[0] for each in (program, substituted(program, decomposed, found)))
    assert torch.allclose(whole.mean(0), less.mean(0), atol=1e-4)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(14, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return read(make(Chain), (14,), tmp_path_factory.mktemp("chain"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.floats(0.3, 3))
def test_a_refit_is_never_worse_than_the_cut_by_what_it_minimises(
    chain: Program, seed: int, first: int, second: int, spread: float
) -> None:
    """The error of a layer's outputs about their mean, in the metric of the gradients, with the ridge's part,
    given the inputs that the cut layers before it make."""
    program, tensors = chain, chain.tensors
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 14, generator=generator) * torch.logspace(0, -spread, 14) + 0.5
    decomposed = survey(program).decomposed
    moments = gather(program, decomposed, x)
    ranks = (first, second)
    found = refitted(program, ranks, moments, x)
    plain = {}
    for layer, rank, moment in zip(decomposed, ranks, moments, strict=True):
        plain |= plainly(layer, program, moment, rank)
    before = substituted(program, decomposed[:1], found).tensors
    reached = torch.tanh(x @ before["first.weight"].T + before["first.bias"])
    wanted = torch.tanh(x @ tensors["first.weight"].T + tensors["first.bias"]) @ tensors["second.weight"].T
    centred, target = reached - reached.mean(0), wanted - wanted.mean(0)

    def objective(factors: dict[str, Tensor]) -> float:
        weight = factors["up/second"] @ factors["down/second"]
        ridge = (refit.RIDGE + refit.FEW * 12 / 200) * centred.square().mean(0).mean()
        off = weight - tensors["second.weight"]
        error = (centred @ weight.T - target).double()
        moved = off.double()
        metric = moments[1].gradient
        fit = (error @ metric * error).sum() / len(error)
        return float(fit + ridge * (moved.T @ metric * moved.T).sum())

    assert objective(found) <= objective(plain) * (1 + 1e-3) + 1e-9


class Context(nn.Module):
    """A sum whose terms have different shapes: nothing can be told of what it lacks at one place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.context = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.context(x.mean((2, 3), keepdim=True))


class Turned(nn.Module):
    """A linear layer whose first dimension is not the samples, and more samples than that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x)).reshape(-1, 3, 8).permute(1, 0, 2)
        return self.second(x).permute(1, 0, 2).flatten(1)


class Tied(nn.Module):
    """A layer that is called twice keeps its cut; the one after it can make that good."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.last = nn.Linear(16, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


@pytest.mark.parametrize(
    ("kind", "shape", "ranks"), [(Context, (3, 8, 8), (2, 0)), (Turned, (12,), (2, 0)), (Tied, (16,), (3, 0))]
)
def test_the_layer_that_is_left_whole_helps_whatever_is_around_it(
    kind: type[nn.Module], shape: tuple[int, ...], ranks: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    seen = torch.randn(320, *shape) * torch.logspace(0, -1, shape[-1])
    program, decomposed, moments = prepared(make(kind), shape, seen, tmp_path)
    found = refitted(program, ranks, moments, seen)
    assert f"dense/{decomposed[1].weight}" in found
    cut = plainly(decomposed[0], program, moments[0], ranks[0])
    wanted = program.run([seen])[0]
    errors = [
        float((substituted(program, decomposed, each).run([seen])[0] - wanted).square().mean())
        for each in (cut, {**cut, **found})
    ]
    assert errors[1] < errors[0]


def test_what_overflows_is_left_as_it_was(tmp_path: Path) -> None:
    x = torch.randn(64, 14)
    program, decomposed, moments = prepared(make(Chain), (14,), x, tmp_path)
    assert not any("first" in name for name in refitted(program, [2, 2], moments, x * 1e38))
    assert refitted(program, [2, 2], moments, x * torch.inf) == {}


@pytest.mark.parametrize(("kind", "shape"), [(Chain, (14,)), (Small, SHAPES[Small])])
def test_inputs_that_the_network_has_no_numbers_for_are_left_out(
    kind: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, *shape)
    program, decomposed, moments = prepared(make(kind), shape, x, tmp_path)
    ranks = [2] * len(decomposed)
    expected = refitted(program, ranks, moments, x)
    found = refitted(program, ranks, moments, torch.cat([x, x[:1] * torch.nan]))
    assert found.keys() == expected.keys() and all(bool(each.isfinite().all()) for each in found.values())
    wanted = program.run([x])[0]
    errors = [float((substituted(program, decomposed, each).run([x])[0] - wanted).norm()) for each in (expected, found)]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_samples_of_several_lengths_and_inputs_are_refit_and_tuned_alike(tmp_path: Path) -> None:
    module, program = encoder(tmp_path)
    data, unseen = encoded(200).samples, encoded(200, seed=2).samples
    assemble.build(program, tmp_path / "master", data, criterion="logit", keep=600)
    planner = Planner.open(tmp_path / "master")
    plan = planner.plan(max_params=int(0.6 * planner.template.params))
    assert any(plan.ranks)
    won = improve(tmp_path / "master", plan.ranks, tmp_path / "own", silent)
    assert won == "refit"
    files = {}
    for name, changes in (("cut", None), ("refit", tmp_path / "own")):
        with (tmp_path / name).open("wb") as file:
            formats.write(tmp_path / "master", plan, file, changes)
        files[name] = torch.jit.load(tmp_path / name)
    errors = dict.fromkeys(files, 0.0)
    for group in unseen.groups:
        with torch.no_grad():
            wanted = module(*group)
            for name, file in files.items():
                errors[name] += float((file(*group) - wanted).square().sum())
    assert errors["refit"] < 0.8 * errors["cut"]
    recipe = dataclasses.replace(tune.RECIPE, steps=30, batch=32)
    curve = tune.tune(tmp_path / "master", data, recipe, state=tmp_path / "state", progress=silent, device="cpu")
    assert curve[0]["tuned"] < curve[0]["cut"]
    assert Master.open(tmp_path / "master").template.tuned is not None


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_a_refit_recurrent_network_is_nearer_than_the_cut_on_sequences_it_has_not_seen(cell: str) -> None:
    torch.manual_seed(0)
    data = torch.randn(320, 7, 9) @ torch.randn(9, 9) / 3
    seen, unseen = data[:256], data[256:]
    program = apart(recurring(cell, 2, both=True))
    decomposed = survey(program).decomposed
    moments = gather(program, decomposed, seen)
    ranks = [max(1, layer.break_even // 2) for layer in decomposed]
    cut: dict[str, Tensor] = {}
    for layer, rank, moment in zip(decomposed, ranks, moments, strict=True):
        cut |= plainly(layer, program, moment, rank)
    better = refitted(program, ranks, moments, seen)
    assert {f"down/{layer.name}" for layer in decomposed} <= better.keys()
    whole = program.run([unseen])[0]
    errors = [
        float((substituted(program, decomposed, found).run([unseen])[0] - whole).square().mean())
        for found in (cut, better)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_a_recurrent_layer_left_whole_makes_good_what_was_lost_before_it() -> None:
    torch.manual_seed(0)
    seen, unseen = torch.randn(256, 7, 9), torch.randn(64, 7, 9)
    program = apart(recurring("gru", 2))
    decomposed = survey(program).decomposed
    moments = gather(program, decomposed, seen)
    ranks = [3 if layer.name.startswith("0.") else 0 for layer in decomposed]
    found = refitted(program, ranks, moments, seen)
    first = {name: value for name, value in found.items() if not name.startswith("dense/")}
    assert {"dense/1.0", "dense/1.1"} <= found.keys() and "dense/0.0" not in found
    wanted = program.run([unseen])[0]
    errors = [
        float((substituted(program, decomposed, each).run([unseen])[0] - wanted).square().mean())
        for each in (first, found)
    ]
    assert errors[1] < errors[0]
    assert refitted(program, [0] * len(ranks), moments, seen) == {}
