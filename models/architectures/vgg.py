"""VGG-15 for small images, as the papers use it (arXiv:1910.13141, section 4).

With 32×32 inputs and 10 classes: 14,977,728 weights in its convolutions and linear layers,
313,463,808 multiply-accumulates, 4,709 singular values.
"""

from __future__ import annotations

import torch
from torch import nn

from rightrank.models.architectures.arguments import Integer, channels, classes, side
from rightrank.models.architectures.registry import Architecture

# Output channels of each convolution in multiples of `width`; every stage ends with a 2×2 max pooling.
STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class VGG(nn.Module):
    """Keys: `features.<i>` (convolutions, batch norms) and `classifier.<i>` (linear, batch norm, linear)."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int) -> None:
        super().__init__()
        self.features = _features(in_channels, width)
        flat = STAGES[-1][-1] * width * (image_size // 2 ** len(STAGES)) ** 2
        hidden = 8 * width
        self.classifier = nn.Sequential(
            nn.Linear(flat, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return out


def _features(in_channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for stage in STAGES:
        for multiple in stage:
            out = multiple * width
            layers += [nn.Conv2d(in_channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            in_channels = out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


VGG15 = Architecture(
    build=VGG,
    shape=lambda given: (given["in_channels"], given["image_size"], given["image_size"]),
    arguments={
        "num_classes": classes(10),
        "in_channels": channels(),
        "image_size": side(32, low=2 ** len(STAGES)),
        "width": Integer(64, 1, 1024),
    },
)
