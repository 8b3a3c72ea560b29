"""MobileNetV2 (arXiv:1801.04381), with torchvision's keys and shapes."""

from __future__ import annotations

import torch
from torch import nn

from rightrank.models.architectures.arguments import Number, channels, classes, side
from rightrank.models.architectures.registry import Architecture

# Expansion, output channels, repeats and first stride of each stage: the paper's table 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM = 32
LAST = 1280


class InvertedResidual(nn.Module):
    """1×1 expansion (absent where `expansion` is 1), 3×3 depthwise, linear 1×1 projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [_unit(inputs, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _unit(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x)
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """`width` multiplies the channels of every layer; the last one never has fewer than 1,280."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: float) -> None:
        super().__init__()
        inputs = _divisible(STEM * width)
        last = _divisible(LAST * max(1.0, width))
        layers: list[nn.Module] = [_unit(in_channels, inputs, 3, stride=2)]
        for expansion, count, repeats, first in STAGES:
            outputs = _divisible(count * width)
            for i in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, first if i == 0 else 1, expansion))
                inputs = outputs
        layers.append(_unit(inputs, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return out


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


def _divisible(count: float, by: int = 8) -> int:
    """The nearest multiple of 8, never more than a tenth below `count`: the authors' rounding."""
    rounded = max(by, int(count + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * count else rounded


MOBILENET_V2 = Architecture(
    build=MobileNetV2,
    shape=lambda given: (given["in_channels"], given["image_size"], given["image_size"]),
    arguments={
        "num_classes": classes(),
        "in_channels": channels(),
        "image_size": side(224),
        "width": Number(1.0, 0.05, 16.0),
    },
)
