"""A master's levels: at every grid, of every layer, whole and as factors."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble.levels import GRIDS
from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.emit.torchscript.fold import folds
from rightrank.models.factor.layer import Layer
from rightrank.models.improve import polish
from rightrank.models.improve.distill import Recipe
from rightrank.models.improve.made import Made, decoded
from rightrank.models.improve.mixed import improve_mixed
from rightrank.models.improve.refit import INPUTS
from rightrank.models.improve.written import beside_levels
from rightrank.models.master import entries
from rightrank.models.master.levels import FIXED, LEVELS, Levels, there
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template
from rightrank.models.master.variant import variant
from rightrank.models.plan.mixture import MIXTURE, Mixture
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.progress import silent
from tests.models.nets import SHAPES, Small, build, planner, source

MIXED = Output(writer=2, encoding="levels")


@pytest.fixture(scope="module", params=["data", "without"])
def master(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Master:
    data = torch.randn(64, *SHAPES[Small]) if request.param == "data" else None
    criterion = "logit" if request.param == "data" else "energy"
    _, folder, _ = planner(Small, tmp_path_factory.mktemp("levels"), criterion, data, mixed=True)
    return Master.open(folder)


def numbers(layer: Layer, side: str, shape: tuple[int, ...], levels: Levels, count: int) -> Tensor:
    return decoded(layer, side, shape, levels, count).numbers(torch.float32)


def test_each_grid_is_nearer_to_the_weight_than_the_next(master: Master) -> None:
    stored = master.tensors()
    for layer in master.template.decomposed:
        source_ = master.template.entry(layer.weight)
        weight, before = stored[source_], 0.0
        for grid in GRIDS:
            levels = Levels.of(master.levels, grid, source_)
            made = numbers(layer, "", layer.shape, levels, len(levels.ends) - 1)
            error = float((made - weight).norm() / weight.norm())
            assert before <= error + 1e-3
            before = error
        finest = numbers(layer, "", layer.shape, Levels.of(master.levels, GRIDS[0], source_), layer.shape[0])
        assert float((finest - weight).norm() / weight.norm()) < 0.1


def test_factors_of_the_finest_grid_make_the_weight(tmp_path: Path) -> None:
    """Where no data say that some of it matters less."""
    _, folder, _ = planner(Small, tmp_path, "energy", mixed=True)
    master = Master.open(folder)
    stored = master.tensors()
    for layer in master.template.decomposed:
        sources = {side: entries.factor(side, layer.name) for side in layer.form.sides}
        if not there(master.levels, GRIDS[0], sources["down"]):
            assert layer.form.name == "grouped"
            continue
        rank, made = layer.break_even, {}
        for side, shape in layer.factor_shapes(rank).items():
            made[side] = numbers(layer, side, shape, Levels.of(master.levels, GRIDS[0], sources[side]), rank)
        whole = layer.form.product(layer, {s: stored[e][tuple(map(slice, made[s].shape))] for s, e in sources.items()})
        assert float((layer.form.product(layer, made) - whole).norm() / whole.norm()) < 0.15


def test_coarser_is_smaller_and_the_mixture_knows_every_size(master: Master) -> None:
    found = Planner.open(master.folder, MIXED)
    sizes = []
    for count in (0, len(found) // 3, 2 * len(found) // 3, len(found) - 1):
        plan, file = found._at(count), io.BytesIO()
        formats.write(master.folder, plan, file)
        assert len(file.getvalue()) == plan.bytes
        sizes.append(plan.bytes)
    assert sizes == sorted(set(sizes))


def test_the_largest_file_answers_as_the_network_does(master: Master) -> None:
    found, file = Planner.open(master.folder, MIXED), io.BytesIO()
    formats.write(master.folder, found.largest, file)
    x = torch.randn(16, *SHAPES[Small])
    file.seek(0)
    with torch.no_grad():
        made, wanted = torch.jit.load(file)(x), master.program().run((x,))[0]
    assert float((made - wanted).norm() / wanted.norm()) < 0.05


class Depthwise(nn.Module):
    """A depthwise convolution, which is never cut, before one that may be; in double precision where that is asked."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.apart = nn.Conv2d(12, 12, 3, groups=12, dtype=dtype)
        self.mixed = nn.Conv2d(12, 24, 3, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixed(torch.relu(self.apart(x.to(self.dtype)))).mean((2, 3))


def test_weights_that_are_never_cut_have_eight_bits(tmp_path: Path) -> None:
    build(source(Depthwise(), (12, 9, 9), tmp_path / "source"), tmp_path / "master", criterion="energy", mixed=True)
    master = Master.open(tmp_path / "master")
    (layer,) = [layer for layer in master.template.layers if not layer.decomposed]
    entry = master.template.entry(layer.weight)
    levels, weight = Levels.of(master.levels, FIXED, entry), master.tensors()[entry]
    error = (numbers(layer, "", layer.shape, levels, len(levels.ends) - 1) - weight).flatten(1).abs().amax(1)
    assert bool((error <= 0.51 * weight.flatten(1).abs().amax(1) / 127).all())


class Standing(nn.Module):
    """Tokens of which each stands somewhere, which a table says; one is there for all; and a depthwise convolution."""

    def __init__(self, zero: bool = False) -> None:
        super().__init__()
        self.first, self.places = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(0.1 * torch.randn(1, 13, 24))
        self.inner, self.head = nn.Linear(24, 48), nn.Linear(48, 10)
        self.register_buffer("known", torch.randn(13, 24))
        self.unread = nn.Parameter(torch.randn(20, 24))
        self.apart = nn.Conv1d(13, 13, 3, padding=1, groups=13)
        self.heat = nn.Parameter(torch.tensor(0.7))
        if zero:
            for each in (self.places, self.apart.weight):
                nn.init.zeros_(each)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first.expand(x.shape[0], 1, 24), x], 1) + self.places + self.known
        return self.head(torch.relu(self.inner(x + self.apart(x)))).mean(1) * self.heat


