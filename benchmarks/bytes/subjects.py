"""The networks that the benchmark of bytes makes small, each with its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from torch import Tensor, nn

from benchmarks import cifar, photos
from benchmarks.compression import CALIBRATION, TUNING
from benchmarks.data import Data, cifar10, digits, fashion_mnist
from benchmarks.networks import NETWORKS, Tell, trained

EFFORTS = ("cut", "refit", "polish")
# Of the photographs so many are for calibration, the others are answered.
CALIBRATING = 150


@dataclass(frozen=True)
class Subject:
    """A network in evaluation mode. `calibration` (n, …) are inputs without labels, `tuning` more of them, for what is
    trained; `images` (n, …) are those that files are measured on, with the classes `targets` (n,), or None where what
    counts is how often a file answers as the original does. Files are asked for at 1/k of the original's for each k of
    `parts`, with each of `efforts`."""

    data: str
    network: str
    seed: int
    module: nn.Module
    calibration: Tensor
    tuning: Tensor
    images: Tensor
    targets: Tensor | None
    parts: Sequence[int] = (4, 8, 16, 32)
    efforts: Sequence[str] = EFFORTS

    @property
    def title(self) -> str:
        return f"{self.data}-{self.network}-{self.seed}"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])


def of(
    data: Data,
    network: str,
    seed: int,
    module: nn.Module,
    tuning: int = TUNING,
    parts: Sequence[int] = (4, 8, 16, 32),
    efforts: Sequence[str] = EFFORTS,
) -> Subject:
    """Measured on all test images of `data`."""
    few, more = data.images[:CALIBRATION].contiguous(), data.images[:tuning].contiguous()
    test = data.test_images.contiguous(), data.test_labels
    return Subject(data.name, network, seed, module, few, more, *test, parts, efforts)


def trained_here(network: str, seed: int, tell: Tell) -> Subject:
    """One of the networks of `benchmarks.compression`, from where that keeps them, or trained and put there."""
    data = fashions().padded(NETWORKS[network].margin)
    kept = Path("build/compression") / f"{data.name}-{network}-{seed}" / "network.safetensors"
    return of(data, network, seed, trained(network, data, seed, kept, tell))


@lru_cache(1)
def fashions() -> Data:
    return fashion_mnist()


def of_others(network: str, seed: int, tell: Tell) -> Subject:
    """One of the networks of `benchmarks.cifar`."""
    model = cifar.load(network, Path("build/cifar/torchopt/model"))
    return of(images_of_others(), network, seed, model, cifar.TUNING)


@lru_cache(1)
def images_of_others() -> Data:
    return cifar10(Path("build/cifar/package"))


def edge(seed: int, tell: Tell) -> Subject:
    """EfficientNet-Lite0, for which there are too few photographs to train anything."""
    images, model = photos.photographs(), photos.load()
    few, rest = images[:CALIBRATING].contiguous(), images[CALIBRATING:].contiguous()
    return Subject("photographs", "EfficientNet-Lite0", seed, model, few, few, rest, None, (4, 6, 8), ("cut", "refit"))


def quick(folder: Path, seed: int, tell: Tell) -> Subject:
    """A ResNet-14 that learns scikit-learn's digits within seconds, and stays in `folder`."""
    data = digits()
    model = trained("ResNet-14", data, seed, folder / f"network-{seed}.safetensors", tell, epochs=3)
    return of(data, "ResNet-14", seed, model, parts=(8,))


# What makes the subject of a seed.
Make = Callable[[int, Tell], Subject]
# Networks that are trained here have several seeds; the others are what they are.
OURS = tuple(NETWORKS)
SUBJECTS: Mapping[str, Make] = {
    **{name: partial(of_others, name) for name in ("ResNet-56", "VGG-16")},
    **{name: partial(trained_here, name) for name in OURS},
    "EfficientNet-Lite0": edge,
}
