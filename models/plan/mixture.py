"""The path along which plans lie that mix ranks and steps: what each layer is written as, and in which order it grows.

Each layer has *states*: whole at a grid of levels, or cut to a rank at one, the smallest first. They are those on the
lower convex hull of what a state costs in bytes and what it loses, in the unit of the importance. Along the path one
layer after the other takes its next state, the one that saves most for each byte first: a Lagrangian over ranks and
steps at once.

Coarser steps save bytes and nothing else. Where parameters or MACs are limited and not the file, every rank is there at
the finest grid, too, and layers grow as they do where numbers are as they came (see `path`). Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.format import Sizes
from rightrank.models.master.template import Template
from rightrank.models.plan.options import Options
from rightrank.models.plan.path import Growth

MIXTURE = "mixture.npz"


class State(NamedTuple):
    """A layer at a `rank` (0: whole) and a grid (its number), of so many `bytes` of coded levels, packed so; what it
    takes of a file in all, about, and what it loses."""

    rank: int
    grid: int
    packing: int
    bytes: int
    cost: int
    loss: float


class Table(NamedTuple):
    """States of every layer that can be cut, one after the other in `states` (S, 4): rank, grid, packing, bytes; what
    each `loses` (S,), and `counts` (L,), how many a layer has."""

    states: NDArray[np.int64]
    loses: NDArray[np.float64]
    counts: NDArray[np.int64]

    @staticmethod
    def of(layers: Sequence[Sequence[State]]) -> Table:
        every = [state for states in layers for state in states]
        table = np.array([state[:4] for state in every], dtype=np.int64).reshape(-1, 4)
        counts = np.array([len(states) for states in layers], dtype=np.int64)
        return Table(table, np.array([state.loss for state in every], dtype=float), counts)

    def of_layers(self) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Each layer's states, (k, 4), and what they lose, (k,)."""
        ends = np.cumsum(self.counts)[:-1]
        several = (np.split(self.states, ends), np.split(self.loses, ends)) if len(self.counts) else ([], [])
        return list(zip(*several, strict=True))


@dataclass(frozen=True)
class Mixture:
    """The states of every layer on its hull, `table`; `steps` the order in which layers grow, by index; `fixed` the
    bytes of the levels of weights that are never cut; `grids` the names of grids, each twice as coarse as that before,
    and `finest` (L,) the first of each layer (see `quantise.steps`). `ladder` has every rank of each layer from 1 up,
    and last the whole, at its finest grid, or the whole alone; None in what was published before there was one."""

    table: Table
    steps: NDArray[np.int32]
    fixed: int
    grids: tuple[str, ...]
    finest: NDArray[np.float64]
    ladder: Table | None = None

    @staticmethod
    def of(
        layers: Sequence[Sequence[State]],
        fixed: int,
        grids: Sequence[str],
        finest: Sequence[float],
        ladder: Sequence[Sequence[State]] | None = None,
    ) -> Mixture:
        """The path over all that layers can be, of states in any order."""
        options = [
            Options(*(np.array([state[at] for state in states], dtype=float) for at in (4, 5))) for states in layers
        ]
        hulls = [[states[at] for at in each.hull] for states, each in zip(layers, options, strict=True)]
        gains = np.concatenate([np.zeros(0), *(each.gains for each in options)])
        owners = np.repeat(np.arange(len(layers)), [len(each) - 1 for each in hulls])
        steps = owners[np.argsort(-gains, kind="stable")].astype(np.int32)
        ranks = None if ladder is None else Table.of(ladder)
        return Mixture(Table.of(hulls), steps, fixed, tuple(grids), np.array(finest, dtype=float), ranks)

    def along(self, growth: Growth) -> Mixture | None:
        """Every layer at its finest grid, growing by ranks; None without a `ladder`."""
        if self.ladder is None:
            return None
        cut = self.ladder.counts > 1
        first = np.where(cut, growth.floor - 1, 0)
        starts = np.cumsum(self.ladder.counts) - self.ladder.counts
        place = np.arange(len(self.ladder.states)) - np.repeat(starts, self.ladder.counts)
        kept = place >= np.repeat(first, self.ladder.counts)
        table = Table(self.ladder.states[kept], self.ladder.loses[kept], self.ladder.counts - first)
        return replace(self, table=table, steps=growth.steps[cut[growth.steps]])

    def bytes(self, at: int, rank: int, grid: int) -> int:
        """What the levels of a layer take at a rank and a grid."""
        for table in (self.table, *([] if self.ladder is None else [self.ladder])):
            states, _ = table.of_layers()[at]
            found = states[(states[:, 0] == rank) & (states[:, 1] == grid), 3]
            if len(found):
                return int(found[0])
        raise ValueError(f"no plan has the rank {rank} at the grid {grid}")

    def save(self, folder: Path) -> None:
        several: dict[str, Any] = {"states": self.table.states, "counts": self.table.counts, "steps": self.steps}
        several |= {"fixed": np.array(self.fixed), "grids": np.array(self.grids), "finest": self.finest}
        several |= {"loses": self.table.loses}
        if self.ladder is not None:
            several |= {f"ladder_{name}": array for name, array in self.ladder._asdict().items()}
        np.savez(folder / MIXTURE, **several)

    @staticmethod
    def open(folder: Path) -> Mixture:
        """Raises FileNotFoundError for a master without levels."""
        with np.load(folder / MIXTURE, allow_pickle=False) as file:
            grids = tuple(map(str, file["grids"].tolist()))
            loses = file["loses"] if "loses" in file else np.zeros(len(file["states"]))
            ladder = Table(*(file[f"ladder_{name}"] for name in Table._fields)) if "ladder_states" in file else None
            table = Table(file["states"], loses, file["counts"])
            return Mixture(table, file["steps"], int(file["fixed"]), grids, file["finest"], ladder)