@pytest.mark.parametrize("zero", [False, True])
def test_a_table_that_no_layer_reads_has_levels(tmp_path: Path, zero: bool) -> None:
    """Whatever its numbers are; not what is small, or no parameter, or what nothing reads. Where levels are improved it
    stays, or learns as they do."""
    torch.manual_seed(0)
    module, data, folder = Standing(zero).eval(), torch.randn(320, 12, 24), tmp_path / "master"
    build(source(module, (12, 24), tmp_path / "source", data[:256]), folder, keep=INPUTS, mixed=True)
    master, found = Master.open(folder), Planner.open(folder, MIXED)
    assert master.template.tables == {"places"} == Template.from_json(master.template.to_json()).tables
    plan = found._at(len(found) // 2)
    before = dataclasses.replace(master.template, tables=frozenset())
    with torch.no_grad():
        wanted = module(data[256:])
    for training in (None, Recipe(20, 1, polish.RATE, batch=32, classes=False)):
        method = improve_mixed(folder, plan, tmp_path / "own", silent, False, training)
        file = io.BytesIO()
        formats.write(folder, plan, file, tmp_path / "own")
        assert len(file.getvalue()) == plan.bytes
        file.seek(0)
        with torch.no_grad():
            made = torch.jit.load(file)(data[256:])
        assert float((made - wanted).norm() / wanted.norm()) < 0.5, method
    sizes = [formats.writer_of(each, MIXED).sizes().whole for each in (master.template, before)]
    assert sizes[1] - sizes[0] > 0.9 * 4 * 13 * 24


@pytest.mark.parametrize(("network", "shape"), [(Standing, (12, 24)), (Depthwise, (12, 9, 9))])
def test_one_scale_and_eight_bits_will_do_beside_few_levels(
    network: type[nn.Module], shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the file of any plan computes what these numbers do."""
    monkeypatch.setattr("rightrank.models.assemble.levels.MANY", 1)
    torch.manual_seed(0)
    data, folder = torch.randn(64, *shape), tmp_path / "master"
    build(source(network().eval(), shape, tmp_path / "source", data), folder, mixed=True)
    master = Master.open(folder)
    template, found = master.template, Planner.open(folder, MIXED)
    assert template.alike == {layer.weight for layer in template.decomposed}
    biases = {name for name, spec in template.tensors.items() if len(spec.shape) == 1}
    assert template.vectors == biases | ({"first"} & template.tensors.keys())
    for count in (0, len(found) // 4, len(found) // 2, len(found) - 1):
        plan, file = found._at(count), io.BytesIO()
        formats.write(folder, plan, file)
        assert len(file.getvalue()) == plan.bytes
        file.seek(0)
        made, base = Made.of(master, plan), variant(template, master.tensors(), plan.ranks)
        levels = base.with_({n: made.numbers(n)[""] for n in made.whole}, {n: made.numbers(n) for n in made.cut})
        for name in made.names:
            for side, each in made.scaled(name).items():
                assert side == "down" or name not in template.alike or len(each.scales.unique()) == 1
        with torch.no_grad():
            given, wanted = torch.jit.load(file)(data), beside_levels(levels).run([data])[0]
        # Scales are halves in a file.
        assert float((given - wanted).abs().max() / wanted.abs().max()) < 1e-3


def test_an_output_keeps_a_scale_that_a_norm_goes_into_and_large_networks_their_vectors(master: Master) -> None:
    norms = folds(master.template)
    assert norms and not norms.keys() & master.template.alike
    assert not {name for fold in norms.values() for name in fold.tensors} & master.template.vectors


@pytest.mark.parametrize(
    ("constant", "value", "there"), [("MUCH", 1.0, False), ("MANY", 512, False), ("MANY", 1, True)]
)
def test_where_vectors_are_next_to_nothing_they_stay(
    constant: str, value: float, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a share of a network, or of a small file, which is not larger for them."""
    monkeypatch.setattr("rightrank.models.assemble.levels.MANY", 1)
    monkeypatch.setattr(f"rightrank.models.assemble.levels.{constant}", value)
    build(source(Standing(), (12, 24), tmp_path / "source"), tmp_path / "master", criterion="energy", mixed=True)
    assert bool(Template.open(tmp_path / "master").vectors) is there


class Deep(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(5)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("width", [100, 103, 120])
def test_no_file_is_larger_for_vectors_of_eight_bits(width: int, tmp_path: Path) -> None:
    build(source(Deep(width), (width,), tmp_path / "source"), tmp_path / "master", criterion="energy", mixed=True)
    template = Template.open(tmp_path / "master")
    assert bool(template.vectors) is (5 * width >= 512)
    other = dataclasses.replace(template, vectors=frozenset())
    sizes = [formats.writer_of(each, MIXED).sizes().whole for each in (template, other)]
    assert sizes[0] < sizes[1] or not template.vectors


def test_a_network_of_other_numbers_has_none(tmp_path: Path) -> None:
    module = Depthwise(torch.float64)
    build(source(module, (12, 9, 9), tmp_path / "source"), tmp_path / "master", criterion="energy", mixed=True)
    assert not (tmp_path / "master" / LEVELS).exists() and not (tmp_path / "master" / MIXTURE).exists()


def test_they_take_less_room_than_the_numbers(master: Master) -> None:
    streams = sum(
        Levels.of(master.levels, grid, master.template.entry(layer.weight)).stream.size
        for layer in master.template.decomposed
        for grid in GRIDS
    )
    assert streams < 2 * sum(4 * layer.params for layer in master.template.decomposed)
    assert np.isfinite(streams)


def test_layers_that_are_too_large_to_be_looked_at_whole_are_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rightrank.models.quantise.metric.WIDE", 20)
    monkeypatch.setattr("rightrank.models.assemble.levels.LARGE", 300)
    _, folder, _ = planner(Small, tmp_path, "logit", torch.randn(64, *SHAPES[Small]), mixed=True)
    master = Master.open(folder)
    found = Planner.open(folder, MIXED)
    for layer in master.template.decomposed:
        factored = there(master.levels, GRIDS[0], entries.factor("down", layer.name))
        assert factored == (layer.params <= 300 and layer.form.name != "grouped")
    file = io.BytesIO()
    formats.write(folder, found.largest, file)
    assert len(file.getvalue()) == found.largest.bytes


class Dead(nn.Module):
    """A table with a row for padding, and a convolution of which some outputs are nothing, or next to it."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 24, padding_idx=None if size else 0)
        self.inner, self.head = nn.Conv1d(24, 48, 3, padding=1), nn.Linear(48, 10)
        with torch.no_grad():
            self.inner.weight[:12] *= size

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(self.table(x).mT)).mean(2))


def test_outputs_of_next_to_nothing_make_no_others_finer(tmp_path: Path) -> None:
    finest, errors = [], []
    for size in (1.0, 1e-8, 0.0):
        torch.manual_seed(0)
        module, folder = Dead(size).eval(), tmp_path / str(size)
        tokens = torch.randint(1, 64, (96, 12))
        build(source(module, (12,), folder / "source", tokens), folder / "master", mixed=True)
        mixture, found, file = Mixture.open(folder / "master"), Planner.open(folder / "master", MIXED), io.BytesIO()
        finest.append(dict(zip((each.weight for each in found.template.decomposed), mixture.finest, strict=True)))
        formats.write(folder / "master", found.plan(0.2), file)
        file.seek(0)
        with torch.no_grad():
            wanted, made = module(tokens), torch.jit.load(file)(tokens)
        errors.append(float((made - wanted).norm() / (wanted - wanted.mean(0)).norm()))
    for weight in ("table.weight", "inner.weight"):
        assert all(0.2 < each[weight] / finest[0][weight] < 2 for each in finest)
    assert max(errors) < 2 * errors[0]


class Normed(nn.Module):
    """Vectors that norms take with them, and few others."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 96, 3), nn.BatchNorm2d(96), nn.ReLU(), nn.Conv2d(96, 96, 1))
        self.norm, self.head = nn.BatchNorm2d(96), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.body(x))).mean((2, 3)))


def test_vectors_that_norms_take_with_them_are_not_counted(tmp_path: Path) -> None:
    build(source(Normed().eval(), (3, 6, 6), tmp_path / "source", torch.randn(64, 3, 6, 6)), tmp_path / "m", mixed=True)
    template = Template.open(tmp_path / "m")
    assert len(folds(template)) == 2 and sum(len(x.shape) == 1 for x in template.tensors.values()) > 8
    assert not template.vectors


def test_no_more_inputs_are_looked_at_than_memory_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rightrank.models.assemble.levels.VALUES", 24 * 7 * 7 * 10)
    seen: list[int] = []
    program = Program.run

    def run(self: Program, inputs: Sequence[Tensor], visit: Any = None) -> Any:
        if getattr(visit, "__qualname__", "").startswith("_walk"):
            seen.append(len(inputs[0]))
        return program(self, inputs, visit)

    monkeypatch.setattr(Program, "run", run)
    build(source(Depthwise(), (12, 9, 9), tmp_path / "source", torch.randn(64, 12, 9, 9)), tmp_path / "m", mixed=True)
    assert seen and 1 <= max(seen) <= 12
