from __future__ import annotations

import torch

from rightrank.models import architectures


def test_an_mlp_has_one_linear_layer_more_than_hidden_sizes() -> None:
    state = architectures.build("mlp", in_features=6, hidden=[5, 4], num_classes=3).state_dict()
    weights = {key: tuple(value.shape) for key, value in state.items() if key.endswith("weight")}
    assert weights == {"layers.0.weight": (5, 6), "layers.2.weight": (4, 5), "layers.4.weight": (3, 4)}


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    torch.manual_seed(0)
    module = architectures.build("mlp", in_features=6, hidden=[], num_classes=3)
    x, bias = torch.randn(2, 6), module.get_parameter("layers.0.bias")
    torch.testing.assert_close(module(-x) - bias, -(module(x) - bias))


def test_an_mlp_flattens_images() -> None:
    module = architectures.build("mlp", in_features=64)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(module(images), module(images.flatten(1)))
