"""Layers quantised while they are fitted, each within the bytes that a plan has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from rightrank.models.emit.coded import block_bytes
from rightrank.models.factor.gradients import Gradients
from rightrank.models.improve.made import Made, Sides
from rightrank.models.improve.quantising import Fitted, Quantising
from rightrank.models.master.levels import Levels
from rightrank.models.program.calls import Convolution, Linear
from rightrank.models.quantise import metric
from rightrank.models.quantise.scaled import Scaled
from rightrank.models.quantise.whole import rounded_at

# How often a layer's steps are made coarser before it keeps the levels that it had.
TRIES = 6
# What another packing may take of a file's text, in bytes.
OF_PACKING = 16


def _rounded(weight: Tensor, grid: float, alike: bool) -> Scaled:
    """A weight at a grid where each number costs the same; with `alike` its outputs have one scale."""
    made = rounded_at(weight.flatten(1), grid, sharing=len(weight) if alike else 1)
    return Scaled(made.levels.reshape(weight.shape), made.scales.reshape(-1, *(1,) * (weight.ndim - 1)))


def taken(levels: Sides, planned: Sides) -> int:
    """The bytes that a tensor's levels take of a file that was planned for others."""
    size = sum(block_bytes([each], len(each.ends) - 1) for each in levels.values())
    packings = [int(next(iter(each.values())).end[2]) for each in (levels, planned)]
    return size + OF_PACKING * (packings[0] != packings[1])


@dataclass
class WithinBytes:
    """Quantises each layer at its grid, or as much coarser as its bytes want it. What it has made is `found`, by weight
    and side; what the layers before it have left of their bytes it may use."""

    made: Made
    gradients: Mapping[str, Gradients]
    grids: Mapping[str, float]
    left: int = 0
    found: dict[str, dict[str, Levels]] = field(default_factory=dict)

    def __call__(self, fitted: Fitted) -> Fitted:
        name = fitted.regression.layer.weight
        planned, before = self.made.bytes(name), self.made.levels(name)
        if (fitted.factors is None) != (name in self.made.whole):
            return self._as_made(fitted)
        known = Quantising.alone(fitted.regression) and isinstance(fitted.regression.call, (Linear, Convolution))
        known = known and fitted.regression.inputs <= metric.WIDE
        allowed, grid, alike = planned + self.left, self.grids.get(name), self.made.master.template.alike
        for _ in range(TRIES):
            if known:
                quantising = Quantising({name: grid} if grid else {}, self.gradients, alike=alike)
                result = quantising(fitted)
                sides = quantising.found[name]
            elif fitted.factors is None:
                # As at ingest, where no metric is known of it.
                sides = {"": _rounded(fitted.regression.weight(fitted.matrix), grid or 0.0, name in alike)}
                result = replace(fitted, matrix=fitted.regression.matrix(sides[""].numbers()))
            else:
                return self._as_made(fitted)
            levels = self.made.coded(name, sides)
            size = taken(levels, before)
            if size <= allowed:
                self.found[name], self.left = levels, allowed - size
                return result
            if grid is None:
                break
            count = sum(each.levels.numel() for each in sides.values())
            grid *= 2.0 ** (8 * (size - allowed) / count + 0.01)
        return self._as_made(fitted)

    def _as_made(self, fitted: Fitted) -> Fitted:
        """The layer as the cut has it."""
        name, regression = fitted.regression.layer.weight, fitted.regression
        sides = {side: each.double() for side, each in self.made.numbers(name).items()}
        if "" in sides:
            return replace(fitted, matrix=regression.matrix(sides[""]), factors=None)
        return replace(fitted, factors=sides)
