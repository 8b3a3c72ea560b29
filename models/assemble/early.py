"""Whether data and program go together, asked right after reading, before any work: the program runs on some samples,
and targets are what its outputs can be held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rightrank.models.card import labels_of
from rightrank.models.errors import DataError
from rightrank.models.measure import measures
from rightrank.models.measure.metrics import METRICS
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Data, Samples
from rightrank.models.program.shapes import class_axis, squeezed

# So many samples run together, of so many groups: the first, those with the fewest and the most numbers, and others.
TRIED, GROUPS, FEW, SEED = 16, 64, 8, 0
# What torch's operators raise when they are called with what they do not take.
_REFUSALS = (RuntimeError, IndexError, ValueError, TypeError)


def check(program: Program, evaluation: Data | None, calibration: Data | None, metric: str | None = None) -> str | None:
    """The metric that the program is measured by on evaluation data: `metric`, or (None) what the data look like.

    Raises DataError, which names the sample and has torch's words, where the program does not run on the first, on a
    drawn or on an extreme sample of either, and where outputs and targets do not go together.
    """
    for what, data in (("evaluation", evaluation), ("calibration", calibration)):
        if data is None:
            continue
        for number, rows in _tried(data.samples):
            inputs, outputs = _run(program, data.samples, number, rows, what)
            if data is evaluation:
                targets = None if data.targets is None else data.targets[number]
                metric = measures.check(metric, outputs, targets, inputs)
                _check_finite(metric, outputs, inputs, rows)
    if metric is not None and evaluation is not None:
        measures.MEASURES[metric].enough(len(evaluation.samples))
    return metric


def check_card(program: Program, card: Mapping[str, Any], metric: str | None = None) -> None:
    """Raises DataError where a card names the classes of an output that has another number of them.

    Where samples have one answer each, or the first output is measured by a `metric` of classes, there is a name for
    each class; of other outputs, such as boxes with their classes, there are as many numbers at the least. One number
    can be a logit, which tells two classes apart.
    """
    graph, shapes = program.graph, program.shapes
    inputs = [torch.empty(shapes[spec.name], dtype=getattr(torch, spec.dtype), device="meta") for spec in graph.inputs]
    for number, names in labels_of(card).items():
        if number >= len(graph.outputs):
            raise DataError(
                f"The card has labels of output {number}, and the model's outputs are 0 to {len(graph.outputs) - 1}.",
                "Outputs are counted from 0.",
            )
        shape = shapes.get(graph.outputs[number], ())
        output = torch.empty(shape, device="meta")
        counted = number == 0 and metric is not None and METRICS[metric].classes
        if counted or len(squeezed(shape)) < 3:
            classes = math.prod(squeezed(shape)[1:]) if not counted else shape[class_axis(output, inputs)]
            fits = len(names) in ((1, 2) if classes == 1 else (classes,))
        else:
            classes = max(shape[1], shape[-1])
            fits = len(names) <= max(classes, 2)
        if not fits:
            raise DataError(
                f"The card has {len(names)} label{'s' * (len(names) > 1)} of output {number}, which has {classes} "
                f"{'number' if classes == 1 else 'numbers'} for each answer.",
                "Give a label for each, in their order; a class that means nothing has one too.",
            )


def _check_finite(metric: str, outputs: Tensor, inputs: Batch, rows: Tensor) -> None:
    sound = measures.MEASURES[metric].sound(outputs, class_axis(outputs, inputs))
    if not bool(sound.all()):
        raise DataError(
            f"The model's own output for evaluation input {int(rows[~sound][0])}, counted from 0, is NaN or infinite.",
            "Leave such inputs out, or export a model that has numbers for them.",
        )


def _tried(samples: Samples) -> Iterator[tuple[int, Tensor]]:
    """Groups, by number, with the numbers of the samples of them that are tried."""
    generator = torch.Generator().manual_seed(SEED)
    sizes = [sum(x[:1].numel() for x in group) for group in samples.groups]
    by_size = sorted(range(len(sizes)), key=sizes.__getitem__)
    drawn = torch.randperm(len(sizes), generator=generator).tolist()
    for number in list(dict.fromkeys([0, by_size[0], by_size[-1], *drawn]))[:GROUPS]:
        count = samples.sizes[number]
        tried = TRIED if len(sizes) <= FEW else 1
        rows = [*range(min(tried, count)), *torch.randperm(count, generator=generator)[:tried].tolist()]
        yield number, torch.tensor(list(dict.fromkeys(rows)))
    # Numbers of classes or words beyond those that there are stand out.
    extreme: dict[int, list[int]] = {}
    for index, batched in enumerate(samples.batched):
        for number, row in _extreme([group[index] for group in samples.groups]) if batched else ():
            extreme.setdefault(number, []).append(row)
    for number, few in extreme.items():
        yield number, torch.tensor(list(dict.fromkeys(few)))


def _extreme(several: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Where the smallest and the largest number of an input of whole numbers is: the group and the sample."""
    if several[0].is_floating_point() or several[0].dtype == torch.bool:
        return []
    each = [(number, x.reshape(len(x), -1)) for number, x in enumerate(several) if x.numel()]
    low, high = min(each, key=lambda pair: int(pair[1].min())), max(each, key=lambda pair: int(pair[1].max()))
    return [(low[0], int(low[1].amin(1).argmin())), (high[0], int(high[1].amax(1).argmax()))]


