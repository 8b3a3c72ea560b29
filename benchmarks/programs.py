"""Programs to measure on, made from the registered architectures with fixed random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rightrank.models import architectures, checkpoint


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The architecture in eval mode; weights as initialised under a fixed seed."""
    torch.manual_seed(0)
    return architectures.build(name, **arguments).eval()


def input_shape(name: str, arguments: dict[str, Any]) -> tuple[int, ...]:
    return architectures.input_shape(name, **arguments)


def export(module: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Save `module` as `.pt2` with a free batch size."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(module, (torch.randn(2, *shape),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)


def prepare(name: str, arguments: dict[str, Any], folder: Path) -> nn.Module:
    """Write the architecture's program into `folder` as the reader would, and return the module."""
    module = build(name, arguments)
    write(module, input_shape(name, arguments), folder)
    return module


def write(module: nn.Module, shape: tuple[int, ...], folder: Path) -> None:
    """Write a module's program into `folder` as the reader would; `shape` is that of one sample."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.pt2"
    export(module, shape, path)
    checkpoint.read(path).save(folder)
