"""Batch norms as their layers' own scale and bias."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.emit.torchscript.fold import folded, folds
from rightrank.models.master.template import Template
from tests.models.nets import build, source


class Norms(nn.Module):
    """Norms behind a convolution with a bias and without, behind linear layers, and where they cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.two = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, affine=False)
        self.read, self.three = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.turned, self.four = nn.ConvTranspose2d(8, 8, 2), nn.BatchNorm2d(8)
        self.flat, self.five = nn.Linear(8, 12), nn.BatchNorm1d(12)
        self.rows, self.six = nn.Linear(12, 5), nn.BatchNorm1d(4)
        self.shared = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(self.second(torch.relu(self.one(self.first(x))))))
        y = self.read(x)
        x = self.three(y) + y
        x = self.four(self.turned(x))
        x = torch.relu(self.five(self.flat(x.mean((2, 3)))))
        x = self.six(self.rows(x).unsqueeze(1).expand(-1, 4, -1)).mean(1)
        return self.shared(x) + self.shared(x * 2)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder: Path = tmp_path_factory.mktemp("fold")
    torch.manual_seed(0)
    module = Norms().eval()
    for each in module.modules():
        if isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert each.running_mean is not None and each.running_var is not None
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
    build(source(module, (3, 9, 9), folder / "source"), folder / "master")
    return Template.open(folder / "master")


def test_those_behind_a_layer_alone_are_folded(template: Template) -> None:
    """Not: what something else reads too, outputs of a transposed convolution, another dimension, a norm used twice."""
    assert set(folds(template)) == {"first.weight", "second.weight", "flat.weight"}


def test_the_layers_make_what_the_norms_made(template: Template) -> None:
    found = folds(template)
    nodes = folded(template.graph, found)
    assert len(nodes) == len(template.graph.nodes) - 3
    outputs = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.inputs()}
    made = outputs | {spec.name for spec in template.graph.inputs} | set(template.graph.tensors)
    assert read <= made | {fold.value for fold in found.values()}
    assert set(template.graph.outputs) <= outputs


def test_what_is_folded_is_no_tensor_any_more(template: Template) -> None:
    found = folds(template)
    assert found["second.weight"].bias == "second.bias" and found["first.weight"].bias is None
    assert set(found["first.weight"].tensors) == {
        f"one.{name}" for name in ("weight", "bias", "running_mean", "running_var")
    }
    assert set(found["second.weight"].tensors) == {"second.bias", "two.running_mean", "two.running_var"}
