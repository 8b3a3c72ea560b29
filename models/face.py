"""What a notebook needs: a trained network read, built into a master, planned, written and measured.

The service does the same by the same functions below these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from rightrank.models import checkpoint
from rightrank.models.assemble import early
from rightrank.models.assemble.build import build as assemble
from rightrank.models.card import checked, written
from rightrank.models.checkpoint.data import data_of, targets_for
from rightrank.models.emit import formats
from rightrank.models.emit.format import FIRST, Output
from rightrank.models.emit.formats import FORMATS
from rightrank.models.emit.precision import encoding_in, written_in
from rightrank.models.errors import DataError, FormatError
from rightrank.models.master.master import Master
from rightrank.models.measure import accuracy
from rightrank.models.measure.accuracy import Measurement
from rightrank.models.measure.metrics import METRICS
from rightrank.models.plan.mixture import MIXTURE
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import INPUTS, Data, Samples
from rightrank.models.program.shapes import Classes
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
    calibration: Tensor | Mapping[str, Tensor] | None = None,
    *,
    criterion: str | None = None,
    classes: Classes = True,
    card: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Master:
    """The master of a network, in a folder: every layer as factors, the most important basis first.

    `calibration` are inputs (N, …) without labels, some hundred or more, of a network with several inputs by their
    names, and where lengths differ in groups of one length (`input_ids.0`, `input_ids.1`, …): with them a basis is
    worth what it changes of the network's outputs. `criterion` is one of `plan.criteria.CRITERIA`; by default the best
    that the data allow, tried out where the network tells `classes` apart ("places": at each place of
    its outputs). `card` is what every file says of the model: `description`, `license`, `labels` (the classes' names)
    and `preprocessing`. Raises DataError where data, program, criterion and card do not go together.
    """
    if not isinstance(program, Program):
        raise TypeError(f"build takes a program, as read gives it, and not {type(program).__name__}")
    inputs = None
    if calibration is not None:
        given = calibration if isinstance(calibration, Mapping) else {INPUTS: calibration}
        inputs = data_of(program.graph, {name: torch.as_tensor(each) for name, each in given.items()}).samples
    said = checked(card or {})
    early.check_card(program, said)
    options: dict[str, Any] = {"criterion": criterion, "classes": classes, "card": written(said)}
    assemble(program, Path(folder), inputs, **options, progress=progress)
    return Master.open(Path(folder))


def plan(
    master: Master,
    budget: float | None = None,
    *,
    of: Literal["params", "macs"] = "params",
    max_bytes: int | None = None,
    max_params: int | None = None,
    max_macs: int | None = None,
    precision: str | None = None,
    format: str = FIRST.format,
) -> Plan:
    """The largest size within every limit given: a `budget`, which is a share of the parameters and of the file or of
    the MACs, and absolute ones. Its file is of a `format` ("torchscript", "onnx", …: `emit.formats.FORMATS`), and its
    numbers are stored in a `precision`, "float32", "float16", "int8" or in ONNX "int4" or "w8a8", by default as they
    are. Raises BudgetError, which names the nearest that can be met, PrecisionError, which names the precisions that
    the network can have, FormatError where the format cannot hold it or is not installed, and ValueError for what is no
    limit or format."""
    limits = {"budget": budget, "max_bytes": max_bytes, "max_params": max_params, "max_macs": max_macs}
    if all(limit is None for limit in limits.values()):
        raise ValueError(f"plan takes one or several of {', '.join(limits)}, and was given none")
    if budget is not None and not 0 < budget <= 1:
        raise ValueError(f"budget={budget!r} is no share: it is above 0 and at most 1")
    if of not in ("params", "macs"):
        raise ValueError(f"of={of!r} is not known: a budget is of params or of macs")
    output = latest_of(format)
    if why := formats.format_of(output).available():
        raise FormatError(why)
    found = formats.offered(master.template, (master.folder / MIXTURE).exists(), output)
    if precision is not None:
        output = written_in(output, encoding_in(found, precision, master.template, format))
    planner = Planner.open(master.folder, output)
    return planner.plan(budget, of=of, max_bytes=max_bytes, max_params=max_params, max_macs=max_macs)


def write(master: Master, plan: Plan, file: File) -> Path:
    """Writes a size of a master to a file, TorchScript unless the plan says otherwise; the file's path. It appears when
    it is whole. Raises ValueError for another master's plan."""
    path, partial = Path(file), Path(f"{file}.partial")
    template = master.template
    whole = plan.original and plan.params == template.original.params
    if not whole and (len(plan.ranks) != len(template.decomposed) or template.params_at(plan.ranks) != plan.params):
        raise ValueError("this plan is of another master: plan(master, …) makes one of this")
    try:
        with partial.open("wb") as out:
            out.writelines(formats.pieces(master, plan))
        if not formats.as_planned(plan, partial.stat().st_size):
            raise ValueError("this plan is of another master: plan(master, …) makes one of this")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def latest_of(format: str) -> Output:
    """What files of a format are written as today. Raises ValueError for what is none."""
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is not known: there are {', '.join(FORMATS)}")
    return Output(format, formats.newest()[format])


def measure(
    file: File,
    inputs: Tensor | Sequence[Tensor],
    targets: Tensor,
    *,
    metric: str | None = None,
    batch: int | None = None,
    format: str = FIRST.format,
) -> Measurement:
    """How good a file of a `format` is on `inputs` (N, …), several for a network that takes several, in its order.

    By `metric` (`measure.metrics` has them; those against the original are not for this), or what the targets look
    like: class indices (N, …), labels of 0 and 1, or the numbers that the outputs should be. `batch` is how many a
    program takes at once that was exported for a fixed number. Raises DataError where they do not fit.
    """
    known = [name for name, facts in METRICS.items() if not facts.original]
    if metric is not None and metric not in known:
        raise DataError(f"{metric!r} is no metric to measure a file by.", f"Choose one of {', '.join(known)}.")
    given = [torch.as_tensor(each) for each in (inputs if isinstance(inputs, (tuple, list)) else [inputs])]
    if len({len(each) if each.ndim else 0 for each in given} - {0}) != 1 or not all(each.ndim for each in given):
        raise DataError("There are no inputs to measure the file on.", "Give some, the first dimension counting them.")
    data = Data(Samples.of(*given), (targets_for(torch.as_tensor(targets), len(given[0])),))
    return accuracy.measure_on(Path(file), data, metric=metric, batch=batch, output=latest_of(format))
