"""The demo's model: a small network trained on scikit-learn's digits, in seconds, from nothing downloaded.

`python -m rightrank.service.run.demo FOLDER` writes what a publisher would upload. The service runs it as a process of
its own, because the API process never imports torch.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional

from rightrank.models.progress import Progress
from rightrank.service.client.bars import Bars

# The images' pixels are integers from 0 to 16.
WHITE = 16.0
HELD_OUT = 500
EPOCHS = 8
BATCH = 64
RATE = 0.01


@dataclass(frozen=True)
class Demo:
    """The files written, and the share of the held-out images that the trained network gets right."""

    checkpoint: Path
    evaluation: Path
    calibration: Path
    accuracy: float


def network() -> nn.Module:
    """(N, 1, 8, 8) images to (N, 10) logits; 40,506 parameters."""
    return nn.Sequential(
        *_convolution(1, 16),
        *_convolution(16, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training images, held-out images, training labels, held-out labels; the same split every time."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / WHITE, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.tensor(labels, dtype=torch.int64)
    train, test = train_test_split(range(len(targets)), test_size=HELD_OUT, random_state=0, stratify=labels)
    return images[train], images[test], targets[train], targets[test]


def train(module: nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: Progress) -> None:
    """Fit `module` in place and leave it in eval mode; `progress` hears of each epoch."""
    optimiser = torch.optim.AdamW(module.parameters(), lr=RATE)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    module.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images))
        # The last, short batch is dropped: batch statistics of a few images are noise.
        for batch in torch.split(order[: len(order) // BATCH * BATCH], BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(module(images[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        progress("training", epoch + 1, EPOCHS, "epochs")
    module.eval()


def build(folder: Path, progress: Progress) -> Demo:
    """Train the network and write demo.pt2, evaluation.safetensors and calibration.safetensors to `folder`."""
    torch.manual_seed(0)
    images, held_out, targets, held_out_targets = digits()
    module = network()
    train(module, images, targets, progress)
    with torch.no_grad():
        right = (module(held_out).argmax(1) == held_out_targets).double().mean().item()
    folder.mkdir(parents=True, exist_ok=True)
    demo = Demo(
        checkpoint=folder / "demo.pt2",
        evaluation=folder / "evaluation.safetensors",
        calibration=folder / "calibration.safetensors",
        accuracy=right,
    )
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (images[:2].clone(),), dynamic_shapes=({0: batch},))
    torch.export.save(program, demo.checkpoint)
    save_file({"inputs": held_out, "targets": held_out_targets}, demo.evaluation)
    save_file({"inputs": images}, demo.calibration)
    return demo


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rightrank.service.run.demo", description="Train the demo's model.")
    parser.add_argument("folder", type=Path, help="where its three files go")
    folder: Path = parser.parse_args().folder
    # The layers are small: threads gain little, and on a busy machine, where they wait for each other, training
    # takes many times as long. One thread also makes the same weights on every machine of a kind.
    torch.set_num_threads(1)
    with Bars(Console(stderr=True)) as bars:
        build(folder, bars)


if __name__ == "__main__":
    main()
