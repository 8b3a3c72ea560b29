"""The path along which all plans of a master lie: one basis more at each step, and running totals of sizes.

Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.criteria import Importance
from models.emit.template import Template
from models.emit.torchscript import Script
from models.layers import Layer

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
    multiply-accumulate instead: a parameter of a layer is used at each of its output positions.
    """
    floor = np.array(
        [_floor(layer, values) for layer, values in zip(layers, importance, strict=True)], dtype=np.int32
    )
    owners, worth = [], []
    for index, (layer, values) in enumerate(zip(layers, importance, strict=True)):
        values = values / layer.positions if per_mac else values
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

    def __init__(self, template: Template, growth: Growth) -> None:
        layers, self._growth = template.decomposed, growth
        widths = np.array([layer.m + layer.n for layer in layers], dtype=np.int64)
        positions = np.array([layer.positions for layer in layers], dtype=np.int64)
        full = np.array([layer.break_even + 1 for layer in layers], dtype=np.int64)
        dense = np.array([layer.params for layer in layers], dtype=np.int64)
        self._full = full
        floor = growth.floor.astype(np.int64)
        start = np.where(floor == full, dense, floor * widths)
        steps = growth.steps
        level = np.zeros(steps.size, dtype=np.int64)
        for index in range(len(layers)):
            mine = steps == index
            level[mine] = floor[index] + 1 + np.arange(int(mine.sum()))
        jump = dense - (full - 1) * widths
        cost = np.where(level == full[steps], jump[steps], widths[steps]) if steps.size else level
        rest = template.params - int(dense.sum())
        rest_macs = template.macs - int((dense * positions).sum())
        self.params = np.concatenate([[0], np.cumsum(cost)]) + int(start.sum()) + rest
        self.macs = (
            np.concatenate([[0], np.cumsum(cost * (positions[steps] if steps.size else 1))])
            + int((start * positions).sum())
            + rest_macs
        )
        whole, tables = Script(template).sizes
        # Of each layer the bytes at ranks 1, 2, … up to break-even, and then dense.
        by_level = [np.concatenate([table[1:], table[:1]]) for table in tables]
        grown = np.zeros(steps.size, dtype=np.int64)
        for index, table in enumerate(by_level):
            grown[steps == index] = np.diff(table)[floor[index] - 1 :]
        start_bytes = sum(int(table[least - 1]) for table, least in zip(by_level, floor.tolist(), strict=True))
        self.bytes = np.concatenate([[0], np.cumsum(grown)]) + whole + start_bytes
        if (uploaded := template.uploaded) is not None:
            self.params = np.append(self.params, uploaded.params)
            self.macs = np.append(self.macs, uploaded.macs)
            self.bytes = np.append(self.bytes, Script(uploaded).sizes[0])

    def __len__(self) -> int:
        return int(self.params.size)

    def ranks(self, count: int) -> tuple[int, ...]:
        """The rank of every layer after `count` steps; 0 (`DENSE`) where it is whole."""
        levels = self._growth.floor + np.bincount(self._growth.steps[:count], minlength=self._full.size)
        return tuple(np.where(levels >= self._full, DENSE, levels).tolist())

    @staticmethod
    def largest(*limits: tuple[NDArray[np.int64], int]) -> int | None:
        """The last step of the path at which every total is within its limit, if there is one.

        Parameters and MACs only grow along the path; bytes can shrink a little where a layer turns dense. The
        last step within each limit is never lower for a higher limit, so plans stay nested.
        """
        count = min(
            int(np.searchsorted(np.minimum.accumulate(totals[::-1])[::-1], limit, side="right")) - 1
            for totals, limit in limits
        )
        while count >= 0 and any(totals[count] > limit for totals, limit in limits):
            count -= 1
        return None if count < 0 else count
