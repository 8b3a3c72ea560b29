from __future__ import annotations

import torch
from torch import Tensor, nn

from models import architectures
from models.learning import layers


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
        return self.tied(self.head(self.repeated(self.repeated(x)).mean((2, 3))) @ torch.ones(4, 6))


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


def test_the_counts_of_vgg_15_are_those_of_the_paper() -> None:
    """With meta tensors, so that nothing is computed: 14,977,728 weights, 313,463,808 MACs, 4,709 bases."""
    with torch.device("meta"):
        model = architectures.vgg.VGG(10, 3, 32, 64)
    found = layers.find(model, torch.empty(2, 3, 32, 32, device="meta"))
    assert sum(layer.params for layer in found) == 14_977_728
    assert sum(layer.macs for layer in found) == 313_463_808
    assert sum(layer.rank for layer in found) == 4_709
