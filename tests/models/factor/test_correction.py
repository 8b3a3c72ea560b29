from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models.factor import correction, layers
from rightrank.models.factor import metric as factor
from rightrank.models.factor.correction import Target
from rightrank.models.program import execute
from tests.models.nets import SHAPES, Small, gather, make, read


class Normed(nn.Module):
    """One convolution and its batch norm, nothing else: what is exact for one layer is exact here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, bias=False)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def targets(module: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, list[Target]]:
    graph, tensors = read(module, shape, folder)
    shapes = execute.shapes(graph, tensors)
    shapes |= {value: tuple(tensors[name].shape) for value, name in graph.tensors.items()}
    return {layer.name: correction.targets(graph, tensors, layer) for layer in layers.find(graph, shapes)}


def test_a_batch_norm_that_follows_is_corrected_else_the_bias(tmp_path: Path) -> None:
    found = targets(make(Small), SHAPES[Small], tmp_path)
    assert found["stem"] == [Target("norm.running_mean", "mean"), Target("norm.running_var", "variance")]
    assert found["dilated"] == [Target("dilated.bias", "bias")]


class Reused(nn.Module):
    """A batch norm that two convolutions share cannot follow either of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.two(self.norm(self.one(x))))


def test_what_two_layers_share_is_left_alone(tmp_path: Path) -> None:
    assert targets(make(Reused), (3, 12, 12), tmp_path) == {"one": [], "two": []}


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_closed_form_is_what_recomputing_gives_on_a_single_layer_net(rank: int, tmp_path: Path) -> None:
    module = make(Normed)
    x = torch.randn(200, 3, 10, 10) + 0.5
    graph, tensors = read(module, (3, 10, 10), tmp_path)
    shapes = execute.shapes(graph, tensors)
    shapes |= {value: tuple(tensors[name].shape) for value, name in graph.tensors.items()}
    (layer,) = layers.find(graph, shapes)
    (moments,) = gather(graph, tensors, (layer,), x)
    factors = factor.decompose_in_metric(tensors["conv.weight"], moments)
    cut = (factors.up[:rank].T @ factors.down[:rank]).reshape(12, 3, 3, 3)
    with torch.no_grad():
        whole, less = (nn.functional.conv2d(x, w) for w in (tensors["conv.weight"], cut))
    mean, variance = (
        list(correction.rows(target, tensors[target.tensor], factors))[rank - 1]
        for target in correction.targets(graph, tensors, layer)
    )
    moved = tensors["norm.running_mean"] + (less - whole).mean((0, 2, 3))
    scaled = tensors["norm.running_var"] * less.var((0, 2, 3)) / whole.var((0, 2, 3))
    assert torch.allclose(mean, moved, atol=1e-4)
    assert torch.allclose(variance, scaled, rtol=5e-3, atol=1e-4)


def test_at_full_rank_nothing_moves(tmp_path: Path) -> None:
    module = make(Normed)
    graph, tensors = read(module, (3, 10, 10), tmp_path)
    shapes = execute.shapes(graph, tensors)
    shapes |= {value: tuple(tensors[name].shape) for value, name in graph.tensors.items()}
    (layer,) = layers.find(graph, shapes)
    (moments,) = gather(graph, tensors, (layer,), torch.randn(50, 3, 10, 10))
    factors = factor.decompose_in_metric(tensors["conv.weight"], moments)
    for target in correction.targets(graph, tensors, layer):
        *_, last = correction.rows(target, tensors[target.tensor], factors)
        assert torch.allclose(last, tensors[target.tensor])


class Tokens(nn.Module):
    """A batch norm over the tokens, which are as many as the linear layer has outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.mix(x))))


def test_a_batch_norm_over_another_dimension_is_not_told_of_the_cut(tmp_path: Path) -> None:
    assert targets(make(Tokens), (12, 8), tmp_path)["mix"] == [Target("mix.bias", "bias")]
    assert targets(make(Tokens), (8,), tmp_path)["mix"] == [
        Target("norm.running_mean", "mean"),
        Target("norm.running_var", "variance"),
    ]


class OneRow(nn.Module):
    """A batch norm over the rows, of which there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(24, 20), nn.BatchNorm1d(1), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.mix(x)))).squeeze(1)


def test_a_batch_norm_over_a_single_row_is_not_told_of_the_cut(tmp_path: Path) -> None:
    assert targets(OneRow().eval(), (1, 24), tmp_path)["mix"] == [Target("mix.bias", "bias")]


class Telling(nn.Module):
    """Its bias is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.two(torch.relu(self.one(x))), self.one.bias


def test_a_bias_that_the_caller_gets_is_left_alone(tmp_path: Path) -> None:
    assert targets(Telling().eval(), (8,), tmp_path) == {"one": [], "two": [Target("two.bias", "bias")]}


class Itself(nn.Module):
    """A vector that is a call's input and its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.vector, self.matrix = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(16, 16))
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + functional.linear(self.vector, self.matrix, self.vector)


def test_a_bias_that_its_call_also_reads_as_input_is_left_alone(tmp_path: Path) -> None:
    assert targets(Itself(), (16,), tmp_path) == {"layer": [Target("layer.bias", "bias")], "matrix": []}
