"""A variant as a program that runs here: its tensors at a plan, each factored layer multiplied out.

What a file holds is said in one place, `emit.torchscript.Script`; this follows it. For fitting and comparing;
what is handed out is measured from its own bytes (`measure`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from models import execute
from models.emit.template import Template
from models.emit.torchscript import SIDES, Script, Slot
from models.program import Graph

TINY = 1e-12

Factors: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Parts:
    """What a variant is made of: by the weight of each layer that is cut its factors, (r, m) and (r, n), and all
    other tensors as they are, by name."""

    factors: Factors
    whole: Mapping[str, Tensor]

    def program(self) -> dict[str, Tensor]:
        """The program's tensors, by name."""
        made = {name: (up.T @ down).reshape(self.whole[name].shape) for name, (down, up) in self.factors.items()}
        return {**self.whole, **made}

    def with_(self, whole: Mapping[str, Tensor], factors: Factors | None = None) -> Parts:
        """The same with some other tensors."""
        return Parts({**self.factors, **(factors or {})}, {**self.whole, **whole})


def parts(
    template: Template, stored: Mapping[str, Tensor], ranks: Sequence[int], instead: Mapping[str, Tensor] | None = None
) -> Parts:
    """The parts of the master `stored` at `ranks`; `instead` replaces entries of it."""
    instead = instead or {}
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    whole = {name: stored[template.entry(name)] for name in template.tensors}
    downs: dict[str, Tensor] = {}
    for slot in Script(template).slots(ranks):
        value = instead[slot.source] if slot.source in instead else _entry(slot, stored)
        if slot.side == "down":
            downs[slot.tensor] = value
        elif slot.side == "up":  # after its down factor
            factors[slot.tensor] = downs[slot.tensor], value
        else:
            whole[slot.tensor] = value.reshape(template.tensors[slot.tensor].shape)
    return Parts(factors, whole)


def changes(template: Template, stored: Mapping[str, Tensor], ranks: Sequence[int], wanted: Parts) -> dict[str, Tensor]:
    """What a file of these `ranks` has to take instead of the master's entries, to be made of the parts `wanted`."""
    found = {}
    for slot in Script(template).slots(ranks):
        there = _entry(slot, stored)
        if slot.tensor in wanted.factors:
            value = wanted.factors[slot.tensor][SIDES.index(slot.side)]
        else:
            value = wanted.whole[slot.tensor]
        value = value.reshape(there.shape).to(there.dtype).contiguous()
        if not torch.equal(value, there):
            found[slot.source] = value
    return found


def _entry(slot: Slot, stored: Mapping[str, Tensor]) -> Tensor:
    value = stored[slot.source]
    return value if slot.rows is None else value[slice(*slot.rows)]


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
