"""What a walk over the layers asks of whoever turns their numbers into levels, and one who does so by grids.

A fit is quantised where it is made, with the covariance of the inputs that the quantised layers before it make, and
the layers after it are fitted to make good what it has lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import Tensor

from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.regression import Regression
from rightrank.models.program.calls import transposed
from rightrank.models.quantise import layers
from rightrank.models.quantise.scaled import Scaled


@dataclass(frozen=True)
class Fitted:
    """What a layer is to be: its weight as the `matrix` (g, o, i) of a regression, and with a rank `factors` by side;
    and the covariance of its inputs, `normal` (g, i, i). All in double."""

    regression: Regression
    matrix: Tensor
    normal: Tensor
    factors: Mapping[str, Tensor] | None = None


# What it is with numbers that levels make: other factors where it has some, else another matrix.
Quantiser: TypeAlias = Callable[[Fitted], Fitted]


@dataclass
class Quantising:
    """Quantises each layer at its grid (see `quantise.steps`), by weight; those that have none, or whose `gradients`
    are not known, to eight bits. It takes layers of one group, whose regression is not turned round (see `alone`). What
    it has made is `found`, by weight: factors by side, or the weight under "".
    All outputs of a weight that is `alike` have one scale."""

    grids: Mapping[str, float]
    gradients: Mapping[str, Gradients]
    alike: Collection[str] = ()
    found: dict[str, dict[str, Scaled]] = field(default_factory=dict)

    @staticmethod
    def alone(regression: Regression) -> bool:
        """Whether it takes a layer: all its outputs read all its inputs, from which there is one matrix to them."""
        return regression.groups == 1 and not transposed(regression.call)

    def __call__(self, fitted: Fitted) -> Fitted:
        regression, layer = fitted.regression, fitted.regression.layer
        grid, gradients = self.grids.get(layer.weight), self.gradients.get(layer.weight)
        alike, (matrix,), (normal,) = layer.weight in self.alike, fitted.matrix, fitted.normal
        if fitted.factors is not None and gradients is not None:
            several = layers.pair_of(layer, matrix, fitted.factors, normal, gradients, grid or 0.0, alike)
            self.found[layer.weight] = several
            return replace(fitted, factors={side: each.numbers() for side, each in several.items()})
        known = gradients if grid is not None else None
        made = layers.whole_of(layer, matrix, normal, known, grid or 0.0, alike)
        self.found[layer.weight] = {"": made}
        return replace(fitted, matrix=regression.matrix(made.numbers()))
