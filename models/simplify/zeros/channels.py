"""What is known of a value's channels, and which channels can only go together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """The channels of a value, one entry for each index along `axis` (never the batch, axis 0).

    `units` (int64) says which unit an index belongs to: all that belongs to a unit is removed together.
    Where `known`, the index has the one value `values` (double) at every position of every sample.
    """

    axis: int
    units: Tensor
    known: Tensor
    values: Tensor

    @staticmethod
    def unknown(axis: int, units: Tensor) -> Channels:
        return Channels(axis, units, torch.zeros(len(units), dtype=torch.bool), torch.zeros(len(units)).double())

    def at(self, axis: int) -> Channels:
        return Channels(axis, self.units, self.known, self.values)

    def take(self, axis: int, index: Tensor) -> Channels:
        """The channels in another order, perhaps repeated."""
        return Channels(axis, self.units[index], self.known[index], self.values[index])

    def only(self, condition: Tensor) -> Channels:
        """The same, where only what also meets `condition` stays known."""
        return Channels(self.axis, self.units, self.known & condition, self.values)


class Units:
    """Units as sets that grow together; a pinned unit has to stay, for the first reason that was given."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._pins: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def root(self, unit: int) -> int:
        while self._parents[unit] != unit:
            self._parents[unit] = self._parents[self._parents[unit]]
            unit = self._parents[unit]
        return unit

    def roots(self, units: Tensor) -> list[int]:
        return [self.root(unit) for unit in units.tolist()]

    def tie(self, one: Tensor, other: Tensor) -> None:
        """The units at equal positions become one."""
        for a, b in zip(self.roots(one), self.roots(other), strict=True):
            a, b = self.root(a), self.root(b)
            if a != b:
                self._parents[b] = a
                if b in self._pins:
                    self._pins.setdefault(a, self._pins.pop(b))

    def pin(self, units: Iterable[int], reason: str) -> None:
        for unit in units:
            self._pins.setdefault(self.root(unit), reason)

    def pinned(self, unit: int) -> str | None:
        """Why the unit has to stay, or None where nothing speaks against its removal."""
        return self._pins.get(self.root(unit))
