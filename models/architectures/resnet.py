"""Residual networks (arXiv:1512.03385), with torchvision's keys and shapes.

Bottlenecks stride in their 3×3 convolution, as torchvision's do ("v1.5"), not in the first 1×1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from rightrank.models.architectures.arguments import Integer, channels, classes, side
from rightrank.models.architectures.registry import Architecture


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; input and output have `planes` channels once past the first of a stage."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(inplanes, planes, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: torch.Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class Bottleneck(nn.Module):
    """1×1 down to `planes` channels, 3×3 (with the stride), 1×1 up to four times `planes`."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inplanes, planes * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        result: torch.Tensor = self.relu(out + (x if self.downsample is None else self.downsample(x)))
        return result


class ResNet(nn.Module):
    """Four stages of `depths` blocks, `width` channels in the first and twice as many in each next.

    `small` replaces the stem for images of about 32 pixels: a 3×3 convolution with stride 1, no pooling.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        small: bool,
        num_classes: int,
        in_channels: int,
        image_size: int,
        width: int,
    ) -> None:
        super().__init__()
        if small:
            self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        planes = [width * 2**stage for stage in range(4)]
        inputs = [width, *(count * block.expansion for count in planes)]
        self.layer1 = _stage(block, inputs[0], planes[0], depths[0], stride=1)
        self.layer2 = _stage(block, inputs[1], planes[1], depths[1], stride=2)
        self.layer3 = _stage(block, inputs[2], planes[2], depths[2], stride=2)
        self.layer4 = _stage(block, inputs[3], planes[3], depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs[4], num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: torch.Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


def _shortcut(inplanes: int, outplanes: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inplanes == outplanes:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, outplanes, 1, stride=stride, bias=False), nn.BatchNorm2d(outplanes))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inplanes: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    rest = (block(planes * block.expansion, planes, 1) for _ in range(depth - 1))
    return nn.Sequential(block(inplanes, planes, stride), *rest)


def _architecture(
    block: type[BasicBlock] | type[Bottleneck],
    depths: Sequence[int],
    small: bool,
    image_size: int,
    labels: int,
) -> Architecture:
    return Architecture(
        build=partial(ResNet, block, depths, small),
        shape=lambda given: (given["in_channels"], given["image_size"], given["image_size"]),
        arguments={
            "num_classes": classes(labels),
            "in_channels": channels(),
            "image_size": side(image_size),
            "width": Integer(64, 1, 1024),
        },
    )


RESNET18 = _architecture(BasicBlock, (2, 2, 2, 2), small=False, image_size=224, labels=1000)
RESNET50 = _architecture(Bottleneck, (3, 4, 6, 3), small=False, image_size=224, labels=1000)
# The papers' ResNet-34 for 32×32 images.
RESNET34_32 = _architecture(BasicBlock, (3, 4, 6, 3), small=True, image_size=32, labels=10)
