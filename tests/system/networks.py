"""Networks that the tests publish, exported as a publisher would."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

HELD_OUT = 500


def export(module, example, file):
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},)), file)


def digits(folder: Path):
    """A little trained network on handwritten digits: net.pt2, evaluation.safetensors, calibration.safetensors."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.tensor(labels, dtype=torch.int64)
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    optimiser = torch.optim.Adam(module.parameters(), 0.003)
    for start in range(HELD_OUT, len(images), 64):
        optimiser.zero_grad()
        functional.cross_entropy(module(images[start : start + 64]), targets[start : start + 64]).backward()
        optimiser.step()
    export(module, images[:2], folder / "net.pt2")
    save_file({"inputs": images[:HELD_OUT], "targets": targets[:HELD_OUT]}, folder / "evaluation.safetensors")
    save_file({"inputs": images[HELD_OUT:]}, folder / "calibration.safetensors")


def wide(file: Path):
    """A network without data, and with enough weights that its decomposition is under way for a while."""
    width = 640
    export(nn.Sequential(*(nn.Linear(width, width) for _ in range(3))), torch.rand(2, width), file)
