"""The networks that docs/publish.md imports from a reader's own module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.tasks import networks
from rightrank.service.run import demo

SIDE, CLASSES = 8, 10


class Network(nn.Module):
    """Convolutions for small images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = demo.network()

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, 8, 8) → (n, 10)."""
        out: Tensor = self.layers(images)
        return out


class UNet(networks.UNet):
    """For each pixel which digit it belongs to, or 10."""

    def __init__(self) -> None:
        super().__init__(classes=CLASSES + 1, width=24)


class Recurrent(nn.Module):
    """The rows of an image, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SIDE, 96, num_layers=2, batch_first=True)
        self.head = nn.Linear(96, CLASSES)

    def forward(self, series: Tensor) -> Tensor:
        """(n, 8, 8) → (n, 10)."""
        out: Tensor = self.head(self.lstm(series)[0][:, -1])
        return out


class Listener(nn.Module):
    """Convolutions over samples, and the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(1, 32, 16, stride=4), nn.BatchNorm1d(32), nn.ReLU()),
            *(nn.Conv1d(32, 64, 8, stride=2), nn.BatchNorm1d(64), nn.ReLU()),
            *(nn.Conv1d(64, 64, 8, stride=2), nn.ReLU()),
        )
        self.head = nn.Linear(64, 4)

    def forward(self, waves: Tensor) -> Tensor:
        """(n, 1, samples) → (n, 4)."""
        out: Tensor = self.head(self.layers(waves).mean(2))
        return out


class Perceptron(nn.Module):
    """One logit for a row of features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = networks.perceptron(30, 128, 1, dropped=0.3)

    def forward(self, features: Tensor) -> Tensor:
        """(n, 30) → (n, 1)."""
        out: Tensor = self.layers(features)
        return out


def waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A second of noise at 1 kHz and in it a tone (n, 1, 1000) of one of four shapes (n,): sine, square, saw, chirp."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(4, (count,), generator=generator)
    pitch = 20 + 60 * torch.rand(count, 1, generator=generator)
    phase = torch.rand(count, 1, generator=generator) + pitch * torch.linspace(0, 1, 1000)
    swept = phase + 0.5 * pitch * torch.linspace(0, 1, 1000).square()
    shapes = torch.stack(
        [
            torch.sin(2 * torch.pi * phase),
            torch.sin(2 * torch.pi * phase).sign(),
            2 * (phase % 1) - 1,
            torch.sin(2 * torch.pi * swept),
        ]
    )
    chosen = shapes[kinds, torch.arange(count)]
    return (chosen + 0.8 * torch.randn(count, 1000, generator=generator))[:, None], kinds
