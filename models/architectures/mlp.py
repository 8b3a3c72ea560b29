"""A plain multilayer perceptron: linear layers with ReLU between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from rightrank.models.architectures.arguments import Integer, Integers, classes
from rightrank.models.architectures.registry import Architecture

FEATURES = 1_000_000


class MLP(nn.Module):
    """Keys: `layers.<2i>`. Inputs of any shape (N, …) with `in_features` elements each are flattened."""

    def __init__(self, num_classes: int, in_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for features, out in pairwise((in_features, *hidden, num_classes)):
            layers += [nn.Linear(features, out), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x.flatten(1))
        return out


PERCEPTRON = Architecture(
    build=MLP,
    shape=lambda given: (given["in_features"],),
    arguments={
        "num_classes": classes(10),
        "in_features": Integer(784, 1, FEATURES),
        "hidden": Integers((512, 512), 1, FEATURES, most=64),
    },
)
