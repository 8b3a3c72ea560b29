"""From an export to files: networks whose convolutions have groups, or are transposed."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rightrank.models.emit import formats
from rightrank.models.improve import tune
from rightrank.models.improve.choose import improve
from rightrank.models.improve.distill import Recipe
from rightrank.models.master.master import Master
from rightrank.models.master.variant import all_factors, variant
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.models.nets import SHAPES, Cardinal, Painter, build, make, source

CUT = {Painter: {"wide": "transposed", "apart": "transposed"}, Cardinal: {"middle.0": "grouped", "middle.1": "grouped"}}


def samples(kind: type[nn.Module], count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPES[kind], generator=generator).cumsum(3) / 2


@pytest.fixture(scope="module", params=[Painter, Cardinal])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type[nn.Module], Path]:
    kind, out = request.param, tmp_path_factory.mktemp("kind")
    data = source(make(kind), SHAPES[kind], out / "source", samples(kind, 200, 1))
    build(data, out / "master", criterion="logit", keep=200, classes=False)
    return kind, out / "master"


def emitted(folder: Path, plan: Plan, x: Tensor, changes: Path | None = None) -> Tensor:
    file = io.BytesIO()
    formats.write(folder, plan, file, changes)
    assert len(file.getvalue()) == plan.bytes
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(file.getvalue()))(x)  # type: ignore[no-any-return]


def test_files_of_every_size_are_nested_and_do_what_their_factors_do(made: tuple[type[nn.Module], Path]) -> None:
    kind, folder = made
    planner, stored, x = Planner.open(folder), Master.open(folder).tensors(), samples(kind, 3, 2)
    template = planner.template
    forms = {layer.name: layer.form.name for layer in template.decomposed}
    assert CUT[kind].items() <= forms.items()
    last, seen = [0] * len(template.decomposed), set()
    for size in [*range(planner.smallest.params, template.params, template.params // 12), template.params]:
        plan = planner.plan(max_params=size)
        ranks = [rank or 10**6 for rank in plan.ranks]
        assert plan.params <= size and all(a <= b for a, b in zip(last, ranks, strict=True))
        last = ranks
        seen |= {layer.name for layer, rank in zip(template.decomposed, plan.ranks, strict=True) if rank}
        expected = variant(template, stored, plan.ranks).program().run([x])[0]
        torch.testing.assert_close(emitted(folder, plan, x), expected, rtol=1e-4, atol=1e-5)
        byte_plan = planner.plan(max_bytes=plan.bytes)
        assert byte_plan.bytes <= plan.bytes
    assert seen >= CUT[kind].keys()
    with torch.no_grad():
        assert torch.equal(emitted(folder, planner.plan(1.0), x), make(kind)(x))


def test_all_bases_are_the_weights(made: tuple[type[nn.Module], Path]) -> None:
    _, folder = made
    template, stored = Planner.open(folder).template, Master.open(folder).tensors()
    for layer in template.decomposed:
        product = layer.form.product(layer, all_factors(template, stored)[layer.weight])
        whole = stored[template.entry(layer.weight)]
        assert float((product - whole).norm() / whole.norm()) < 1e-4


@pytest.mark.parametrize("kind", [Painter, Cardinal])
@pytest.mark.parametrize("criterion", ["c1c2", "whitened"])
def test_other_criteria_rank_these_forms_too(kind: type[nn.Module], criterion: str, tmp_path: Path) -> None:
    data = source(make(kind), SHAPES[kind], tmp_path / "source", samples(kind, 40, 1))
    described = build(data, tmp_path / "master", criterion=criterion)
    forms = {layer["name"]: layer["form"] for layer in described["layers"]}
    assert CUT[kind].items() <= forms.items() and {*forms.values()} == {"channel", *CUT[kind].values()}
    plan = Planner.open(tmp_path / "master").plan(max_params=described["params"] // 2)
    assert emitted(tmp_path / "master", plan, samples(kind, 2, 2)).isfinite().all()


def test_a_refit_is_nearer_and_what_it_made_can_be_written(made: tuple[type[nn.Module], Path], tmp_path: Path) -> None:
    kind, folder = made
    planner, x = Planner.open(folder), samples(kind, 64, 3)
    plan = planner.plan(max_params=planner.template.params // 3)
    assert improve(folder, plan.ranks, tmp_path / "own", silent, classes=False).startswith("refit")
    changed = {name.partition("/")[2] for name in load_file(tmp_path / "own")}
    assert changed & CUT[kind].keys()
    with torch.no_grad():
        wanted = make(kind)(x)
    errors = [float((emitted(folder, plan, x, each) - wanted).norm()) for each in (None, tmp_path / "own")]
    assert errors[1] < 0.9 * errors[0]


def test_its_factors_learn(made: tuple[type[nn.Module], Path], tmp_path: Path) -> None:
    kind, folder = made
    planner = Planner.open(folder)
    plan = planner.plan(max_params=planner.template.params // 3)
    recipe = Recipe(steps=25, students=1, rate=1e-3, batch=16, classes=False)
    assert improve(folder, plan.ranks, tmp_path / "own", silent, False, recipe) == "polished"
    changed = {name.partition("/")[2] for name in load_file(tmp_path / "own")}
    cut = {layer.name for layer, rank in zip(planner.template.decomposed, plan.ranks, strict=True) if rank}
    assert changed >= cut & CUT[kind].keys() != set()
    assert emitted(folder, plan, samples(kind, 2, 4), tmp_path / "own").isfinite().all()


@pytest.mark.parametrize("kind", [Painter, Cardinal])
def test_tuned_factors_are_cut_as_others_are(kind: type[nn.Module], tmp_path: Path) -> None:
    data = samples(kind, 100, 1)
    folder = tmp_path / "master"
    build(source(make(kind), SHAPES[kind], tmp_path / "source", data), folder, criterion="logit", keep=100)
    recipe = dataclasses.replace(tune.RECIPE, steps=3, students=1, batch=16, classes=False)
    tune.tune(folder, Samples.of(data), recipe, state=tmp_path / "state", progress=silent, largest=1.0, device="cpu")
    planner = Planner.open(folder)
    assert planner.template.tuned is not None
    plan, x = planner.smallest, samples(kind, 3, 2)
    expected = variant(planner.template, Master.open(folder).tensors(), plan.ranks).program().run([x])[0]
    torch.testing.assert_close(emitted(folder, plan, x), expected, rtol=1e-4, atol=1e-5)
