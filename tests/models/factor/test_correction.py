from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models.factor import correction, layers
from rightrank.models.factor.correction import Correction
from rightrank.models.factor.factors import Factors, Moved
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import SHAPES, Small, gather, make, read, recurring


class Normed(nn.Module):
    """One convolution and its batch norm, nothing else: what is exact for one layer is exact here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, bias=False)
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def corrections(module: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, list[Correction]]:
    program = read(module, shape, folder)
    found = layers.find(program.graph, program.shapes)
    return {layer.name: correction.corrections(program, layer) for layer in found}


def test_a_batch_norm_that_follows_is_corrected_else_the_bias(tmp_path: Path) -> None:
    found = corrections(make(Small), SHAPES[Small], tmp_path)
    assert found["stem"] == [Correction("norm.running_mean", "mean"), Correction("norm.running_var", "variance")]
    assert found["dilated"] == [Correction("dilated.bias", "bias")]


class Reused(nn.Module):
    """A batch norm that two convolutions share cannot follow either of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.two(self.norm(self.one(x))))


def test_what_two_layers_share_is_left_alone(tmp_path: Path) -> None:
    assert corrections(make(Reused), (3, 12, 12), tmp_path) == {"one": [], "two": []}


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_closed_form_is_what_recomputing_gives_on_a_single_layer_net(rank: int, tmp_path: Path) -> None:
    module = make(Normed)
    x = torch.randn(200, 3, 10, 10) + 0.5
    program = read(module, (3, 10, 10), tmp_path)
    (layer,) = layers.find(program.graph, program.shapes)
    (moments,) = gather(program, (layer,), x)
    factors = layer.form.factors(layer, program.tensors["conv.weight"], moments)
    cut = layer.form.product(layer, factors.keep(layer, rank))
    with torch.no_grad():
        whole, less = (nn.functional.conv2d(x, w) for w in (program.tensors["conv.weight"], cut))
    mean, variance = (
        correction.rows(each, program.tensors[each.tensor], factors)[rank - 1]
        for each in correction.corrections(program, layer)
    )
    moved = program.tensors["norm.running_mean"] + (less - whole).mean((0, 2, 3))
    ratio = (less.var((0, 2, 3)) / whole.var((0, 2, 3))).clamp_min(correction.LEAST)
    scaled = program.tensors["norm.running_var"] * ratio
    assert torch.allclose(mean, moved, atol=1e-4)
    assert torch.allclose(variance, scaled, rtol=5e-3, atol=1e-4)


def test_a_channel_of_which_next_to_nothing_is_kept_is_not_amplified_without_bound() -> None:
    kept = torch.tensor([[1e-6, 0.02, 0.5], [1.0, 1.0, 1.0]]).double()
    factors = Factors(
        {}, torch.ones(2), Moved(lambda: (torch.zeros(2, 3), kept.diff(dim=0, prepend=torch.zeros(1, 3))))
    )
    first, last = correction.rows(Correction("variance", "variance"), torch.tensor([2.0, 2.0, 2.0]), factors)
    torch.testing.assert_close(first, torch.tensor([0.06, 0.06, 1.0]))
    torch.testing.assert_close(last, torch.tensor([2.0, 2.0, 2.0]))


def test_at_full_rank_nothing_moves(tmp_path: Path) -> None:
    module = make(Normed)
    program = read(module, (3, 10, 10), tmp_path)
    (layer,) = layers.find(program.graph, program.shapes)
    (moments,) = gather(program, (layer,), torch.randn(50, 3, 10, 10))
    factors = layer.form.factors(layer, program.tensors["conv.weight"], moments)
    for each in correction.corrections(program, layer):
        *_, last = correction.rows(each, program.tensors[each.tensor], factors)
        assert torch.allclose(last, program.tensors[each.tensor])


class Tokens(nn.Module):
    """A batch norm over the tokens, which are as many as the linear layer has outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.mix(x))))


def test_a_batch_norm_over_another_dimension_is_not_told_of_the_cut(tmp_path: Path) -> None:
    assert corrections(make(Tokens), (12, 8), tmp_path)["mix"] == [Correction("mix.bias", "bias")]
    assert corrections(make(Tokens), (8,), tmp_path)["mix"] == [
        Correction("norm.running_mean", "mean"),
        Correction("norm.running_var", "variance"),
    ]


class OneRow(nn.Module):
    """A batch norm over the rows, of which there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(24, 20), nn.BatchNorm1d(1), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.mix(x)))).squeeze(1)


def test_a_batch_norm_over_a_single_row_is_not_told_of_the_cut(tmp_path: Path) -> None:
    assert corrections(OneRow().eval(), (1, 24), tmp_path)["mix"] == [Correction("mix.bias", "bias")]


class Telling(nn.Module):
    """Its bias is an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.two(torch.relu(self.one(x))), self.one.bias


def test_a_bias_that_the_caller_gets_is_left_alone(tmp_path: Path) -> None:
    assert corrections(Telling().eval(), (8,), tmp_path) == {"one": [], "two": [Correction("two.bias", "bias")]}


class Itself(nn.Module):
    """A vector that is a call's input and its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.vector, self.matrix = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(16, 16))
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + functional.linear(self.vector, self.matrix, self.vector)


def test_a_bias_that_its_call_also_reads_as_input_is_left_alone(tmp_path: Path) -> None:
    assert corrections(Itself(), (16,), tmp_path) == {"layer": [Correction("layer.bias", "bias")], "matrix": []}


@pytest.mark.parametrize("biased", [True, False])
def test_each_product_inside_a_recurrent_call_has_a_bias_of_its_own(biased: bool) -> None:
    program = apart(recurring("lstm", projection=6, biased=biased))
    found = {layer.name: correction.corrections(program, layer) for layer in layers.find(program.graph, program.shapes)}
    own = {"0.0": [Correction("0.2", "bias")], "0.1": [Correction("0.3", "bias")], "0.4": []}
    assert found == (own if biased else {"0.0": [], "0.1": [], "0.2": []})
