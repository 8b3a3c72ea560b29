"""What of a program computes with levels of eight bits where its files are to: decided once, at ingest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Integers:
    """`layers`, by their weights, that multiply levels by levels, whole or cut, in the order of the template; none
    where it would have hurt too much. `grids` has the values that are rounded between calls, each with the value whose
    range it has: what only moves numbers leaves them on the grid that they were on. `knots` are the sizes, in
    parameters, at which ranges were looked at, the whole program's first; a plan has those of the nearest.
    """

    layers: tuple[str, ...]
    grids: Mapping[str, str]
    knots: tuple[int, ...] = ()

    def nearest(self, params: int) -> int:
        """The knot, by its index, whose size is nearest in ratio to `params`."""
        return min(range(len(self.knots)), key=lambda index: abs(math.log(self.knots[index] / params)))

    def to_json(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "grids": dict(self.grids), "knots": list(self.knots)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Integers:
        return Integers(tuple(data["layers"]), data["grids"], tuple(data["knots"]))
