"""A student whose weights are levels: it learns what they are, within as many bits as they may take (ours).

Behind each level is a number that learns, in steps; the network has it rounded, and what its gradient is there the
number gets as it is (Bengio et al., arXiv:1308.3432). What a step is learns with them (Esser et al., arXiv:1902.08153),
here as a logarithm. What levels cost is in the loss: between two of them a number costs what lies between the bits of
both, which are −log₂ of how often each occurs. So a number that hardly matters goes where it is cheap. How much bits
weigh follows from whether there are too many of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rightrank.models.factor.factors import by_basis, in_call
from rightrank.models.improve.student import TINY, Lesson, Student
from rightrank.models.master import entries
from rightrank.models.master.variant import Variant
from rightrank.models.measure.nearness import Nearness
from rightrank.models.program.program import Program
from rightrank.models.quantise.scaled import Scaled

# Numbers learn in a unit of so many steps.
UNIT = 4.0
# The logarithms of steps in a unit of so much; and by how much a step grows or shrinks at the most, with which the
# largest of ingest is one that a file can hold.
FASTER, TIMES = 4.0, 4.0
# After so many losses bits are counted anew.
EACH = 10
# By how much, of its logarithm, the weight of bits changes with each loss for each share of them that is too much; and
# at once.
SPEED, AT_ONCE = 1.0, 20.0
# The logarithm of the largest weight.
MOST = 30.0
HALF = 0.5


class RoundedStudent(Student):
    """Learns the levels `scaled`, by weight and side, and their scales, of the variant `start`, and its other
    parameters; its batch norms' statistics stay. Where all outputs have one scale they keep one. No level of a weight
    goes beyond its `most`, and all together may take that `share` of the bits that they take."""

    def __init__(
        self,
        original: Program,
        start: Variant,
        scaled: Mapping[str, Mapping[str, Scaled]],
        most: Mapping[str, int],
        share: float,
        device: torch.device,
    ) -> None:
        super().__init__(start.template, original, start.factors, device, start.whole, settled=True)
        layers = {layer.weight: layer for layer in start.template.layers}
        self._scaled, self._layers = scaled, layers
        # Of each parameter's levels the weight and the side, the scales as they are at first, and the most.
        self._places: dict[str, tuple[str, str]] = {}
        self._scales: dict[str, Tensor] = {}
        self._most: dict[str, int] = {}
        for weight, sides in scaled.items():
            for side, each in sides.items():
                key, scales = self._key(weight, side), each.scales
                self._places[key], self._scales[key], self._most[key] = (weight, side), scales.to(device), most[weight]
                self._learn(key, self._by_basis(key, each.levels.float()) / UNIT)
                one = bool((scales == scales[0]).all())
                self._learn(_steps(key), torch.zeros((scales[:1] if one else scales).shape))
        self.bases.clear()
        # Of each parameter's levels from −most to most the bits; of all that there are, these.
        self._bits, self.taken = self._counted()
        self._allowed, self._weight, self._losses = self.taken * share, math.nan, 0

    def _key(self, weight: str, side: str) -> str:
        return entries.factor(side, self._layers[weight].name) if side else weight

    def _by_basis(self, key: str, values: Tensor) -> Tensor:
        """What is as calls take a tensor, as its parameter is."""
        weight, side = self._places[key]
        return by_basis(self._layers[weight], side, values) if side else values

    def value(self, key: str) -> Tensor:
        if key not in self._places:
            return super().value(key)
        number, (weight, side) = self.number(key), self._places[key]
        scales = self.scales(key).float().expand(self._scaled[weight][side].levels.shape)
        return (number + (number.round() - number).detach()) * self._by_basis(key, scales)

    def scales(self, key: str) -> Tensor:
        """What a step of the levels is, in double, in a shape that goes with the tensor as calls take it."""
        grown = (self.parameters[_steps(key)] * FASTER).clamp(-math.log(TIMES), math.log(TIMES)).exp()
        return self._scales[key] * grown

    def number(self, key: str) -> Tensor:
        """What is behind the levels, in steps. One that has passed the largest level moves no more: brought back to
        it, numbers made a network that was further off (ResNet-14 at a sixty-fourth)."""
        return (self.parameters[key] * UNIT).clamp(-self._most[key], self._most[key])

    @torch.no_grad()
    def scaled(self, down: float = 0.0) -> dict[str, dict[str, Scaled]]:
        """The levels, on the CPU, by weight and side; all numbers so much of a step nearer to zero before they are
        rounded."""
        found: dict[str, dict[str, Scaled]] = {}
        for key, (weight, side) in self._places.items():
            number = self.number(key).cpu()
            levels = (number.sign() * (number.abs() - down).clamp_min(0)).round().to(torch.int8)
            taken = in_call(self._layers[weight], side, levels) if side else levels
            # As they are stored.
            scales = self.scales(key).float().double().cpu()
            found.setdefault(weight, {})[side] = Scaled(taken.contiguous(), scales)
        return found

    def loss(self, ranks: Mapping[str, int] | None, lesson: Lesson, measure: Nearness, hint: float) -> Tensor:
        missed = super().loss(ranks, lesson, measure, hint)
        if math.isnan(self._weight):
            self._weight = math.log(max(float(missed.detach()), TINY))
        self._losses += 1
        if self._losses % EACH == 0:
            self._bits, self.taken = self._counted()
        beyond = self.taken / self._allowed - 1
        self._weight += SPEED * beyond
        return missed + math.exp(min(self._weight + AT_ONCE * beyond, MOST)) * self._cost() / self._allowed

    @torch.no_grad()
    def _counted(self) -> tuple[dict[str, Tensor], float]:
        """The bits of each parameter's levels, and of all."""
        found, total = {}, 0.0
        for key, most in self._most.items():
            counts = torch.bincount((self.number(key).round().long() + most).flatten(), minlength=2 * most + 1)
            # So that no level is out of reach.
            shares = (counts + HALF) / (counts + HALF).sum()
            found[key] = -shares.log2()
            total += float(counts.double() @ found[key].double())
        return found, total

    def _cost(self) -> Tensor:
        """The bits of all numbers, in proportion where one lies between two levels."""
        return torch.stack([self._cost_of(key) for key in self._places]).sum()

    def _cost_of(self, key: str) -> Tensor:
        bits, most, number = self._bits[key], self._most[key], self.number(key)
        below = number.detach().floor().clamp(max=most - 1)
        index = (below + most).long()
        low = bits[index]
        return (low + (number - below) * (bits[index + 1] - low)).sum()


def _steps(key: str) -> str:
    """The parameter that says how much larger the steps of a parameter's levels have become."""
    return f"steps of {key}"
