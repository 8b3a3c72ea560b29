from __future__ import annotations

import pytest
import torch
from torch import nn

from rightrank.models import architectures


def matrices(module: nn.Module) -> list[torch.Tensor]:
    layers = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    return [layer.weight.flatten(1) for layer in layers]


def macs(module: nn.Module, example: torch.Tensor) -> int:
    """Multiply-accumulates for one input: a layer's weights times its output positions."""
    total = 0

    def count(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer.weight, torch.Tensor)
        total += layer.weight.numel() * (output.shape[2:].numel() if output.dim() == 4 else 1)

    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(count)
    module(example)
    return total


def test_vgg15_has_the_papers_weights_and_multiply_accumulates() -> None:
    module = architectures.build("vgg15")
    assert architectures.input_shape("vgg15") == (3, 32, 32)
    assert sum(weight.numel() for weight in matrices(module)) == 14_977_728
    assert macs(module, torch.zeros(1, 3, 32, 32)) == 313_463_808


def test_vgg15_has_the_papers_singular_values() -> None:
    assert sum(min(weight.shape) for weight in matrices(architectures.build("vgg15"))) == 4_709


def test_vgg15_has_no_bias_in_its_convolutions() -> None:
    module = architectures.build("vgg15", width=2)
    assert all(part.bias is None for part in module.modules() if isinstance(part, nn.Conv2d))


@pytest.mark.parametrize(("size", "features"), [(32, 16), (63, 16), (64, 64)])
def test_a_larger_image_widens_the_first_linear_layer(size: int, features: int) -> None:
    module = architectures.build("vgg15", width=2, image_size=size)
    assert module.get_parameter("classifier.0.weight").shape == (16, features)
    assert module(torch.zeros(1, 3, size, size)).shape == (1, 10)
