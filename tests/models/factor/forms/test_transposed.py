from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rightrank.models.assemble.survey import survey
from rightrank.models.factor import correction
from rightrank.models.factor.forms.transposed import Transposed
from rightrank.models.factor.gathering import SEED
from rightrank.models.factor.layer import Layer
from rightrank.models.program.calls import Convolution
from rightrank.models.program.graph import Ref
from rightrank.models.program.program import Program
from tests.models.nets import gather, make, read

FORM = Transposed()
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": (3, 4), "stride": 2, "padding": 1, "output_padding": (1, 0)},
    {"kernel_size": 2, "stride": (1, 3), "dilation": (3, 1), "output_padding": (2, 2)},
]


def alone(geometry: dict[str, Any], folder: Path, x: Tensor) -> tuple[Program, Layer]:
    torch.manual_seed(0)
    program = read(nn.ConvTranspose2d(x.shape[1], 4, **geometry).eval(), x.shape[1:], folder)
    (layer,) = survey(program).decomposed
    return program, layer


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_moments_are_of_the_inputs_and_of_the_gradients_that_reach_them(
    geometry: dict[str, Any], tmp_path: Path
) -> None:
    x = torch.randn(40, 6, 5, 6).cumsum(3) + 0.5
    program, layer = alone(geometry, tmp_path, x)
    (moments,) = gather(program, (layer,), x)
    rows = x.movedim(1, -1).reshape(-1, 6).double()
    assert (moments.side, moments.axis) == ("inputs", 0)
    assert torch.allclose(moments.mean, rows.mean(0), atol=1e-5)
    assert torch.allclose(moments.covariance, torch.cov(rows.T, correction=0), atol=1e-4)

    leaf = x.clone().requires_grad_()
    (made,) = program.run([leaf])
    sent = torch.randn(made.shape, generator=torch.Generator().manual_seed(SEED))
    (reached,) = torch.autograd.grad(made, leaf, sent)
    back = reached.movedim(1, -1).reshape(-1, 6).double()
    assert torch.allclose(moments.gradient, back.T @ back / len(x), rtol=1e-4, atol=1e-4)
    # What is sent is of unit variance: a patch has as much of it for each number as its positions are whole.
    positions = made.new_ones(x.shape[2:]).numel()
    assert 0.5 * positions < moments.far < 1.1 * positions


def test_gradients_that_are_not_finite_reach_nothing(tmp_path: Path) -> None:
    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x).square().sum((1, 2, 3)).sqrt()

    x = torch.randn(20, 6, 5, 5)
    program = read(make(Rooted), (6, 5, 5), tmp_path)
    (layer,) = survey(program).decomposed
    (expected,), (found,) = (gather(program, (layer,), each) for each in (x, torch.cat([x, torch.zeros(1, 6, 5, 5)])))
    assert torch.allclose(found.gradient.trace() * 21, expected.gradient.trace() * 20, rtol=0.3)
    assert 0 < found.far < 2 * expected.far


def test_positions_are_drawn_from_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(60, 6, 5, 6).cumsum(3)
    program, layer = alone(GEOMETRIES[0], tmp_path, x)
    (whole,) = gather(program, (layer,), x)
    monkeypatch.setattr("rightrank.models.factor.sums.ROWS", 900)
    (some,) = gather(program, (layer,), x)
    assert torch.allclose(some.gradient, whole.gradient, atol=0.15 * float(whole.gradient.trace()))
    assert some.far == pytest.approx(whole.far, rel=0.1)
    assert not torch.equal(some.covariance, whole.covariance)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_means_of_outputs_follow_from_what_each_tap_brings(data: st.DataObject) -> None:
    """With borders, what padding takes off them, and gaps."""
    dims = data.draw(st.integers(1, 3))
    stride, padding, dilation, kernel, more = (
        data.draw(st.tuples(*[st.integers(*ends)] * dims)) for ends in ((1, 3), (0, 2), (1, 2), (1, 3), (0, 2))
    )
    more = tuple(min(m, max(s, d) - 1) for m, s, d in zip(more, stride, dilation, strict=True))
    x, weight = torch.randn(4, 3, *(8, 7, 6)[:dims]).double(), torch.randn(3, 5, *kernel).double()
    call = Convolution(Ref("x"), Ref("w"), None, stride, padding, dilation, True, more, 1)
    made = torch.convolution(x, weight, None, stride, padding, dilation, True, more, 1)
    gatherer = FORM.gatherer(Layer("a", "a", "conv", tuple(weight.shape), ("y",), 1, True, FORM))
    for part in (x[:1], x[1:]):
        gatherer.add(part, call, made.shape[2:])
    mean = torch.einsum("iok,ik->o", weight.flatten(2), gatherer.result())
    assert torch.allclose(mean, made.transpose(0, 1).flatten(1).mean(1))


class Normed(nn.Module):
    """One transposed convolution and its batch norm."""

    def __init__(self, geometry: dict[str, Any]) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(6, 12, **geometry, bias=False), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.up(x))


@pytest.mark.parametrize("geometry", GEOMETRIES[:2], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_batch_norm_that_follows_is_told_of_the_cut(rank: int, geometry: dict[str, Any], tmp_path: Path) -> None:
    """Of the mean exactly; of the variance as far as taps have nothing to do with each other."""
    module = make(lambda: Normed(geometry))  # type: ignore[arg-type]
    x = torch.randn(200, 6, 7, 7) * torch.tensor([2, 1.5, 1, 0.7, 0.5, 0.3]).reshape(-1, 1, 1) + 0.2
    program = read(module, (6, 7, 7), tmp_path)
    (layer,) = survey(program).decomposed
    (moments,) = gather(program, (layer,), x)
    factors = layer.form.factors(layer, program.tensors["up.weight"], moments)
    kept = layer.form.product(layer, factors.keep(layer, rank))
    call = {key: value for key, value in geometry.items() if key != "kernel_size"}
    with torch.no_grad():
        whole, less = (torch.conv_transpose2d(x, w, **call) for w in (program.tensors["up.weight"], kept))
    found = correction.corrections(program, layer)
    assert [each.role for each in found] == ["mean", "variance"]
    mean, variance = (list(correction.rows(each, program.tensors[each.tensor], factors))[rank - 1] for each in found)
    moved = program.tensors["norm.running_mean"] + (less - whole).mean((0, 2, 3))
    ratio = (less.var((0, 2, 3)) / whole.var((0, 2, 3))).clamp_min(correction.LEAST)
    scaled = program.tensors["norm.running_var"] * ratio
    assert torch.allclose(mean, moved, atol=1e-4)
    assert torch.allclose(variance, scaled, rtol=0.1, atol=0.02)
