"""Measure an artifact: load its own bytes, run them on evaluation data, count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from rightrank.models.emit.format import FIRST, Network, Output
from rightrank.models.emit.formats import format_of
from rightrank.models.errors import DataError
from rightrank.models.measure.nearness import sound
from rightrank.models.progress import Progress, silent

BATCH = 128


@dataclass(frozen=True)
class Measurement:
    """`value` over `n` samples with a 95 % interval: a fraction (Wilson's interval) for top1, top5 and
    agreement; for mse the mean squared error per output (normal interval; None where one sample tells of no spread).
    Where outputs are not finite the class is wrong, and the mean squared error not finite."""

    metric: str
    value: float
    n: int
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measurement:
        return Measurement(**data)


def measure(
    artifact: Path,
    evaluation: Path,
    *,
    metric: str | None = None,
    original: Path | None = None,
    output: Output = FIRST,
    batch: int | None = None,
    finite: bool = False,
    progress: Progress = silent,
) -> Measurement:
    """Run the file `artifact` in the runtime of its format, which `output` names, over the data in `evaluation`
    (`inputs`, maybe `targets`).

    `batch` is the batch size that the program was exported for (`Graph.batch`), which its file does not say; None
    where any will do. With `finite` the outputs have to be that, as those of `original` always have to.

    Without `metric`: top1 where the targets are class indices, mse where they are numbers, agreement
    with the file `original` where there are none. Raises DataError where data and outputs do not fit.
    """
    data = load_file(evaluation)
    inputs, targets = data["inputs"], data.get("targets")
    metric = metric or default_metric(targets)
    score, runtime = SCORES[metric], format_of(output)
    model = runtime.load(artifact)
    teacher = runtime.load(original) if metric == "agreement" and original is not None else None
    if metric != "agreement" and targets is None or metric == "agreement" and teacher is None:
        raise DataError(f"The metric {metric} needs targets.", "Upload evaluation data with `targets`.")
    scores: list[Tensor] = []
    with torch.inference_mode():
        size = batch or BATCH
        for start in range(0, len(inputs), size):
            progress("measure", start, len(inputs), "samples")
            part = slice(start, start + size)
            outputs = _forward(model, inputs[part], batch)
            truth = _forward(teacher, inputs[part], batch) if teacher is not None else targets[part]  # type: ignore[index]
            scores.append(score(outputs, truth))
            if finite or teacher is not None:
                _check_finite(metric, truth if teacher is not None else outputs, start)
    progress("measure", len(inputs), len(inputs), "samples")
    return _summary(metric, torch.cat(scores))


def check(metric: str | None, outputs: Tensor, targets: Sequence[Tensor] | None) -> None:
    """Raises DataError where a network with such outputs (k, …) cannot be measured against the targets of each group,
    by `metric` or by what they look like."""
    if targets is None:
        return
    for each in targets:
        name = metric or default_metric(each)
        if name in ("top1", "top5"):
            _check_classes(outputs, each)
        elif name == "mse" and each.shape[1:] != outputs.shape[1:]:
            mse(outputs[:1], each[:1])


def default_metric(targets: Tensor | None) -> str:
    if targets is None:
        return "agreement"
    return "mse" if targets.is_floating_point() else "top1"


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output (B, classes) is the target (B,)."""
    _check_classes(outputs, targets)
    return (outputs.argmax(1) == targets).double() * sound(outputs, classes=True)


def top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the target is among the five largest outputs."""
    _check_classes(outputs, targets)
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets.unsqueeze(1)).any(1).double() * sound(outputs, classes=True)


def agreement(outputs: Tensor, original: Tensor) -> Tensor:
    """1 where both networks' largest outputs are the same class."""
    _check_scores(outputs)
    return (outputs.argmax(1) == original.argmax(1)).double() * sound(outputs, classes=True)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each sample over its outputs."""
    if outputs.shape != targets.shape:
        raise DataError(
            f"Targets {tuple(targets.shape)} do not have the outputs' shape {tuple(outputs.shape)}.",
            "Give for each input the numbers that the output should be.",
        )
    return ((outputs.double() - targets.double()) ** 2).reshape(len(outputs), -1).mean(1)


SCORES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "top1": top1,
    "top5": top5,
    "agreement": agreement,
    "mse": mse,
}


def _check_finite(metric: str, outputs: Tensor, start: int) -> None:
    """Refuses outputs of the original, the first being of input `start`, that nothing can be compared with."""
    rows = sound(outputs, classes=metric != "mse")
    if not bool(rows.all()):
        raise DataError(
            f"The model's own output for evaluation input {start + int(rows.int().argmin())}, counted from 0, is NaN "
            "or infinite.",
            "Leave such inputs out, or export a model that has numbers for them.",
        )


def _check_scores(outputs: Tensor) -> None:
    """Of one column, the largest output is always the same."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise DataError(
            f"Classes cannot be told from the model's output: it is {tuple(outputs.shape)}, not (batch, classes) with "
            "2 classes or more.",
            "Give as `targets` the numbers that the output should be, for the metric mse, or leave the evaluation "
            "data out.",
        )


def _check_classes(outputs: Tensor, targets: Tensor) -> None:
    _check_scores(outputs)
    if targets.ndim != 1:
        raise DataError(
            f"Accuracy needs targets (batch,), not {tuple(targets.shape)}.",
            "Choose another metric, or give one class index per input.",
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= outputs.shape[1]:
        raise DataError(
            f"Targets run from {low} to {high}, the model has {outputs.shape[1]} classes.",
            f"Give class indices from 0 to {outputs.shape[1] - 1}.",
        )


def _forward(model: Network, inputs: Tensor, batch: int | None) -> Tensor:
    """The first output for `inputs`, row by row. Where the program takes `batch` rows at once and there are fewer,
    the last one is repeated, and what comes of that is dropped."""
    rows = len(inputs)
    if batch is not None and rows < batch:
        inputs = torch.cat([inputs, inputs[-1:].expand(batch - rows, *inputs.shape[1:])])
    try:
        found = model(inputs)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1][:300]
        raise DataError(
            f"The model does not run on evaluation inputs of shape {tuple(inputs.shape)}: {reason}.",
            "Give inputs of the shape that the model was exported with.",
        ) from error
    outputs: Tensor = found[0] if isinstance(found, tuple) else found
    if outputs.shape[:1] != inputs.shape[:1]:
        raise DataError(
            f"The model's output {tuple(outputs.shape)} does not have a row for each of {len(inputs)} inputs.",
            "Accuracy needs one: export the model with the batch as its first output's first dimension, or leave "
            "the evaluation data out.",
        )
    return outputs[:rows]


def _summary(metric: str, scores: Tensor) -> Measurement:
    n, mean = len(scores), scores.mean().item()
    z = 1.959963984540054
    if metric == "mse":
        if n == 1:
            return Measurement(metric, mean, n, None, None)
        half = z * scores.std().item() / math.sqrt(n)
        return Measurement(metric, mean, n, mean - half, mean + half)
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return Measurement(metric, mean, n, max(0.0, centre - half), min(1.0, centre + half))
