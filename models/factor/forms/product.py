"""The product form: two factors, multiplied out before the call that is handed what they make."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.factor.forms.channel import Channel
from rightrank.models.factor.layer import Layer, Shape, factor_value
from rightrank.models.program.calls import PRODUCT, Call, Handed
from rightrank.models.program.graph import Node


class Multiplied(Channel):
    """`W ∈ R^{n×m}` that a recurrent call multiplies by inside itself, as `down` (R, m) and `up` (n, R).

    Parameters and the file get smaller. The call itself multiplies by W as before, and to make W takes R·m·n more
    multiply-accumulates, once a call: they are counted as for a sample that comes alone.
    """

    name = "product"

    def fits(self, call: Call, shape: Shape) -> str:
        return "" if isinstance(call, Handed) and len(shape) == 2 else "no other call multiplies by it inside itself"

    def positions(self, given: Shape, made: Shape, call: Call) -> tuple[int, ...]:
        return (math.prod(given[:-1]),)

    def macs(self, layer: Layer) -> NDArray[np.int64]:
        made = layer.params * np.arange(1, layer.rank + 1, dtype=np.int64)
        return layer.macs + made * len(layer.calls)

    def shapes(self, layer: Layer, rank: Any) -> tuple[tuple[Any, ...], ...]:
        return (rank, layer.inputs), (layer.outputs, rank)

    def calls(self, layer: Layer, node: Node) -> tuple[Node, ...]:
        down, up = (factor_value(layer, side) for side in self.sides)
        return (dataclasses.replace(node, op=PRODUCT, args=(up, down)),)
