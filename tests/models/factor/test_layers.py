from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models import checkpoint
from rightrank.models.assemble.survey import survey
from rightrank.models.emit import formats
from rightrank.models.factor import layers
from rightrank.models.factor.layer import Layer
from rightrank.models.plan.planner import Planner
from tests.models.nets import SHAPES, Shared, Small, build, make, read, source


def found(module: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Layer]:
    program = read(module.eval(), shape, folder)
    return {layer.name: layer for layer in layers.find(program.graph, program.shapes)}


def test_a_convolution_is_the_papers_matrix_and_its_macs_are_those_of_its_positions(tmp_path: Path) -> None:
    layer = found(make(Small), SHAPES[Small], tmp_path)["wide"]
    assert (layer.m, layer.n, layer.positions) == (16 * 5, 24, 6 * 12)
    assert layer.macs == 16 * 5 * 24 * 6 * 12 and layer.decomposed


def test_break_even_is_the_last_rank_that_saves(tmp_path: Path) -> None:
    for layer in found(make(Small), SHAPES[Small], tmp_path).values():
        width, dense = layer.m + layer.n, layer.params
        assert width * layer.break_even < dense <= width * (layer.break_even + 1)


def test_a_grouped_convolution_has_a_basis_in_every_group_and_both_calls_run_at_its_positions(tmp_path: Path) -> None:
    layer = found(make(Small), SHAPES[Small], tmp_path)["grouped"]
    assert layer.decomposed and layer.suits == {"grouped": (6 * 12, 6 * 12)} and layer.groups == 4
    assert (layer.rank, layer.m, layer.n) == (6, 24 * 9, 24)
    assert layer.macs == layer.params * 6 * 12 and layer.macs_by_rank[1] == 2 * (24 * 9 + 24) * 6 * 12


@pytest.mark.parametrize(
    ("convolution", "decomposed"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 16, 1, groups=8), False),
        (nn.Conv2d(8, 32, 3, groups=8), True),
        (nn.Conv2d(8, 16, 3, groups=4), True),
    ],
)
def test_kernels_for_single_channels_stay_whole_unless_one_serves_for_several_outputs(
    convolution: nn.Conv2d, decomposed: bool, tmp_path: Path
) -> None:
    layer = found(nn.Sequential(convolution, nn.Conv2d(convolution.out_channels, 6, 3)), (8, 9, 9), tmp_path)["0"]
    assert (layer.kind, layer.decomposed) == ("conv2d-grouped", decomposed)
    assert layer.reason == ("" if decomposed else "no rank is smaller than the whole")


def test_a_transposed_convolution_and_its_factors_count_the_positions_of_their_inputs(tmp_path: Path) -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.Conv2d(6, 6, 3))
    layer = found(net, (4, 5, 5), tmp_path)["0"]
    assert layer.macs == 4 * 6 * 2 * 2 * 25 and layer.suits == {"transposed": (25, 25)}
    assert (layer.rank, layer.m, layer.n, layer.break_even) == (4, 4, 24, 3)
    assert layer.macs_by_rank[1] == 2 * (4 + 24) * 25


def test_a_transposed_convolution_with_groups_stays_whole_and_says_why(tmp_path: Path) -> None:
    net = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), nn.Conv2d(8, 6, 3))
    layer = found(net, (8, 5, 5), tmp_path)["0"]
    assert not layer.decomposed and layer.reason == "transposed convolutions with groups are kept as they are"


def test_a_weight_used_twice_is_one_layer_and_costs_twice_the_macs(tmp_path: Path) -> None:
    layer = found(make(Shared), SHAPES[Shared], tmp_path)["twice"]
    assert (len(layer.calls), layer.params, layer.macs) == (2, 256, 512)


def test_a_weight_that_something_else_reads_stays_whole(tmp_path: Path) -> None:
    layer = found(make(Shared), SHAPES[Shared], tmp_path)["table"]
    assert not layer.decomposed and "also read by" in layer.reason


