from __future__ import annotations

import pytest
import torch

from rightrank.models.improve.muon import Muon, orthogonal

SHAPES = [(8, 8), (6, 40), (40, 6), (1, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_all_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))))
    assert values.min() > 0.6 and values.max() < 1.3


def test_zero_stays_zero() -> None:
    assert not orthogonal(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_torchs_own_but_for_its_bfloat16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    optimizers = [Muon([ours], 0.1, 0.9), torch.optim.Muon([theirs], 0.1, momentum=0.9, weight_decay=0.0)]
    for _ in range(4):
        gradient = torch.randn(shape)
        for value, optimizer in zip((ours, theirs), optimizers, strict=True):
            value.grad = gradient.clone()
            optimizer.step()
    assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_what_has_no_gradient_stays() -> None:
    value = torch.nn.Parameter(torch.ones(2, 3))
    Muon([value], 0.1, 0.9).step()
    assert torch.equal(value, torch.ones(2, 3))


@pytest.mark.parametrize("alive", [0, 1, 4])
def test_rows_without_gradient_stay_and_the_others_step_as_if_these_were_zeros(alive: int) -> None:
    torch.manual_seed(0)
    value = torch.nn.Parameter(torch.ones(6, 5))
    value.grad = torch.zeros(6, 5)
    value.grad[:alive] = torch.randn(alive, 5)
    expected = 1 - 0.1 * (6 / 5) ** 0.5 * orthogonal(value.grad)
    Muon([value], 0.1, 0.9).step()
    assert torch.equal(value[alive:], torch.ones(6 - alive, 5))
    assert torch.allclose(value, expected, atol=1e-6)
