"""Budget → plan: a rank for every layer.

All plans of a master lie on one path: it starts with every layer at its smallest rank and adds one
basis at a time, the most important first, until every layer is dense again. A plan is a prefix of
that path, so a smaller budget's ranks are never above a larger one's, and finding one is a binary
search over running totals. Where zero channels were removed (see `sparsity`), the path leads to the
smaller network, and the network as uploaded is one step more.

A layer at its break-even rank turns dense with its next step. That step costs at most m+n numbers,
like any other, so what a plan leaves of its budget is less than the cost of one basis.

Needs numpy only, so that a web process can plan without loading torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.criteria import Importance
from models.emit.template import Template
from models.emit.torchscript import Script
from models.errors import BudgetError
from models.layers import Layer

COMMON = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1)
DENSE = 0


@dataclass(frozen=True)
class Plan:
    """A rank for every layer that can be cut, in the template's order; 0 (`DENSE`) leaves one whole.

    `params` counts all parameters of the variant, `macs` its convolutions and linear layers for one
    sample, `bytes` is the exact size of its TorchScript file, `budget` = params / original params.
    `original` is the network as uploaded; where zero channels were removed, all layers dense without that
    is the smaller network (`reduced`). `digest` is the plan's identity within its model.
    """

    ranks: tuple[int, ...]
    params: int
    macs: int
    bytes: int
    budget: float
    original: bool

    @cached_property
    def digest(self) -> str:
        identity = [*self.ranks, "reduced"] if self.reduced else self.ranks
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]

    @property
    def reduced(self) -> bool:
        return not self.original and not any(self.ranks)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ranks": list(self.ranks), "digest": self.digest}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        ranks = tuple(data["ranks"])
        return Plan(ranks, data["params"], data["macs"], data["bytes"], data["budget"], data["original"])


@dataclass(frozen=True)
class Growth:
    """The order in which bases are added: for each step the layer (index) that grows, and the floor."""

    floor: NDArray[np.int32]
    steps: NDArray[np.int32]


def order(layers: Sequence[Layer], importance: Importance) -> Growth:
    """The path that a criterion's importance asks for.

    Within a layer importance counts as never rising: bases are kept in order, so one that
    follows a weaker one waits for it.
    """
    floor = np.array(
        [_floor(layer, values) for layer, values in zip(layers, importance, strict=True)], dtype=np.int32
    )
    owners, worth = [], []
    for index, (layer, values) in enumerate(zip(layers, importance, strict=True)):
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


class Planner:
    """Answers budgets for one master. Opening reads two small files; each answer takes microseconds."""

    def __init__(self, template: Template, path: Growth, importance: Importance) -> None:
        self.template = template
        self._path = path
        self._importance = importance
        self._layers = layers = template.decomposed
        widths = np.array([layer.m + layer.n for layer in layers], dtype=np.int64)
        positions = np.array([layer.positions for layer in layers], dtype=np.int64)
        full = np.array([layer.break_even + 1 for layer in layers], dtype=np.int64)
        dense = np.array([layer.params for layer in layers], dtype=np.int64)
        self._full = full
        floor = path.floor.astype(np.int64)
        start = np.where(floor == full, dense, floor * widths)
        steps = path.steps
        level = np.zeros(steps.size, dtype=np.int64)
        for index in range(len(layers)):
            mine = steps == index
            level[mine] = floor[index] + 1 + np.arange(int(mine.sum()))
        jump = dense - (full - 1) * widths
        cost = np.where(level == full[steps], jump[steps], widths[steps]) if steps.size else level
        rest = template.params - int(dense.sum())
        rest_macs = template.macs - int((dense * positions).sum())
        self._params = np.concatenate([[0], np.cumsum(cost)]) + int(start.sum()) + rest
        self._macs = (
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
        self._bytes = np.concatenate([[0], np.cumsum(grown)]) + whole + start_bytes
        if (uploaded := template.uploaded) is not None:
            self._params = np.append(self._params, uploaded.params)
            self._macs = np.append(self._macs, uploaded.macs)
            self._bytes = np.append(self._bytes, Script(uploaded).sizes[0])

    @staticmethod
    def open(folder: Path) -> Planner:
        """The planner of the master in `folder` (reads `template.json` and `plans.npz`)."""
        template = Template.open(folder)
        with np.load(folder / "plans.npz", allow_pickle=False) as file:
            path = Growth(file["floor"], file["steps"])
            split = np.cumsum([layer.rank for layer in template.decomposed])[:-1]
            importance = np.split(file["importance"], split) if template.decomposed else []
        return Planner(template, path, importance)

    def plan(
        self,
        budget: float | None = None,
        *,
        of: Literal["params", "macs"] = "params",
        max_bytes: int | None = None,
        max_params: int | None = None,
        max_macs: int | None = None,
    ) -> Plan:
        """The largest plan within exactly one limit.

        `budget` is a fraction in (0, 1]: of the original's parameters *and* of its file, or with
        `of="macs"` of its MACs; the others are absolute. Raises BudgetError where even the smallest plan
        is above it, `nearest` being what that one needs.
        """
        if budget is not None:
            share = Decimal(repr(budget))
            limits = [(totals, math.floor(share * int(totals[-1]))) for totals in self._totals(of)]
            if (count := self._largest(*limits)) is None:
                raise _too_small(f"budget={budget:g}", self.least(of))
            return self._at(count)
        for name, limit, totals in (
            ("max_params", max_params, self._params),
            ("max_macs", max_macs, self._macs),
            ("max_bytes", max_bytes, self._bytes),
        ):
            if limit is not None:
                if (count := self._largest((totals, limit))) is None:
                    raise _too_small(f"{name}={limit}", int(totals.min()))
                return self._at(count)
        raise ValueError("one of budget, max_bytes, max_params, max_macs is needed")

    def least(self, of: Literal["params", "macs"] = "params") -> float:
        """The smallest budget that can be met, rounded up to six digits."""
        shares = [totals / max(int(totals[-1]), 1) for totals in self._totals(of)]
        return math.ceil(float(np.max(shares, axis=0).min()) * 10**6) / 10**6

    def common(self) -> list[float]:
        """The budgets worth measuring ahead of any request: those of a fixed list that can be met."""
        return [budget for budget in COMMON if budget >= self.least()]

    def importance(self) -> list[dict[str, Any]]:
        """For each layer that can be cut, its bases' importance (infinite: never cut, given as null)."""
        return [
            {
                "layer": layer.name,
                "rank": layer.rank,
                "importance": [value if math.isfinite(value) else None for value in values.tolist()],
            }
            for layer, values in zip(self._layers, self._importance, strict=True)
        ]

    @property
    def smallest(self) -> Plan:
        """The plan with the fewest parameters."""
        return self._at(0)

    def __len__(self) -> int:
        """How many different plans there are."""
        return int(self._params.size)

    def _totals(self, of: Literal["params", "macs"]) -> list[NDArray[np.int64]]:
        """What a budget is a fraction of: running totals along the path, the original's last."""
        return [self._macs] if of == "macs" else [self._params, self._bytes]

    @staticmethod
    def _largest(*limits: tuple[NDArray[np.int64], int]) -> int | None:
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

    def _at(self, count: int) -> Plan:
        grown = np.bincount(self._path.steps[:count], minlength=len(self._layers))
        levels = self._path.floor + grown
        ranks = tuple(np.where(levels >= self._full, DENSE, levels).tolist())
        params = int(self._params[count])
        return Plan(
            ranks=ranks,
            params=params,
            macs=int(self._macs[count]),
            bytes=int(self._bytes[count]),
            budget=params / self.template.original.params,
            original=count == len(self) - 1,
        )


def _too_small(asked: str, nearest: float) -> BudgetError:
    return BudgetError(
        f"{asked} is below what this model can be cut to.",
        f"The smallest that can be met is {nearest:g}.",
        nearest=nearest,
    )
