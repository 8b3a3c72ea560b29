"""What of a program computes with levels of eight bits where its files are to: decided once, at ingest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Integers:
    """`layers`, by their weights, that multiply levels by levels, whole or cut, in the order of the template; none
    where it would have hurt too much. `grids` has the values that are rounded between calls, each with the value whose
    range it has: what only moves numbers leaves them on the grid that they were on. `knots` are the sizes, in
    parameters, at which ranges were looked at, the whole program's first and the smallest's last; a plan's ranges hold
    those of the two between which it lies.
    """

    layers: tuple[str, ...]
    grids: Mapping[str, str]
    knots: tuple[int, ...] = ()

    def around(self, params: int) -> tuple[int, ...]:
        """The knots, by their indices, between which a size of so many parameters lies; one where it is of that size,
        or beyond all."""
        larger = [index for index, knot in enumerate(self.knots) if knot >= params]
        smaller = [index for index, knot in enumerate(self.knots) if knot <= params]
        return tuple(dict.fromkeys((*larger[-1:], *smaller[:1])))

    def to_json(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "grids": dict(self.grids), "knots": list(self.knots)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Integers:
        return Integers(tuple(data["layers"]), data["grids"], tuple(data["knots"]))
