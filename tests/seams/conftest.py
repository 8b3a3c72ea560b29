"""What every seam's test starts from: a network with evaluation data, and members that it may add to the house."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rightrank.models.assemble.build import build
from rightrank.models.emit import formats
from rightrank.models.plan.planner import Plan
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from tests.models.nets import make, read


class Mixed(nn.Module):
    """Linear layers and convolutions, with and without bias, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Linear(256, 48)
        self.head = nn.Linear(48, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.stem(x))), 2)
        return self.head(torch.relu(self.inner(x.flatten(1))))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Case:
    """A network as a module and as a program, inputs for calibration, and a file of evaluation data on which the
    network is always right."""

    module: nn.Module
    program: Program
    inputs: Tensor
    evaluation: Path


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("seam")
    module = make(Mixed)
    inputs = torch.randn(240, 3, 8, 8)
    with torch.no_grad():
        targets = module(inputs).argmax(1)
    save_file({"inputs": inputs, "targets": targets}, folder / "evaluation.safetensors")
    return Case(module, read(module, (3, 8, 8), folder), inputs, folder / "evaluation.safetensors")


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Path:
    """The network's master."""
    build(case.program, tmp_path / "master", Samples.of(case.inputs), criterion="logit")
    return tmp_path / "master"


def written(folder: Path, plan: Plan) -> bytes:
    """A plan's file."""
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


@contextmanager
def added(table: Mapping[str, Any], members: Mapping[str, Any], first: bool = False) -> Iterator[None]:
    """Meanwhile, a table of the house has these members too, at its beginning or its end."""
    known = cast(dict[str, Any], table)
    before = dict(known)
    known.clear()
    known.update({**members, **before} if first else {**before, **members})
    try:
        yield
    finally:
        known.clear()
        known.update(before)
