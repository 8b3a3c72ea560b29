"""A variant as a program that runs here: its tensors at a plan, each factored layer multiplied out.

What a file holds is said in one place, `emit.torchscript.Script`; this follows it. For fitting and comparing;
what is handed out is measured from its own bytes (`measure`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from rightrank.models.emit.torchscript.writer import SIDES, Script, Slot
from rightrank.models.factor.metric import by_basis, in_order, product
from rightrank.models.master.template import Template

Factors: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Parts:
    """What a variant is made of: by the weight of each layer that is cut its factors, (r, m) and (r, n), and all
    other tensors as they are, by name."""

    factors: Factors
    whole: Mapping[str, Tensor]

    def program(self) -> dict[str, Tensor]:
        """The program's tensors, by name."""
        made = {name: product(*pair, tuple(self.whole[name].shape)) for name, pair in self.factors.items()}
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
            factors[slot.tensor] = downs[slot.tensor], by_basis(value)
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
            value = in_order(value, len(there)) if slot.side == "up" else value
        else:
            value = wanted.whole[slot.tensor]
        value = value.reshape(there.shape).to(there.dtype).contiguous()
        if not torch.equal(value, there):
            found[slot.source] = value
    return found


def _entry(slot: Slot, stored: Mapping[str, Tensor]) -> Tensor:
    taken: Tensor = slot.taken(stored[slot.source])
    return taken
