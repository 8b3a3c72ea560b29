"""What a notebook needs: a trained network read, built into a master, planned, written and measured.

The service does the same with the same functions below these, and gets the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

from safetensors.torch import save_file
from torch import Tensor

from rightrank.models import checkpoint
from rightrank.models.assemble.build import build as assemble
from rightrank.models.emit import formats
from rightrank.models.master.master import Master
from rightrank.models.measure import accuracy
from rightrank.models.measure.accuracy import Measurement
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.program import Program
from rightrank.models.progress import Progress, silent

File: TypeAlias = str | PathLike[str]


def read(file: File, architecture: Mapping[str, Any] | None = None) -> Program:
    """The network in a file of `torch.export.save`, or of weights alone with the architecture that they belong to,
    `{"name": "resnet50", "arguments": {"num_classes": 10}}`.

    Nothing in the file is executed. Raises UnsafeCheckpoint, UnsupportedCheckpoint or MalformedCheckpoint, which say
    what is wrong and what to do.
    """
    return checkpoint.read(Path(file), architecture)


def build(
    program: Program,
    folder: File,
    calibration: Tensor | None = None,
    *,
    criterion: str | None = None,
    progress: Progress = silent,
) -> Master:
    """The master of a network, in a folder: every layer as factors, the most important basis first.

    `calibration` are inputs (N, …) without labels, some hundred or more: with them a basis is worth what it changes of
    the network's outputs. `criterion` is one of `plan.criteria.CRITERIA`; by default the best that the data allow.
    Raises DataError where data and criterion do not go together.
    """
    assemble(program, Path(folder), calibration, criterion=criterion, progress=progress)
    return Master.open(Path(folder))


def plan(
    master: Master,
    budget: float | None = None,
    *,
    of: Literal["params", "macs"] = "params",
    max_bytes: int | None = None,
    max_params: int | None = None,
    max_macs: int | None = None,
) -> Plan:
    """The largest size within one limit: a `budget`, which is a share of the parameters and of the file or of the
    MACs, or an absolute one. Raises BudgetError, which names the nearest that can be met."""
    planner = Planner.open(master.folder)
    return planner.plan(budget, of=of, max_bytes=max_bytes, max_params=max_params, max_macs=max_macs)


def write(master: Master, plan: Plan, file: File) -> Path:
    """Writes a size of a master to a file, TorchScript unless the plan says otherwise; the file's path."""
    path = Path(file)
    with path.open("wb") as out:
        out.writelines(formats.pieces(master, plan))
    return path


def measure(file: File, inputs: Tensor, targets: Tensor, *, metric: str | None = None) -> Measurement:
    """How good a file is on `inputs` (N, …): by `metric` (top1, top5 or mse), or what the targets tell: classes (N,),
    or the numbers that the outputs should be. Raises DataError where they do not fit."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "evaluation.safetensors")
        save_file({"inputs": inputs.contiguous(), "targets": targets.contiguous()}, data)
        return accuracy.measure(Path(file), data, metric=metric)
