"""Budget → plan: a rank for every layer.

All plans of a master for a limit of one kind lie on one path: it starts with every layer at its smallest
rank and adds one basis at a time, the most important first, until every layer is dense again. What is worth
most per parameter is not what is worth most per multiply-accumulate, so there may be a path for each. A plan is
a prefix of its path, so a smaller budget's ranks are never above a larger one's, and finding one is a binary
search over running totals. Where computed weights were stored or zero channels removed (see
`master`), the path leads to that network, and the network as uploaded is one step more.

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

from rightrank.models.emit import formats
from rightrank.models.emit.format import FIRST, Output
from rightrank.models.errors import BudgetError
from rightrank.models.master import entries
from rightrank.models.master.template import Template
from rightrank.models.plan.criteria import Importance
from rightrank.models.plan.path import Growth, PlanPath

COMMON = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Plan:
    """A rank for every layer that can be cut, in the template's order; 0 (`DENSE`) leaves one whole.

    `params` counts all parameters of the variant, `macs` its convolutions and linear layers for one
    sample, `bytes` is the size of its file, written as `output` says, `budget` = params / original params.
    `original` is the network as uploaded; where computed weights were stored or zero channels removed, all
    layers dense without that is the network that is left (`reduced`). `digest` is the plan's identity within
    its model.
    """

    ranks: tuple[int, ...]
    params: int
    macs: int
    bytes: int
    budget: float
    original: bool
    output: Output = FIRST

    @cached_property
    def digest(self) -> str:
        identity: list[Any] = [*self.ranks, "reduced"] if self.reduced else [*self.ranks]
        identity += [] if self.output == FIRST else [self.output.to_json()]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]

    @property
    def reduced(self) -> bool:
        return not self.original and not any(self.ranks)

    def to_json(self) -> dict[str, Any]:
        """What is not the `FIRST` output is named; before there were others, none was."""
        found = {**asdict(self), "ranks": list(self.ranks), "digest": self.digest}
        if self.output == FIRST:
            del found["output"]
        return found

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        output = Output(**data["output"]) if "output" in data else FIRST
        ranks = tuple(data["ranks"])
        return Plan(ranks, data["params"], data["macs"], data["bytes"], data["budget"], data["original"], output)


class Planner:
    """Answers budgets for one master. Opening reads two small files; each answer takes microseconds."""

    def __init__(
        self,
        template: Template,
        growth: Growth,
        importance: Importance,
        by_macs: Growth | None = None,
        output: Output = FIRST,
    ) -> None:
        """`growth` is the order of bases by what they are worth per parameter, `by_macs` per multiply-accumulate,
        where that is another one; `output` is what plans are written as."""
        self.template, self.output = template, output
        sizes, uploaded = formats.writer_of(template, output).sizes(), 0
        if template.uploaded is not None:
            uploaded = formats.writer_of(template.uploaded, output).sizes().whole
        self._path = PlanPath(template, growth, sizes, uploaded)
        self._path_by_macs = PlanPath(template, by_macs, sizes, uploaded) if by_macs else self._path
        self._importance = importance

    @staticmethod
    def open(folder: Path, output: Output = FIRST) -> Planner:
        """The planner of the master in `folder` (reads its template and its plans), for files of one kind. Raises
        UnreadableMaster for what is of another version."""
        template = Template.open(folder)
        with np.load(folder / entries.PLANS, allow_pickle=False) as file:
            growth = Growth(file["floor"], file["steps"])
            by_macs = Growth(file["floor"], file["steps_by_macs"]) if "steps_by_macs" in file else None
            split = np.cumsum([layer.rank for layer in template.decomposed])[:-1]
            importance = np.split(file["importance"], split) if template.decomposed else []
        # A tuned master knows the batch norms along one path only.
        return Planner(template, growth, importance, None if template.tuned else by_macs, output)

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
            path, totals = self._budgeted(of)
            share = Decimal(repr(float(budget)))
            count = path.largest(*((each, math.floor(share * int(each[-1]))) for each in totals))
            if count is None:
                raise _too_small(f"budget={budget:g}", self.least(of))
            return self._at(count, path)
        for name, limit, path, total in (
            ("max_params", max_params, self._path, self._path.params),
            ("max_macs", max_macs, self._path_by_macs, self._path_by_macs.macs),
            ("max_bytes", max_bytes, self._path, self._path.bytes),
        ):
            if limit is not None:
                if (count := path.largest((total, limit))) is None:
                    raise _too_small(f"{name}={limit}", int(total.min()))
                return self._at(count, path)
        raise ValueError("one of budget, max_bytes, max_params, max_macs is needed")

    def least(self, of: Literal["params", "macs"] = "params") -> float:
        """The smallest budget that can be met, rounded up to six digits."""
        shares = [totals / max(int(totals[-1]), 1) for totals in self._budgeted(of)[1]]
        return math.ceil(float(np.max(shares, axis=0).min()) * 10**6) / 10**6

    def possible(self, budgets: Sequence[float] = COMMON) -> list[float]:
        """Those of a list of budgets, of parameters, that can be met."""
        least = self.least()
        return [budget for budget in budgets if budget >= least]

    def importance(self) -> list[dict[str, Any]]:
        """For each layer that can be cut, its bases' importance (infinite: never cut, given as null)."""
        return [
            {
                "layer": layer.name,
                "rank": layer.rank,
                "importance": [value if math.isfinite(value) else None for value in values.tolist()],
            }
            for layer, values in zip(self.template.decomposed, self._importance, strict=True)
        ]

    @property
    def smallest(self) -> Plan:
        """The plan with the fewest parameters."""
        return self._at(0)

    def __len__(self) -> int:
        """How many different plans there are by parameters."""
        return len(self._path)

    def _budgeted(self, of: Literal["params", "macs"]) -> tuple[PlanPath, list[NDArray[np.int64]]]:
        """The path of a kind of budget, and the totals along it that the budget is a fraction of."""
        path = self._path_by_macs if of == "macs" else self._path
        return path, [path.macs] if of == "macs" else [path.params, path.bytes]

    def _at(self, count: int, path: PlanPath | None = None) -> Plan:
        path = path or self._path
        params = int(path.params[count])
        return Plan(
            ranks=path.ranks(count),
            params=params,
            macs=int(path.macs[count]),
            bytes=int(path.bytes[count]),
            budget=params / self.template.original.params,
            original=count == len(path) - 1,
            output=self.output,
        )


def _too_small(asked: str, nearest: float) -> BudgetError:
    return BudgetError(
        f"{asked} is below what this model can be cut to.",
        f"The smallest that can be met is {nearest if isinstance(nearest, int) else f'{nearest:g}'}.",
        nearest=nearest,
    )