class Neighbours(nn.Module):
    """A graph's edges are the products of its nodes' embeddings: one call reads them as weight and as input."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = nn.Parameter(torch.randn(20, 10))
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        edges = torch.relu(self.nodes @ self.nodes.t()).softmax(1)
        out: Tensor = self.last(torch.relu(edges @ self.first(x)))
        return out


def test_a_weight_that_its_own_call_reads_as_input_too_stays_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = found(Neighbours(), (20, 8), tmp_path)["nodes"]
    assert not layer.decomposed and "also read by" in layer.reason


def test_a_layer_without_outputs_stays_whole(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(16, 16)
            self.weight = nn.Parameter(torch.zeros(0, 16))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.body(x)
            return x, functional.linear(x, self.weight)

    layer = found(Both(), (16,), tmp_path)["weight"]
    assert (layer.decomposed, layer.macs) == (False, 0)


class Timed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        return self.layer(x) * time


def test_macs_are_of_one_sample_whatever_comes_before_the_samples(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    arguments, free = (torch.ones(1), torch.randn(2, 16)), ({}, {0: batch})
    torch.export.save(torch.export.export(Timed(), arguments, dynamic_shapes=free), tmp_path / "timed.pt2")
    (layer,) = survey(checkpoint.read(tmp_path / "timed.pt2", None)).layers
    assert layer.macs == 16 * 16


def test_a_layer_too_thin_to_gain_stays_whole(tmp_path: Path) -> None:
    layer = found(nn.Sequential(nn.Linear(9, 1)), (9,), tmp_path)["0"]
    assert not layer.decomposed and torch.Size(layer.shape) == (1, 9)


class Kept(nn.Module):
    """A projection that is no parameter, and a weight that the caller gets too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", torch.randn(16, 24))
        self.given, self.head = nn.Linear(16, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        projected = nn.functional.linear(x, self.filters)  # type: ignore[arg-type]
        return self.head(self.given(projected).relu()), self.given.weight


def test_buffers_and_weights_that_the_caller_gets_stay_whole(tmp_path: Path) -> None:
    layers_ = found(Kept(), (24,), tmp_path)
    assert {name: layer.decomposed for name, layer in layers_.items()} == {
        "filters": False,
        "given": False,
        "head": True,
    }
    assert "buffer" in layers_["filters"].reason and "calls the program" in layers_["given"].reason


class Broadcast(nn.Module):
    """A layer whose bias is one number for all outputs, one whose bias is for the tokens too, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Parameter(torch.randn(20, 16)), nn.Linear(20, 12), nn.Linear(12, 10)
        self.shift, self.two.bias = nn.Parameter(torch.randn(1)), nn.Parameter(torch.randn(1, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.relu(self.two(torch.relu(torch.addmm(self.shift, x, self.one.t())))))


def test_a_call_whose_bias_is_not_one_number_for_each_output_is_no_layer(tmp_path: Path) -> None:
    assert list(found(Broadcast(), (16,), tmp_path)) == ["three"]
    build(
        source(Broadcast(), (16,), tmp_path / "source", torch.randn(64, 16)), tmp_path / "master", criterion="whitened"
    )
    file, plan = io.BytesIO(), Planner.open(tmp_path / "master").smallest
    formats.write(tmp_path / "master", plan, file)
    assert any(plan.ranks)
    assert len(file.getvalue()) == plan.bytes


class Tied(nn.Module):
    """One weight in several convolutions: of one group, of two, of four, and transposed."""

    def __init__(self, groups: tuple[int, ...] = (), transposed: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))
        self.groups, self.transposed = groups, transposed

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for groups in self.groups:
            wide = x[:, :1].expand(-1, 4 * groups, -1, -1)
            total = total + torch.conv2d(wide, self.weight, padding=1, groups=groups).mean()
        if self.transposed:
            wide = x[:, :1].expand(-1, 8, -1, -1)
            total = total + torch.conv_transpose2d(wide, self.weight, stride=2).mean()
        return x.mean((1, 2, 3)) + total


@pytest.mark.parametrize(
    ("groups", "transposed", "kind"),
    [
        ((1, 2), False, "conv2d-grouped"),
        ((2, 4), False, "conv2d-grouped"),
        ((1,), True, "conv2d-transposed"),
        ((1, 2), True, "conv2d-transposed"),
    ],
)
def test_a_weight_of_convolutions_that_no_form_takes_together_stays_whole(
    groups: tuple[int, ...], transposed: bool, kind: str, tmp_path: Path
) -> None:
    (layer,) = found(Tied(groups, transposed), (3, 8, 8), tmp_path).values()
    reason = "its weight is shared by convolutions of different groups or directions"
    assert (layer.kind, layer.reason, layer.decomposed) == (kind, reason, False)


@pytest.mark.parametrize(("groups", "transposed", "form"), [((2, 2), False, "grouped"), ((), True, "transposed")])
def test_a_weight_of_calls_that_are_alike_is_cut_for_all(
    groups: tuple[int, ...], transposed: bool, form: str, tmp_path: Path
) -> None:
    (layer,) = found(Tied(groups, transposed), (3, 8, 8), tmp_path).values()
    assert (layer.form.name, layer.decomposed, len(layer.calls)) == (form, True, max(1, len(groups)))


def test_a_layer_that_is_transposed_anywhere_counts_what_its_calls_are_given(tmp_path: Path) -> None:
    (layer,) = found(Tied((1,), True), (3, 8, 8), tmp_path).values()
    assert layer.positions == 64 + 64


class Windowed(nn.Module):
    """Its first input's first dimension is no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(12, 16, 3, padding=1)

    def forward(self, times: Tensor, x: Tensor) -> Tensor:
        return self.convolution(x).mean() + times.sum(1)  # type: ignore[no-any-return]


def test_a_form_whose_costs_cannot_be_told_is_not_taken(tmp_path: Path) -> None:
    exported = torch.export.export(Windowed().eval(), (torch.randn(1000, 9), torch.randn(1, 12, 8, 8)))
    torch.export.save(exported, tmp_path / "model.pt2")
    (layer,) = survey(checkpoint.read(tmp_path / "model.pt2")).layers
    assert layer.decomposed and layer.suits == {"channel": (1, 1)}
