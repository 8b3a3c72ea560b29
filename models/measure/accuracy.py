"""Measure an artifact: load its own bytes, run them on evaluation data, and compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.emit.format import FIRST, Network, Output
from rightrank.models.emit.formats import format_of
from rightrank.models.errors import DataError
from rightrank.models.measure.measure import Measure
from rightrank.models.measure.measures import MEASURES, check
from rightrank.models.measure.tally import Tally
from rightrank.models.program.graph import Graph
from rightrank.models.program.samples import INPUTS, TARGETS, Batch, Data, Samples
from rightrank.models.program.shapes import class_axis
from rightrank.models.progress import Progress, silent

# What is kept of the original in a store is by batches of so many.
BATCH = 128
# The input that says by zeros which positions of a sample are filled up, as transformers call it.
MASK = "attention_mask"
# What is kept of the original's outputs is no larger than this, nor than the evaluation data.
KEPT = 64 * 2**20


@dataclass(frozen=True)
class Measurement:
    """`value` over `n` samples, with a 95 % interval (None where the samples tell of no spread); `worst`, the class or
    label that comes off worst, where there are several; `changed`, how many answers differ from the original's (see
    `Measure.changed`), None of the original itself and where outputs are no answers; `counted`, how many `answers` the
    value is the share of, and the `most` that a sample can have, None where it is no such share. Those measured before
    there were the last three have None.

    An answer that is not finite is wrong, and an error of such outputs not finite.
    """

    metric: str
    value: float
    n: int
    low: float | None
    high: float | None
    worst: Mapping[str, Any] | None = None
    changed: Mapping[str, Any] | None = None
    counted: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measurement:
        return Measurement(**data)


def measure(artifact: Path, evaluation: Path, *, graph: Graph | None = None, **how: Any) -> Measurement:
    """`measure_on` the data in the file `evaluation`, which are for a program of this `graph` (None: one with a single
    input), with `how` for its other arguments."""
    masked = None if graph is None else mask_of(graph)
    return measure_on(artifact, read(evaluation, graph), masked=masked, **how)


def measure_on(
    artifact: Path,
    data: Data,
    *,
    masked: int | None = None,
    metric: str | None = None,
    original: Path | None = None,
    reference: Path | None = None,
    keep: Path | None = None,
    output: Output = FIRST,
    batch: int | None = None,
    progress: Progress = silent,
) -> Measurement:
    """Run the file `artifact` in the runtime of its format, which `output` names, over `data`. Of samples without
    targets the places count where the input number `masked` is not zero.

    It is compared with the original by what `reference` has of that (see below), or by running the file `original`;
    with neither, the record does not say what changed. With `keep` the artifact is the original: its outputs have to be
    finite, it is its own reference, and what others are to be compared with is written there, if that is not too large
    to be worth it. `batch` is the batch size that the program was exported for (`Graph.batch`), which its file does not
    say; None where any will do.

    Without `metric` it is what the data look like (`measures.default`). Raises DataError where data and outputs do not
    fit.
    """
    runtime = format_of(output)
    model = runtime.load(artifact)
    known = None if reference is None else load_file(reference)
    teacher = runtime.load(original) if original is not None and known is None else None
    samples, total = data.samples, len(data.samples)
    tallies: list[Tally] = []
    changes: list[Tensor] = []
    kept: dict[str, Tensor] = {}
    found: Measure | None = None
    most = 0
    start = 0
    with torch.inference_mode():
        for index, (group, inputs, targets) in enumerate(_batches(data, batch or BATCH)):
            progress("measure", start, total, "samples")
            outputs = _forward(model, inputs, samples.batched, batch)
            if group is not None:
                every = None if data.targets is None else data.targets[group]
                found = MEASURES[check(found.name if found else metric, outputs, every, inputs)]
            assert found is not None
            facts_of = found.metric
            of_classes = targets if facts_of.classes and not facts_of.original else None
            axis = class_axis(outputs, inputs, of_classes)
            theirs: dict[str, Tensor] = {}
            if keep is not None:
                theirs = _reference(found, outputs, axis, start)
                kept |= {f"{name}.{index}": each for name, each in theirs.items()}
            elif known is not None:
                theirs = {name: known[f"{name}.{index}"] for name in ("answers", "truth") if f"{name}.{index}" in known}
            elif teacher is not None and (facts_of.original or facts_of.answers):
                theirs = _reference(found, _forward(teacher, inputs, samples.batched, batch), axis, start)
            truth = theirs.get("truth", theirs.get("answers")) if facts_of.original else targets
            if truth is None:
                raise DataError(f"The metric {found.name} needs the original.", "Give its file.")
            weights = inputs[masked] if masked is not None and targets is None else None
            tally = found.tally(outputs, truth, axis, weights)
            tallies.append(found.beside(tally, theirs["answers"]) if "answers" in theirs else tally)
            most = max(most, found.most(outputs, axis)) if facts_of.share else 0
            if keep is None and "answers" in theirs:
                goal = found.wanted(outputs, targets, axis) if targets is not None and not facts_of.original else None
                changes.append(found.changes(found.answers(outputs, axis), theirs["answers"], goal, weights))
            start += len(outputs)
    progress("measure", total, total, "samples")
    assert found is not None
    if keep is not None and 0 < sum(each.nbytes for each in kept.values()) <= min(KEPT, data.nbytes):
        save_file(kept, keep)
    tally = Tally.join(tallies)
    low, high = found.interval(tally)
    changed = None
    if changes:
        changed = found.changed(torch.stack(changes).sum(0), data.targets is not None and not found.metric.original)
    counted = {"answers": found.answers_of(tally), "most": most} if found.metric.share else None
    return Measurement(found.name, found.value(tally), tally.n, low, high, found.worst(tally), changed, counted)


def read(evaluation: Path, graph: Graph | None) -> Data:
    """The evaluation data in a file, for a program of this graph, or of a single input."""
    found = load_file(evaluation)
    if graph is not None:
        return Data.stored(graph, found)
    return Data(Samples.of(found[INPUTS]), (found[TARGETS],) if TARGETS in found else None)


def _batches(data: Data, size: int) -> Iterator[tuple[int | None, Batch, Tensor | None]]:
    """All samples, at most `size` at once, with their targets; before the first of each group its number."""
    for number, group in enumerate(data.samples.apart()):
        targets = None if data.targets is None else data.targets[number]
        for index, inputs in enumerate(group.parts(size)):
            part = slice(index * size, (index + 1) * size)
            yield number if index == 0 else None, inputs, None if targets is None else targets[part]


def mask_of(graph: Graph) -> int | None:
    """Which input says what of a sample counts: the `attention_mask`, by its place."""
    return next((index for index, spec in enumerate(graph.inputs) if spec.name == MASK), None)


def _reference(found: Measure, outputs: Tensor, axis: int, start: int) -> dict[str, Tensor]:
    """What a file is compared with, of the outputs of the original for a batch whose first input is number `start`.
    Raises DataError for outputs that nothing can be compared with."""
    rows = found.sound(outputs, axis)
    if not bool(rows.all()):
        raise DataError(
            f"The model's own output for evaluation input {start + int(rows.int().argmin())}, counted from 0, is NaN "
            "or infinite.",
            "Leave such inputs out, or export a model that has numbers for them.",
        )
    kept = {}
    if found.metric.answers:
        kept["answers"] = _small(found.answers(outputs, axis))
    if found.metric.original and found.name != "agreement":
        kept["truth"] = found.reference(outputs, axis).contiguous()
    return kept


def _small(answers: Tensor) -> Tensor:
    """The same integers in as few bytes as hold them."""
    most = int(answers.max())
    if answers.dtype == torch.uint8:
        return answers.contiguous()
    dtype = next(each for each in (torch.int8, torch.int16, torch.int32, torch.int64) if most <= torch.iinfo(each).max)
    return answers.to(dtype).contiguous()


def _forward(model: Network, inputs: Batch, batched: Sequence[bool], batch: int | None) -> Tensor:
    """The first output for `inputs`, row by row. Where the program takes `batch` rows at once and there are fewer,
    the last one is repeated, and what comes of that is dropped."""
    rows = len(inputs[batched.index(True)])
    if batch is not None and rows < batch:
        inputs = tuple(
            torch.cat([each, each[-1:].expand(batch - rows, *each.shape[1:])]) if many else each
            for each, many in zip(inputs, batched, strict=True)
        )
    count = rows if batch is None else batch
    shapes = " and ".join(str(tuple(each.shape)) for each in inputs)
    try:
        found = model(*inputs)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[-1][:300]
        raise DataError(
            f"The model does not run on evaluation inputs of shape {shapes}: {reason}.",
            "Give inputs of the shape that the model was exported with.",
        ) from error
    outputs: Tensor = found[0] if isinstance(found, tuple) else found
    if outputs.shape[:1] != (count,):
        raise DataError(
            f"The model's output {tuple(outputs.shape)} does not have a row for each of {count} inputs.",
            "Accuracy needs one: export the model with the batch as its first output's first dimension, or leave "
            "the evaluation data out.",
        )
    return outputs[:rows]
