from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rightrank.models.assemble import master
from rightrank.models.emit.torchscript import writer as torchscript
from rightrank.models.factor import form
from rightrank.models.factor.layers import Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.patches import columns_of
from rightrank.models.improve import choose as improve
from rightrank.models.improve import tune
from rightrank.models.improve.distill import Recipe
from rightrank.models.master import variant
from rightrank.models.plan import criteria
from rightrank.models.plan.planner import Planner
from rightrank.models.program import execute
from tests.models.nets import SHAPES, Separable, make, planner, source


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPES[Separable]).cumsum(2).cumsum(3) / 6 + 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("form")
    torch.manual_seed(0)
    data = source(make(Separable), SHAPES[Separable], out / "source", images(400))
    master.build(data, out / "master", criterion="logit", keep=400)
    return out / "master"


def run(folder: Path, data: bytes, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.jit.load(io.BytesIO(data))(x)


def emitted(folder: Path, planner: Planner, size: int) -> tuple[bytes, int]:
    file, plan = io.BytesIO(), planner.plan(max_params=size)
    torchscript.write(folder, plan, file)
    return file.getvalue(), plan.bytes


def case(weight: Tensor) -> tuple[Layer, Moments]:
    outputs, inputs, height, width = weight.shape
    layer = Layer("a", "a", "conv2d", tuple(weight.shape), inputs * height * width, outputs, ("a",), 9, True, columns=9)
    flat = weight.reshape(outputs, -1).double()
    identity = torch.eye(flat.shape[1]).double()
    columns = columns_of(identity, identity[0] * 0, width)
    return layer, Moments(flat[:, 0] * 0, flat @ flat.T, torch.eye(outputs).double(), columns)


def test_a_layer_takes_the_form_in_which_it_is_of_low_rank() -> None:
    torch.manual_seed(0)
    separable = torch.einsum("kiy,kox->oiyx", torch.randn(3, 16, 3), torch.randn(3, 16, 3))
    channels = torch.einsum("kiyx,ko->oiyx", torch.randn(3, 16, 3, 3), torch.randn(3, 16))
    for weight, expected in ((separable, "spatial"), (channels, "channel")):
        layer, moments = case(weight)
        for known in (moments, None):
            assert form.decompose(layer, weight, known, spatial=True)[0].form == expected
            assert form.decompose(layer, weight, known, spatial=False)[0].form == "channel"


def test_a_network_of_separable_kernels_is_cut_in_the_spatial_form(folder: Path) -> None:
    template = Planner.open(folder).template
    forms = {layer.name: layer.form for layer in template.decomposed}
    assert {forms[name] for name in ("stem", "uneven", "open")} == {"spatial"}
    assert {forms[name] for name in ("column", "head")} == {"channel"}
    described = master.describe(Planner.open(folder))["layers"]
    assert {layer["name"]: layer["form"] for layer in described} == forms


@pytest.mark.parametrize("criterion", [name for name, rule in criteria.CRITERIA.items() if rule.spatial])
def test_our_criteria_take_the_spatial_form_if_they_may(criterion: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = source(make(Separable), SHAPES[Separable], tmp_path / "source", images(64))
    for spatial in (True, False):
        master.build(data, tmp_path / f"{spatial}", criterion=criterion, spatial=spatial)
        forms = {layer.form for layer in Planner.open(tmp_path / f"{spatial}").template.decomposed}
        assert forms == ({"spatial", "channel"} if spatial else {"channel"})


@pytest.mark.parametrize("criterion", [name for name, rule in criteria.CRITERIA.items() if not rule.spatial])
def test_the_criteria_of_others_keep_the_channel_form(criterion: str, tmp_path: Path) -> None:
    found = planner(Separable, tmp_path, criterion, images(64))[2]
    assert {layer.form for layer in found.template.layers} == {"channel"}


def test_files_of_every_size_hold_what_was_planned_and_do_what_their_tensors_do(folder: Path) -> None:
    found, x = Planner.open(folder), images(5)
    template, stored = found.template, load_file(folder / "master.safetensors")
    for size in range(found.smallest.params, template.params + 1, 97):
        data, planned = emitted(folder, found, size)
        assert len(data) == planned
        tensors = variant.parts(template, stored, found.plan(max_params=size).ranks).program()
        expected = execute.run(template.graph, tensors, [x])[0]
        torch.testing.assert_close(run(folder, data, x), expected, rtol=1e-4, atol=1e-5)


def test_plans_by_macs_count_each_factor_at_its_own_positions(folder: Path) -> None:
    found = Planner.open(folder)
    for share in (0.4, 0.6, 0.8, 0.95):
        plan = found.plan(share, of="macs")
        macs = sum(
            rank * layer.basis_macs if rank else layer.macs
            for rank, layer in zip(plan.ranks, found.template.decomposed, strict=True)
        )
        assert plan.macs == macs <= share * found.template.macs


def errors(folder: Path, programs: Mapping[str, Mapping[str, Tensor]], x: Tensor) -> dict[str, float]:
    template, stored = Planner.open(folder).template, load_file(folder / "master.safetensors")
    wanted = execute.run(template.graph, {name: stored[f"dense/{name}"] for name in template.tensors}, [x])[0]
    return {
        name: float((execute.run(template.graph, tensors, [x])[0] - wanted).square().mean())
        for name, tensors in programs.items()
    }


def test_the_refit_of_a_spatial_cut_is_nearer_and_can_be_written(folder: Path, tmp_path: Path) -> None:
    found, x = Planner.open(folder), images(64)
    plan = found.plan(max_params=found.template.params // 3)
    assert improve.improve(folder, plan.ranks, tmp_path / "changes", master.silent, classes=False).startswith("refit")
    stored, changes = load_file(folder / "master.safetensors"), load_file(tmp_path / "changes")
    programs = {
        "cut": variant.parts(found.template, stored, plan.ranks).program(),
        "refit": variant.parts(found.template, stored, plan.ranks, changes).program(),
    }
    missed = errors(folder, programs, x)
    assert missed["refit"] < 0.8 * missed["cut"]
    file = io.BytesIO()
    torchscript.write(folder, plan, file, tmp_path / "changes")
    expected = execute.run(found.template.graph, programs["refit"], [x])[0]
    torch.testing.assert_close(run(folder, file.getvalue(), x), expected, rtol=1e-4, atol=1e-5)


def test_spatial_factors_are_tuned_and_polished_in_their_form(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = source(make(Separable), SHAPES[Separable], tmp_path / "source", images(600))
    out = tmp_path / "master"
    master.build(data, out, criterion="logit", keep=600)
    recipe = Recipe(steps=30, students=1, rate=3e-3, classes=False)
    tune.tune(out, images(600), recipe, state=tmp_path / "state", progress=master.silent)
    found = Planner.open(out)
    plan = found.plan(max_params=found.smallest.params * 3 // 2)
    polish = Recipe(steps=40, students=1, rate=3e-3, classes=False)
    method = improve.improve(out, plan.ranks, tmp_path / "changes", master.silent, False, polish)
    file, x = io.BytesIO(), images(64)
    torchscript.write(out, plan, file, tmp_path / "changes")
    stored, changes = load_file(out / "master.safetensors"), load_file(tmp_path / "changes")
    programs = {"cut": variant.parts(found.template, stored, plan.ranks).program()}
    programs[method] = variant.parts(found.template, stored, plan.ranks, changes).program()
    missed = errors(out, programs, x)
    assert method == "polished" and missed["polished"] < 0.7 * missed["cut"]
    torch.testing.assert_close(
        run(out, file.getvalue(), x),
        execute.run(found.template.graph, programs[method], [x])[0],
        rtol=1e-3,
        atol=1e-4,
    )


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
    master.build(data, tmp_path / "master", criterion="logit", keep=200)
    stored = load_file(tmp_path / "master" / "master.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in stored.values() if tensor.is_floating_point())
    found = Planner.open(tmp_path / "master")
    plan = found.plan(max_params=int(share * found.template.params))
    improve.improve(tmp_path / "master", plan.ranks, tmp_path / "changes", master.silent, classes=False)
    changes = load_file(tmp_path / "changes")
    assert all(bool(tensor.isfinite().all()) for tensor in changes.values() if tensor.is_floating_point())


def test_with_columns_the_closed_form_moves_batch_norms_as_far_as_recomputing_does(folder: Path) -> None:
    """The spatial cut of the one layer before a batch norm, on the inputs that it was corrected by."""
    found, x = Planner.open(folder), load_file(folder / "refit.safetensors")["inputs"]
    template, stored = found.template, load_file(folder / "master.safetensors")
    ranks = [1 if layer.name == "stem" else 0 for layer in template.decomposed]
    cut = variant.parts(template, stored, ranks).program()
    seen: dict[str, list[Tensor]] = {}
    for name, tensors in (("cut", cut), ("whole", {key: stored[f"dense/{key}"] for key in template.tensors})):
        outputs = torch.conv2d(x, tensors["stem.weight"], None, 2, 1).double()
        seen[name] = [outputs.mean((0, 2, 3)), outputs.var((0, 2, 3))]
    moved = cut["norm.running_mean"] - stored["dense/norm.running_mean"]
    expected = seen["cut"][0] - seen["whole"][0]
    torch.testing.assert_close(moved.double(), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    ratio = cut["norm.running_var"] / stored["dense/norm.running_var"]
    torch.testing.assert_close(ratio.double(), seen["cut"][1] / seen["whole"][1], rtol=0, atol=0.02)
