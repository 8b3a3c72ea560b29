from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rightrank.models.assemble.describe import describe
from rightrank.models.emit import formats
from rightrank.models.factor import layers
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer
from rightrank.models.improve import tune
from rightrank.models.improve.choose import improve
from rightrank.models.improve.distill import Recipe
from rightrank.models.master.master import Master
from rightrank.models.master.variant import variant
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.models.nets import SHAPES, Separable, Small, build, make, read, source


def layers_of(module: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Layer]:
    program = read(module.eval(), shape, folder)
    return {layer.name: layer for layer in layers.find(program.graph, program.shapes)}


def test_a_convolution_in_the_spatial_form_is_the_papers_matrix_and_each_factor_has_its_own_positions(
    tmp_path: Path,
) -> None:
    layer = layers_of(make(Separable), SHAPES[Separable], tmp_path)["uneven"]
    assert layer.suits == {"channel": (8 * 4, 8 * 4), "spatial": (8 * 8, 8 * 4)} and layer.positions == 8 * 4
    spatial = dataclasses.replace(layer, form=FORMS["spatial"])
    assert (spatial.m, spatial.n, spatial.params) == (12 * 3, 16 * 5, layer.params)
    numbers = [sum(map(math.prod, spatial.factor_shapes(spatial.break_even + more).values())) for more in (0, 1)]
    assert numbers[0] < layer.params <= numbers[1]
    assert set(spatial.macs_of_basis.tolist()) == {12 * 3 * 8 * 8 + 16 * 5 * 8 * 4}
    assert set(layer.macs_of_basis.tolist()) == {(12 * 3 * 5 + 16) * 8 * 4}


def test_only_two_dimensional_kernels_that_can_be_cut_take_the_spatial_form(tmp_path: Path) -> None:
    layers_ = layers_of(make(Separable), SHAPES[Separable], tmp_path)
    assert [name for name, layer in layers_.items() if "spatial" in layer.suits] == ["stem", "uneven", "open"]
    assert "spatial" not in layers_of(make(Small), SHAPES[Small], tmp_path)["grouped"].suits
    assert "spatial" not in layers_of(nn.Conv1d(4, 4, 3), (4, 9), tmp_path)["weight"].suits
    assert "spatial" not in layers_of(nn.Conv3d(4, 4, 3), (4, 5, 5, 5), tmp_path)["weight"].suits


def test_a_stride_that_makes_the_first_factor_dear_rules_the_spatial_form_out(tmp_path: Path) -> None:
    def columns(stride: tuple[int, int]) -> int:
        net = nn.Conv2d(16, 16, 3, stride=stride, padding=1)
        return layers_of(net, (16, 24, 24), tmp_path)["weight"].suits.get("spatial", (0,))[0]

    assert columns((1, 1)) == columns((1, 2)) == 24 * 24 and columns((6, 1)) and not columns((1, 6))


def test_a_side_too_wide_to_decompose_rules_the_spatial_form_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nn.Conv2d(8, 4, 3)
    assert "spatial" in layers_of(net, (8, 9, 9), tmp_path)["weight"].suits
    monkeypatch.setattr("rightrank.models.factor.forms.spatial.WIDE", 23)
    assert "spatial" not in layers_of(net, (8, 9, 9), tmp_path)["weight"].suits


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPES[Separable]).cumsum(2).cumsum(3) / 6 + 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("spatial")
    torch.manual_seed(0)
    data = source(make(Separable), SHAPES[Separable], out / "source", images(400))
    build(data, out / "master", criterion="logit", keep=400)
    return out / "master"


def run(data: bytes, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(data))(x)


def emitted(folder: Path, planner: Planner, size: int) -> tuple[bytes, int]:
    file, plan = io.BytesIO(), planner.plan(max_params=size)
    formats.write(folder, plan, file)
    return file.getvalue(), plan.bytes


def test_a_network_of_separable_kernels_is_cut_in_the_spatial_form(folder: Path) -> None:
    template = Planner.open(folder).template
    forms = {layer.name: layer.form.name for layer in template.decomposed}
    assert {forms[name] for name in ("stem", "uneven", "open")} == {"spatial"}
    assert {forms[name] for name in ("column", "head")} == {"channel"}
    described = describe(Planner.open(folder))["layers"]
    assert {layer["name"]: layer["form"] for layer in described} == forms


def test_files_of_every_size_hold_what_was_planned_and_do_what_their_tensors_do(folder: Path) -> None:
    found, x = Planner.open(folder), images(5)
    template, stored = found.template, Master.open(folder).tensors()
    for size in range(found.smallest.params, template.params + 1, 97):
        data, planned = emitted(folder, found, size)
        assert len(data) == planned
        expected = variant(template, stored, found.plan(max_params=size).ranks).program().run([x])[0]
        torch.testing.assert_close(run(data, x), expected, rtol=1e-4, atol=1e-5)


def test_plans_by_macs_count_each_factor_at_its_own_positions(folder: Path) -> None:
    found = Planner.open(folder)
    for share in (0.4, 0.6, 0.8, 0.95):
        plan = found.plan(share, of="macs")
        macs = 0
        for rank, layer in zip(plan.ranks, found.template.decomposed, strict=True):
            numbers = [math.prod(shape) for shape in layer.factor_shapes(rank).values()]
            places = layer.suits[layer.form.name]
            macs += sum(map(math.prod, zip(numbers, places, strict=True))) if rank else layer.macs
        assert plan.macs == macs <= share * found.template.macs


