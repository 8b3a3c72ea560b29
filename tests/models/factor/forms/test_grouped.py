from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble.survey import survey
from rightrank.models.factor import correction
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.program.program import Program
from tests.models.nets import gather, make, read

GROUPS = 3


class Normed(nn.Module):
    """One grouped convolution and its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 12, 3, groups=GROUPS, bias=False), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@pytest.fixture
def known(tmp_path: Path) -> tuple[Program, Layer, Moments, Tensor]:
    module = make(Normed)
    x = torch.randn(200, 6, 9, 9).cumsum(3) / 3 + 0.5
    program = read(module, (6, 9, 9), tmp_path)
    (layer,) = survey(program).decomposed
    (moments,) = gather(program, (layer,), x)
    return program, layer, moments, x


def test_each_group_is_factored_as_if_it_were_alone(known: tuple[Program, Layer, Moments, Tensor]) -> None:
    program, layer, moments, _ = known
    weight = program.tensors["conv.weight"]
    found = layer.form.factors(layer, weight, moments)
    worth = torch.zeros(layer.rank).double()
    for group in range(GROUPS):
        part = slice(4 * group, 4 * group + 4)
        own = Moments(moments.mean[part], moments.covariance[part, part], moments.gradient[part, part])
        alone = Layer("a", "a", "conv2d", (4, 2, 3, 3), ("y",), 1, True, FORMS["channel"])
        expected = alone.form.factors(alone, weight[part], own)
        assert torch.equal(found.tensors["down"][group], expected.tensors["down"])
        assert torch.equal(found.tensors["up"][part], expected.tensors["up"])
        worth += expected.sigma.square()
    torch.testing.assert_close(found.sigma.square(), worth)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_batch_norm_that_follows_is_told_of_the_cut(
    rank: int, known: tuple[Program, Layer, Moments, Tensor]
) -> None:
    program, layer, moments, x = known
    factors = layer.form.factors(layer, program.tensors["conv.weight"], moments)
    kept = layer.form.product(layer, factors.keep(layer, rank))
    with torch.no_grad():
        whole, less = (torch.conv2d(x, w, groups=GROUPS) for w in (program.tensors["conv.weight"], kept))
    mean, variance = (
        list(correction.rows(each, program.tensors[each.tensor], factors))[rank - 1]
        for each in correction.corrections(program, layer)
    )
    moved = program.tensors["norm.running_mean"] + (less - whole).mean((0, 2, 3))
    ratio = (less.var((0, 2, 3)) / whole.var((0, 2, 3))).clamp_min(correction.LEAST)
    scaled = program.tensors["norm.running_var"] * ratio
    assert torch.allclose(mean, moved, atol=1e-4)
    assert torch.allclose(variance, scaled, rtol=1e-2, atol=1e-4)
