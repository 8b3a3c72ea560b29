"""The small networks that the compression benchmark trains itself, and their training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.data import Data
from rightrank.models.architectures.resnet import BasicBlock
from rightrank.models.architectures.vgg import VGG
from rightrank.models.architectures.vit import VisionTransformer

BATCH = 128
Tell = Callable[[int, int], None]


class ResNet14(nn.Module):
    """Three stages of two basic blocks, 16, 32 and 64 channels wide (arXiv:1512.03385, section 4.2, n = 2)."""

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        plan = ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1))
        blocks, inputs = [], width
        for planes, stride in plan:
            blocks.append(BasicBlock(inputs, planes, stride))
            inputs = planes
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out


@dataclass(frozen=True)
class Network:
    """How to build it for images of a shape, and how to train it: epochs, Adam's highest learning rate.
    `margin` is what it needs around an image of 28×28."""

    build: Callable[[tuple[int, ...], int], nn.Module]
    epochs: int
    rate: float
    margin: int = 0


def vgg(shape: tuple[int, ...], classes: int) -> nn.Module:
    return VGG(num_classes=classes, in_channels=shape[0], image_size=shape[1], width=16)


def vit(shape: tuple[int, ...], classes: int) -> nn.Module:
    return VisionTransformer(
        classes, shape[0], image_size=shape[1], patch_size=4, depth=6, heads=4, dim=64, mlp_dim=128
    )


NETWORKS: Mapping[str, Network] = {
    "ResNet-14": Network(lambda shape, classes: ResNet14(shape[0], classes), epochs=4, rate=1e-2),
    "VGG": Network(vgg, epochs=4, rate=3e-3, margin=2),
    "ViT": Network(vit, epochs=8, rate=2e-3),
}


def trained(name: str, data: Data, seed: int, kept: Path, tell: Tell, epochs: int | None = None) -> nn.Module:
    """The network in evaluation mode, from the file `kept`, or trained and put there."""
    network = NETWORKS[name]
    torch.manual_seed(seed)
    model = network.build(data.shape, int(data.labels.max()) + 1)
    if not kept.exists():
        fit(model, data, network.rate, epochs or network.epochs, seed, tell)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        save_file(model.state_dict(), partial)
        partial.rename(kept)
    model.load_state_dict(load_file(kept))
    return model.eval()


def fit(model: nn.Module, data: Data, rate: float, epochs: int, seed: int, tell: Tell) -> None:
    """AdamW with one rise and fall of the learning rate, weight decay 0.01."""
    steps = len(data.images) // BATCH * epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    done = 0
    for _ in range(epochs):
        for images, labels in data.batches(BATCH, generator):
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            done += 1
            tell(done, steps)
