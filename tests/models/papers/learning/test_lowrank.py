from __future__ import annotations

import torch
from torch import nn

from rightrank.models.papers.learning import lowrank


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))


def test_a_pass_with_other_weights_leaves_parameters_and_running_statistics_untouched() -> None:
    model, x = network(), torch.randn(5, 2, 6, 6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lowrank.forward(model, {"0.weight": torch.randn(6, 2, 3, 3)}, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model[1].running_mean is not None and not model[1].running_mean.any()


def test_batch_norm_uses_the_statistics_of_the_low_rank_pass_itself() -> None:
    model, x = network(), torch.randn(50, 2, 6, 6)
    model[4] = nn.Identity()
    model[2] = nn.Identity()
    other = 5 * torch.randn(6, 2, 3, 3)
    outputs = lowrank.forward(model, {"0.weight": other}, x).reshape(50, 6, -1)
    assert torch.allclose(outputs.mean((0, 2)), torch.zeros(6), atol=1e-5)
    assert torch.allclose(outputs.var((0, 2)), torch.ones(6), atol=1e-2)


def test_what_is_not_replaced_is_shared_and_gets_its_gradient() -> None:
    model, x = network(), torch.randn(5, 2, 6, 6)
    lowrank.forward(model, {"0.weight": torch.randn(6, 2, 3, 3)}, x).square().sum().backward()
    assert model[0].weight.grad is None
    assert all(p.grad is not None for p in (model[0].bias, model[1].weight, model[1].bias, model[4].weight))
