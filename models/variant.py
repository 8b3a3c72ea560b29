"""A variant as a program that runs here: its tensors at a plan, each factored layer multiplied out.

What a file holds is said in one place, `emit.torchscript.Script`; this follows it. For fitting and comparing;
what is handed out is measured from its own bytes (`measure`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models import execute
from models.emit.template import Template
from models.emit.torchscript import Script
from models.program import Graph

TINY = 1e-12


def tensors(
    template: Template, stored: Mapping[str, Tensor], ranks: Sequence[int], instead: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """The program's tensors, by name, of the master `stored` at `ranks`; `instead` replaces entries of it."""
    instead = instead or {}
    found = {name: stored[template.entry(name)] for name in template.tensors}
    for slot in Script(template).slots(ranks):
        if slot.source in instead:
            value = instead[slot.source]
        else:
            value = stored[slot.source] if slot.rows is None else stored[slot.source][slice(*slot.rows)]
        if slot.transpose:  # an up factor, whose down factor came before it
            value = value.T @ found[slot.tensor]
        found[slot.tensor] = value
    return {name: value.reshape(template.tensors[name].shape) for name, value in found.items()}


def sources(template: Template, ranks: Sequence[int]) -> dict[str, str]:
    """For every tensor that is not factored at `ranks`, the entry of the master that it is copied from."""
    slots = list(Script(template).slots(ranks))
    factored = {slot.tensor for slot in slots if slot.transpose}
    return {slot.tensor: slot.source for slot in slots if slot.tensor not in factored}


@torch.no_grad()
def distances(
    graph: Graph,
    original: Mapping[str, Tensor],
    programs: Sequence[Mapping[str, Tensor]],
    inputs: Tensor,
    batch: int,
    classes: bool,
) -> list[float]:
    """How far each program's outputs are from the original's, the mean of `distance` over whole batches."""
    totals, count = [0.0] * len(programs), 0
    for images in batches(inputs, batch):
        wanted = execute.run(graph, original, [images])
        count += 1
        for index, program in enumerate(programs):
            outputs = execute.run(graph, program, [images])
            totals[index] += sum(float(distance(a, b, classes)) for a, b in zip(outputs, wanted, strict=True))
    return [total / max(count, 1) for total in totals]


def distance(outputs: Tensor, wanted: Tensor, classes: bool) -> Tensor:
    """How far `outputs` are from `wanted`, both (N, …), as one number of at least 0.

    With `classes`, for outputs (N, C): the Kullback-Leibler divergence of the classes' probabilities, the
    outputs being their logits, or the probabilities themselves where they are that. Otherwise the squared
    difference, as a share of how much the wanted outputs vary from sample to sample.
    """
    if classes and wanted.ndim == 2 and wanted.shape[1] > 1:
        if bool((wanted >= 0).all()) and bool(((wanted.sum(1) - 1).abs() < 1e-3).all()):
            outputs, wanted = outputs.clamp_min(TINY).log(), wanted.clamp_min(TINY).log()
        outputs, wanted = functional.log_softmax(outputs, 1), functional.log_softmax(wanted, 1)
        return functional.kl_div(outputs, wanted, reduction="batchmean", log_target=True)
    spread = (wanted - wanted.mean(0)).square().mean() + TINY
    return (outputs - wanted).square().mean() / spread


def batches(inputs: Tensor, batch: int) -> Iterator[Tensor]:
    """Whole batches in order; what does not fill one is left out."""
    for start in range(0, len(inputs) // batch * batch, batch):
        yield inputs[start : start + batch]