def errors(folder: Path, programs: Mapping[str, Program], x: Tensor) -> dict[str, float]:
    wanted = Master.open(folder).program().run([x])[0]
    return {name: float((program.run([x])[0] - wanted).square().mean()) for name, program in programs.items()}


def test_the_refit_of_a_spatial_cut_is_nearer_and_can_be_written(folder: Path, tmp_path: Path) -> None:
    found, x = Planner.open(folder), images(64)
    plan = found.plan(max_params=found.template.params // 3)
    assert improve(folder, plan.ranks, tmp_path / "changes", silent, classes=False).startswith("refit")
    stored, changes = Master.open(folder).tensors(), load_file(tmp_path / "changes")
    programs = {
        "cut": variant(found.template, stored, plan.ranks).program(),
        "refit": variant(found.template, stored, plan.ranks, changes).program(),
    }
    missed = errors(folder, programs, x)
    assert missed["refit"] < 0.8 * missed["cut"]
    file = io.BytesIO()
    formats.write(folder, plan, file, tmp_path / "changes")
    expected = programs["refit"].run([x])[0]
    torch.testing.assert_close(run(file.getvalue(), x), expected, rtol=1e-4, atol=1e-5)


def test_spatial_factors_are_tuned_and_polished_in_their_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = source(make(Separable), SHAPES[Separable], tmp_path / "source", images(600))
    out = tmp_path / "master"
    build(data, out, criterion="logit", keep=600)
    recipe = Recipe(steps=30, students=1, rate=3e-3, classes=False)
    tune.tune(out, Samples.of(images(600)), recipe, state=tmp_path / "state", progress=silent)
    found = Planner.open(out)
    plan = found.plan(max_params=found.smallest.params * 3 // 2)
    polish = Recipe(steps=40, students=1, rate=3e-3, classes=False)
    method = improve(out, plan.ranks, tmp_path / "changes", silent, False, polish)
    file, x = io.BytesIO(), images(64)
    formats.write(out, plan, file, tmp_path / "changes")
    stored, changes = Master.open(out).tensors(), load_file(tmp_path / "changes")
    programs = {"cut": variant(found.template, stored, plan.ranks).program()}
    programs[method] = variant(found.template, stored, plan.ranks, changes).program()
    missed = errors(out, programs, x)
    assert method == "polished" and missed["polished"] < 0.7 * missed["cut"]
    torch.testing.assert_close(run(file.getvalue(), x), programs[method].run([x])[0], rtol=1e-3, atol=1e-4)


class Regressor(nn.Module):
    """Gradients of one output, and a last convolution that all of them pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.last = nn.Conv2d(16, 32, 3)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.last(torch.relu(self.first(x)))).mean((2, 3)))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("share", [0.45, 0.6, 0.8])
def test_a_network_of_one_output_is_refit_at_every_size(share: float, constant: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.full((200, 3, 12, 12), 0.1) if constant else torch.randn(200, 3, 12, 12) + 100
    data = source(Regressor().eval(), (3, 12, 12), tmp_path / "source", x)
    build(data, tmp_path / "master", criterion="logit", keep=200)
    stored = Master.open(tmp_path / "master").tensors()
    assert all(bool(tensor.isfinite().all()) for tensor in stored.values() if tensor.is_floating_point())
    found = Planner.open(tmp_path / "master")
    plan = found.plan(max_params=int(share * found.template.params))
    improve(tmp_path / "master", plan.ranks, tmp_path / "changes", silent, classes=False)
    changes = load_file(tmp_path / "changes")
    assert all(bool(tensor.isfinite().all()) for tensor in changes.values() if tensor.is_floating_point())


def test_with_columns_the_closed_form_moves_batch_norms_as_far_as_recomputing_does(folder: Path) -> None:
    """The spatial cut of the one layer before a batch norm, on the inputs that it was corrected by."""
    found, x = Planner.open(folder), load_file(folder / "refit.safetensors")["inputs"]
    template, stored = found.template, Master.open(folder).tensors()
    ranks = [1 if layer.name == "stem" else 0 for layer in template.decomposed]
    cut, whole = variant(template, stored, ranks).program(), Master.open(folder).program()
    seen: dict[str, list[Tensor]] = {}
    for name, program in (("cut", cut), ("whole", whole)):
        outputs = torch.conv2d(x, program.tensors["stem.weight"], None, 2, 1).double()
        seen[name] = [outputs.mean((0, 2, 3)), outputs.var((0, 2, 3))]
    moved = cut.tensors["norm.running_mean"] - whole.tensors["norm.running_mean"]
    expected = seen["cut"][0] - seen["whole"][0]
    torch.testing.assert_close(moved.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    ratio = cut.tensors["norm.running_var"] / whole.tensors["norm.running_var"]
    torch.testing.assert_close(ratio.double(), seen["cut"][1] / seen["whole"][1], rtol=0, atol=0.02)
