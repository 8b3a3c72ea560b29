"""The path along which all plans of a master lie: one basis more at each step, and running totals of sizes.

Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.format import Sizes
from rightrank.models.factor.layer import Layer
from rightrank.models.master.template import Template
from rightrank.models.plan.criteria import Importance

DENSE = 0


@dataclass(frozen=True)
class Growth:
    """The order in which bases are added: for each step the layer (index) that grows, and the floor."""

    floor: NDArray[np.int32]
    steps: NDArray[np.int32]


def order(layers: Sequence[Layer], importance: Importance, per_mac: bool = False) -> Growth:
    """The path that a criterion's importance asks for.

    Within a layer importance counts as never rising: bases are kept in order, so one that
    follows a weaker one waits for it. With `per_mac` an importance that is said per parameter is taken per
    multiply-accumulate instead: a parameter of a layer is used at each of its output positions. A layer that takes no
    fewer of them cut than whole, as an embedding does, then comes first.
    """
    floor = np.array([_floor(layer, values) for layer, values in zip(layers, importance, strict=True)], dtype=np.int32)
    owners, worth = [], []
    for index, (layer, values) in enumerate(zip(layers, importance, strict=True)):
        if per_mac:
            values = values * layer.params_of_basis / layer.macs_of_basis
            values = np.full(values.size, np.inf) if layer.macs_by_rank[0] >= layer.macs else values
        steps = np.minimum.accumulate(values[: layer.break_even + 1])[floor[index] :]
        if floor[index] <= layer.break_even:
            owners.append(np.full(steps.size, index, dtype=np.int32))
            worth.append(steps)
    if not owners:
        return Growth(floor, np.zeros(0, dtype=np.int32))
    by_worth = np.argsort(-np.concatenate(worth), kind="stable")
    return Growth(floor, np.concatenate(owners)[by_worth])


def _floor(layer: Layer, values: NDArray[np.float64]) -> int:
    """The fewest bases kept: those of infinite importance, at least one; above break-even, all of them."""
    kept = max(1, int(np.isinf(values).sum()))
    return kept if kept <= layer.break_even else layer.break_even + 1


class PlanPath:
    """A growth with, for every step, the whole variant's `params`, `macs` and file `bytes`; the last step is the
    network as uploaded."""

    def __init__(self, template: Template, growth: Growth, sizes: Sizes, original: int | None) -> None:
        """`sizes` are those of the files that are planned for, `original` the bytes of the network as it came; None
        where the last step is no more than all layers dense."""
        layers, self._growth = template.decomposed, growth
        self._full = np.array([layer.break_even + 1 for layer in layers], dtype=np.int64)
        floor, steps = growth.floor.tolist(), growth.steps

        def totals(whole: int, tables: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
            """Along the path, of a network that has `whole` with every layer dense; of each layer what it has at
            ranks 1, 2, … up to break-even, and then dense."""
            grown = np.zeros(steps.size, dtype=np.int64)
            for index, table in enumerate(tables):
                grown[steps == index] = np.diff(table)[floor[index] - 1 :]
            start = sum(int(table[least - 1]) - int(table[-1]) for table, least in zip(tables, floor, strict=True))
            return np.asarray(np.concatenate([[0], np.cumsum(grown)]) + whole + start)

        self.params = totals(template.params, [np.append(x.params_by_rank[: x.break_even], x.params) for x in layers])
        self.macs = totals(template.macs, [np.append(x.macs_by_rank[: x.break_even], x.macs) for x in layers])
        self.bytes = totals(sizes.whole, [np.concatenate([table[1:], table[:1]]) for table in sizes.tables])
        for text in sizes.texts:
            bits = totals(
                text.bits, [np.append(np.full(x.break_even, m[1]), 0) for x, m in zip(layers, text.more, strict=True)]
            )
            self.bytes += (bits + 7) // 8 - (text.bits + 7) // 8
        if original is None:
            return
        if template.uploaded is None:
            self.bytes[-1] = original
        else:
            self.params = np.append(self.params, template.uploaded.params)
            self.macs = np.append(self.macs, template.uploaded.macs)
            self.bytes = np.append(self.bytes, original)

    def __len__(self) -> int:
        return int(self.params.size)

    def ranks(self, count: int) -> tuple[int, ...]:
        """The rank of every layer after `count` steps; 0 (`DENSE`) where it is whole."""
        levels = self._growth.floor + np.bincount(self._growth.steps[:count], minlength=self._full.size)
        return tuple(np.where(levels >= self._full, DENSE, levels).tolist())

    def grids(self, count: int) -> tuple[str, ...]:
        """None: numbers are no levels."""
        return ()

    @staticmethod
    def largest(*limits: tuple[NDArray[np.int64], int]) -> int | None:
        """The last step of the path at which every total is within its limit, if there is one.

        Parameters only grow along the path; bytes can shrink a little where a layer turns dense, and MACs where that
        one was in the spatial form. The last step within each limit is never lower for a higher limit, so plans stay
        nested.
        """
        count = min(
            int(np.searchsorted(np.minimum.accumulate(totals[::-1])[::-1], limit, side="right")) - 1
            for totals, limit in limits
        )
        while count >= 0 and any(totals[count] > limit for totals, limit in limits):
            count -= 1
        return None if count < 0 else count
