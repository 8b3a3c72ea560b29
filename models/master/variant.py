"""A variant as a program that runs here: its tensors at a plan, each factored layer multiplied out.

What a plan takes of a master is said in one place, `slots`; this follows it. For fitting and comparing; what is handed
out is measured from its own bytes (`measure`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from rightrank.models.master import entries
from rightrank.models.master.slots import Slot, Slots
from rightrank.models.master.template import Template
from rightrank.models.program.program import Program

# By the weight of each layer that is cut its factors, by side, as their calls take them.
LayerFactors: TypeAlias = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Variant:
    """What a variant is made of: the factors of each layer that is cut, and all other tensors as they are, by name."""

    template: Template
    factors: LayerFactors
    whole: Mapping[str, Tensor]

    def program(self) -> Program:
        layers = {layer.weight: layer for layer in self.template.decomposed}
        made = {name: layers[name].form.product(layers[name], factors) for name, factors in self.factors.items()}
        return Program(self.template.graph, {**self.whole, **made})

    def with_(self, whole: Mapping[str, Tensor], factors: LayerFactors | None = None) -> Variant:
        """The same with some other tensors."""
        return Variant(self.template, {**self.factors, **(factors or {})}, {**self.whole, **whole})


def variant(
    template: Template, stored: Mapping[str, Tensor], ranks: Sequence[int], instead: Mapping[str, Tensor] | None = None
) -> Variant:
    """The variant of the master's entries `stored` at `ranks`; `instead` replaces what it takes of some."""
    factors: dict[str, dict[str, Tensor]] = {}
    whole = {name: stored[template.entry(name)] for name in template.tensors}
    for slot in Slots(template).at(ranks):
        given = (instead or {}).get(slot.source)
        value = _taken(slot, stored) if given is None else given.reshape(slot.shape)
        if slot.side:
            factors.setdefault(slot.tensor, {})[slot.side] = value
        else:
            whole[slot.tensor] = value
    return Variant(template, factors, whole)


def all_factors(template: Template, stored: Mapping[str, Tensor]) -> LayerFactors:
    """The factors of every layer at full rank."""
    return {
        layer.weight: {
            side: stored[entries.factor(side, layer.name)].reshape(shape)
            for side, shape in layer.factor_shapes(layer.rank).items()
        }
        for layer in template.decomposed
    }


def changes(
    template: Template, stored: Mapping[str, Tensor], ranks: Sequence[int], wanted: Variant
) -> dict[str, Tensor]:
    """What a file of these `ranks` has to take instead of the master's entries, to be the variant `wanted`."""
    found = {}
    for slot in Slots(template).at(ranks):
        there = _taken(slot, stored)
        value = wanted.factors[slot.tensor][slot.side] if slot.side else wanted.whole[slot.tensor]
        value = value.reshape(there.shape).to(there.dtype).contiguous()
        if not torch.equal(value, there):
            found[slot.source] = value
    return found


def _taken(slot: Slot, stored: Mapping[str, Tensor]) -> Tensor:
    taken: Tensor = slot.taken(stored[slot.source])
    return taken
