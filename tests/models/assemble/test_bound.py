from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble.bound import HARDLY, foreseen, lowest
from rightrank.models.factor.forms import FORMS
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Planner
from tests.models import nets


class Paired(nn.Module):
    """Most of its parameters are read by no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = nn.Bilinear(32, 32, 24, bias=False), nn.Linear(24, 40)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.pair(x, x)))
        return found


class Gated(nn.Module):
    """Two causes that are about as large: tables that are read alike, and convolutions of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(12, 700)) for _ in range(3)])
        self.deep = nn.ModuleList([nn.Conv1d(12, 12, 801, padding=400, groups=12, bias=False) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        for table in self.tables:
            x = x * table
        for layer in self.deep:
            x = layer(x)
        return x


def described(module: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    return nets.build(nets.source(module.eval(), shape, folder / "s"), folder / "m", criterion="energy")


@pytest.mark.parametrize(
    ("module", "shape", "sentence"),
    [
        (Paired(), (32,), "This model cannot get below {params} of its parameters: 96 % are in `pair.weight`, "
         "read by bilinear."),
        (Gated(), (12, 700), "None of this model's parameters can be cut: 57 % are in 3 tensors read by mul, the "
         "largest `tables.0`, 43 % in `deep.0.weight` and 1 more, which stay whole ({reason})."),
        (nn.Linear(3, 3), (3,), "This model cannot get below 0.75 of its parameters: its layers are so small that at "
         "their smallest ranks they still have 50 % of them."),
        (nn.Linear(12, 12, bias=False), (12,), "This model's file cannot get below {file} of its size: its parameters "
         "can get down to 0.166 of what they are, but it also has code and numbers that are no parameters."),
    ],
    ids=["one tensor", "several causes", "small layers", "small file"],
)  # fmt: skip
def test_what_can_hardly_get_smaller_says_why(
    module: nn.Module, shape: tuple[int, ...], sentence: str, tmp_path: Path
) -> None:
    found = described(module, shape, tmp_path)
    least = found["min_budget"]["params"]
    assert least > HARDLY
    rest = found["uncovered"]["share"]
    known = {
        "params": f"{int((rest + 64 / found['params']) * 1000) / 1000:g}",
        "file": f"{int(least * 1000) / 1000:g}",
        "reason": next((layer["reason"] for layer in found["layers"]), ""),
    }
    assert found["notes"] == [sentence.format(**known)]
    file = sentence.startswith("This model's file")
    assert foreseen(Template.open(tmp_path / "m")) == (None if file else found["notes"][0])


def test_what_gets_small_has_nothing_to_be_told(tmp_path: Path) -> None:
    found = described(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)), (64,), tmp_path)
    assert found["min_budget"]["params"] <= HARDLY and "notes" not in found
    assert foreseen(Template.open(tmp_path / "m")) is None


def test_by_shapes_alone_a_layer_counts_in_its_cheapest_form(tmp_path: Path) -> None:
    """What is foreseen is never more than what a plan has in the end."""
    module = nn.Sequential(nn.Conv2d(2, 40, 9, padding=4), nn.ReLU(), nn.Conv2d(40, 24, 3, padding=1))
    found = described(module, (2, 12, 12), tmp_path)
    planner = Planner.open(tmp_path / "m")
    layers = planner.template.decomposed
    sizes = [[sum(map(math.prod, FORMS[name].shapes(layer, 1))) for name in layer.suits] for layer in layers]
    assert [each.index(min(each)) for each in sizes] == [0, 1]
    assert lowest(planner.template) == found["uncovered"]["params"] + sum(map(min, sizes)) <= planner.smallest.params