@torch.no_grad()
def _run(program: Program, samples: Samples, number: int, rows: Tensor, what: str) -> tuple[Batch, Tensor]:
    """Those samples of a group, and the first output for them."""
    size = samples.fixed or TRIED
    group = samples.apart()[number]
    found = []
    for part in torch.split(rows, size):
        batch = group.of_rows(torch.cat([part, part[-1:].expand(size - len(part))]) if samples.fixed else part)
        try:
            outputs = program.run(batch.groups[0])[0]
        except _REFUSALS as error:
            failing = _failing(program, group, part)
            which = f"{what} input{'s' * (len(failing) > 1)} {int(failing[0])}"
            which += f" to {int(failing[-1])}" if len(failing) > 1 else ""
            place = f"{which}, counted from 0" + (f", of group {number}" if len(samples.groups) > 1 else "")
            raise DataError(
                f"The model does not run on {place}: {_words(error)}. {_said(program, group, failing)}",
                "Give inputs as the model takes them: numbers of words or classes are from 0 to one less than there "
                "are, and sizes those that it was exported for.",
            ) from error
        if outputs.shape[:1] != ((count := len(batch)),):
            raise DataError(
                f"The model's output {tuple(outputs.shape)} does not have a row for each of {count} {what} inputs.",
                "Export the model with the batch as its first output's first dimension, or leave these data out.",
            )
        found.append(outputs[: len(part)])
    return group.of_rows(rows).groups[0], torch.cat(found)


def _failing(program: Program, group: Samples, rows: Tensor) -> Tensor:
    """The first of the samples that fails by itself; all of them where that cannot be told."""
    if group.fixed is None:
        for row in rows:
            try:
                program.run(group.of_rows(row.reshape(1)).groups[0])
            except _REFUSALS:
                return torch.tensor([int(row)])
    return rows


def _said(program: Program, group: Samples, rows: Tensor) -> str:
    """What is in them, in short."""
    names = [spec.name for spec in program.graph.inputs]
    given: Batch = group.of_rows(rows).groups[0]
    parts = []
    for name, x in zip(names, given, strict=True):
        span = f" from {x.min().item():.6g} to {x.max().item():.6g}" if x.numel() and x.dtype != torch.bool else ""
        parts.append(f"{name} is {tuple(x.shape)}{span}")
    return f"There {', '.join(parts)}."


def _words(error: BaseException) -> str:
    """What torch says, without the lines around it."""
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return (lines[0] if lines else type(error).__name__).strip().rstrip(".")[:300]
