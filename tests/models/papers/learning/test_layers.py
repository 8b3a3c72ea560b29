from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models import architectures
from rightrank.models.papers.learning import layers


class Mixed(nn.Module):
    """Used in another order than defined, with a tied, a grouped, an unused and a repeated module."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)
        self.unused = nn.Linear(6, 6)
        self.table = nn.Embedding(9, 6)
        self.tied = nn.Linear(6, 9)
        self.tied.weight = self.table.weight
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.repeated = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.norm(self.conv(x)))
        x = self.head(self.repeated(self.repeated(x)).mean((2, 3))) @ torch.ones(4, 6)
        return self.tied(x + self.table(torch.tensor([1])))


def test_the_layers_are_found_in_order_of_use_without_those_that_cannot_be_truncated() -> None:
    found = layers.find(Mixed(), torch.randn(2, 3, 8, 8))
    assert [(layer.name, layer.m, layer.n, layer.positions) for layer in found] == [
        ("conv", 27, 6, 16),
        ("repeated", 6, 6, 32),
        ("head", 6, 4, 1),
    ]


def test_finding_them_changes_nothing_in_the_model() -> None:
    model = Mixed().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers.find(model, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.conv._forward_hooks


def test_a_computed_weight_is_left_alone() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8))
    assert [layer.name for layer in layers.find(model, torch.randn(2, 8))] == ["1"]


class Attending(nn.Module):
    """Queries, keys and values of different widths, then a second attention to other tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.MultiheadAttention(16, 2, kdim=8, vdim=12), nn.MultiheadAttention(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x, x[:2, :, :8], x[:2, :, :12])[0]
        attended: Tensor = self.second(y, x, x, need_weights=False)[0]
        return attended


def test_the_projections_of_attention_are_layers() -> None:
    found = layers.find(Attending(), torch.randn(5, 3, 16))
    assert {layer.name: (layer.m, layer.n) for layer in found} == {
        "first.out_proj": (16, 16),
        "first.q_proj_weight": (16, 16),
        "first.k_proj_weight": (8, 16),
        "first.v_proj_weight": (12, 16),
        "second.in_proj_weight": (16, 48),
        "second.out_proj": (16, 16),
    }


class Own(nn.Module):
    """A matrix of its own, one that its call reads as input too, and a convolution called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.both = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8, 8))
        self.kernel = nn.Parameter(torch.randn(4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.linear(x, self.matrix) @ functional.linear(self.both, self.both)
        kernels = functional.conv1d(x.reshape(-1, 1, 8).expand(-1, 3, 8), weight=self.kernel, groups=1)
        return kernels.mean(2)


def test_a_matrix_that_no_module_holds_is_a_layer_unless_it_is_read_as_something_else() -> None:
    assert [(layer.name, layer.kind) for layer in layers.find(Own(), torch.randn(2, 6))] == [
        ("matrix", "linear"),
        ("kernel", "conv1d"),
    ]


def test_the_counts_of_vgg_15_are_those_of_the_paper() -> None:
    """With meta tensors, so that nothing is computed: 14,977,728 weights, 313,463,808 MACs, 4,709 bases."""
    with torch.device("meta"):
        model = architectures.vgg.VGG(10, 3, 32, 64)
    found = layers.find(model, torch.empty(2, 3, 32, 32, device="meta"))
    assert sum(layer.params for layer in found) == 14_977_728
    assert sum(layer.macs for layer in found) == 313_463_808
    assert sum(layer.rank for layer in found) == 4_709