class MixedPath:
    """A mixture with, for every step, the whole variant's `params`, `macs` and file `bytes`."""

    def __init__(self, template: Template, mixture: Mixture, sizes: Sizes) -> None:
        """`sizes` are those of files without their coded levels."""
        self._mixture, self._states = mixture, [states for states, _ in mixture.table.of_layers()]
        layers, steps = template.decomposed, mixture.steps

        def totals(whole: int, tables: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
            """Along the path, of a network that has `whole` but for what each layer's states have."""
            grown = np.zeros(steps.size, dtype=np.int64)
            for index, table in enumerate(tables):
                grown[steps == index] = np.diff(table)
            start = whole + sum(int(table[0]) for table in tables)
            return np.asarray(np.concatenate([[0], np.cumsum(grown)]) + start)

        by_rank = [
            (np.append(layer.params, layer.params_by_rank), np.append(layer.macs, layer.macs_by_rank))
            for layer in layers
        ]
        ranks = [states[:, 0] for states in self._states]
        params = [table[0][rank] for table, rank in zip(by_rank, ranks, strict=True)]
        macs = [table[1][rank] for table, rank in zip(by_rank, ranks, strict=True)]
        self.params = totals(template.params - sum(layer.params for layer in layers), params)
        self.macs = totals(template.macs - sum(layer.macs for layer in layers), macs)
        coded = [table[states[:, 0]] + states[:, 3] for table, states in zip(sizes.tables, self._states, strict=True)]
        self.bytes = totals(sizes.whole + mixture.fixed, coded)
        for text in sizes.texts:
            packings = len(text.more[0]) // 2 if text.more else 1
            kinds = [(states[:, 0] > 0) * packings + states[:, 2] for states in self._states]
            bits = totals(text.bits, [np.asarray(more)[kind] for more, kind in zip(text.more, kinds, strict=True)])
            self.bytes += (bits + 7) // 8 - (text.bits + 7) // 8
        self._layers_lose = [loses for _, loses in mixture.table.of_layers()]

    def loses(self, count: int) -> float:
        """What the states lose after `count` steps, in the unit of the importance."""
        return sum(float(loses[at]) for loses, at in zip(self._layers_lose, self._taken(count), strict=True))

    def __len__(self) -> int:
        return int(self.params.size)

    def _taken(self, count: int) -> NDArray[np.int64]:
        """How many steps each layer has taken."""
        return np.bincount(self._mixture.steps[:count], minlength=len(self._states))

    def _at(self, count: int) -> NDArray[np.int64]:
        taken = self._taken(count)
        return np.array([states[at] for states, at in zip(self._states, taken, strict=True)]).reshape(-1, 4)

    def ranks(self, count: int) -> tuple[int, ...]:
        """The rank of every layer after `count` steps; 0 where it is whole."""
        return tuple(self._at(count)[:, 0].tolist())

    def grids(self, count: int) -> tuple[str, ...]:
        """The grid that each layer's levels are of."""
        return tuple(self._mixture.grids[grid] for grid in self._at(count)[:, 1].tolist())
