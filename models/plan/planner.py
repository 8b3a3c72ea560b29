"""Budget → plan: a rank for every layer.

All plans of a master for a limit of one kind lie on one path: it starts with every layer at its smallest
rank and adds one basis at a time, the most important first, until every layer is dense again. What is worth
most per parameter is not what is worth most per multiply-accumulate, so there may be a path for each (for limits
of both kinds at once see `Planner.plan`). A plan is a prefix of its path, so a smaller budget's ranks are never
above a larger one's, and finding one is a binary search over running totals. Where computed weights were stored or
zero channels removed (see `master`), the path leads to that network, and the network as uploaded is one step more.
Where ranks and steps are mixed (see `mixture`), bytes have a path of their own, on which a layer may also go from a
rank at fine steps to the whole at coarser ones.

A layer at its break-even rank turns dense with its next step. That step costs at most m+n numbers,
like any other, so what a plan leaves of its budget is less than the cost of one basis.

Needs numpy only, so that a web process can plan without loading torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit import formats
from rightrank.models.emit.format import FIRST, Output
from rightrank.models.errors import BudgetError, PrecisionError
from rightrank.models.master import entries
from rightrank.models.master.template import Template
from rightrank.models.plan.criteria import Importance
from rightrank.models.plan.mixture import MIXTURE, MixedPath, Mixture
from rightrank.models.plan.path import Growth, PlanPath

COMMON = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1)
Of: TypeAlias = Literal["params", "macs"]
UPLOAD_AGAIN = "Ask for another precision, or delete the model and upload it again."
# What a budget is a share of.
BUDGETED: Mapping[Of, Sequence[str]] = {"params": ("params", "bytes"), "macs": ("macs",)}


@dataclass(frozen=True)
class Plan:
    """A rank for every layer that can be cut, in the template's order; 0 (`DENSE`) leaves one whole.

    `params` counts all parameters of the variant, `macs` those of its layers for one
    sample, `bytes` is the size of its file, written as `output` says, `budget` = params / original params.
    `original` is the network as uploaded, bit for bit; where computed weights were stored or zero channels removed,
    all layers dense without that is the network that is left (`reduced`), and so is it where the output is not exact.
    `digest` is the plan's identity within its model.
    """

    ranks: tuple[int, ...]
    params: int
    macs: int
    bytes: int
    budget: float
    original: bool
    output: Output = FIRST
    grids: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        identity: list[Any] = [*self.ranks, "reduced"] if self.reduced else [*self.ranks]
        identity += [] if self.output == FIRST else [self.output.to_json()]
        identity += [list(self.grids)] if self.grids else []
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]

    @property
    def reduced(self) -> bool:
        return not self.original and not any(self.ranks)

    def to_json(self) -> dict[str, Any]:
        """What is not the `FIRST` output is named; before there were others, none was."""
        found = {**asdict(self), "ranks": list(self.ranks), "digest": self.digest}
        if self.output == FIRST:
            del found["output"]
        if not self.grids:
            del found["grids"]
        return found

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Plan:
        output = Output(**data["output"]) if "output" in data else FIRST
        ranks, grids = tuple(data["ranks"]), tuple(data.get("grids", ()))
        return Plan(ranks, data["params"], data["macs"], data["bytes"], data["budget"], data["original"], output, grids)


@dataclass(frozen=True)
class Limit:
    """A limit as it is `asked`, and by quantity (params, macs, bytes) the `most` that a plan within it has; of a budget
    also what the `original` has, of which it is a share, and what lies `beside` that in every file."""

    name: str
    asked: str
    most: Mapping[str, int]
    original: Mapping[str, int] = field(default_factory=dict)
    beside: Mapping[str, int] = field(default_factory=dict)

    @property
    def quantity(self) -> str:
        """What says on which path its plans lie: "params", "macs" or "bytes"."""
        return next(iter(self.most))

    def holds(self, plan: Plan) -> bool:
        return all(getattr(plan, quantity) <= most for quantity, most in self.most.items())

    def met(self, path: PlanPath | MixedPath) -> NDArray[np.bool_]:
        """For every step of a path whether it is within."""
        return np.asarray(np.all([getattr(path, quantity) <= most for quantity, most in self.most.items()], axis=0))

    def least(self, path: PlanPath | MixedPath, where: NDArray[np.bool_]) -> float:
        """The lowest that it could be for one of the steps `where` of a path to meet it, a budget rounded up to six
        digits."""
        totals = {quantity: getattr(path, quantity)[where] for quantity in self.most}
        if not self.original:
            return int(next(iter(totals.values())).min())
        return self._share(np.max([self._of_original(name, total) for name, total in totals.items()], axis=0).min())

    def needed(self, plan: Plan) -> float:
        """The least that it would have to be for a plan to be within, a budget rounded up to six digits."""
        totals = {quantity: int(getattr(plan, quantity)) for quantity in self.most}
        if not self.original:
            return max(totals.values())
        return self._share(max(self._of_original(name, total) for name, total in totals.items()))

    def _of_original(self, quantity: str, total: Any) -> Any:
        return (total - self.beside.get(quantity, 0)) / max(self.original[quantity], 1)

    @staticmethod
    def _share(exact: float) -> float:
        return math.ceil(float(exact) * 10**6) / 10**6


class Planner:
    """Answers budgets for one master. Opening reads two small files; each answer takes microseconds."""

    def __init__(
        self,
        template: Template,
        growth: Growth,
        importance: Importance,
        by_macs: Growth | None = None,
        output: Output = FIRST,
        mixture: Mixture | None = None,
        uploaded: int | None = None,
    ) -> None:
        """`growth` is the order of bases by what they are worth per parameter, `by_macs` per multiply-accumulate,
        where that is another one; `output` is what plans are written as, `mixture` the path of those of coded levels,
        where there are any, and `uploaded` the bytes of the network as it came, with numbers as they are and without a
        card, where that is known."""
        self.template, self.output, self.mixture = template, output, mixture
        self._growth, self._growth_by_macs, self._importance = growth, by_macs, importance
        self._path: PlanPath | MixedPath
        original = template.original
        # What a budget is a share of, whatever numbers are written as: its file has them as they are.
        if uploaded is None:
            whole = formats.writer_of(original, output.plain, original=True).sizes()
            uploaded = whole.whole - whole.card
        self._original = {"params": original.params, "macs": original.macs, "bytes": uploaded}
        # Only exact numbers give the network as it came, and have it for the last step.
        within = template if output.exact else replace(template, uploaded=None)
        self._within, sizes = within, formats.writer_of(within, output).sizes()
        self._sizes = sizes
        # A budget means the same with a card and without: it comes on top, or a small size had no room for it.
        self._beside = {"bytes": sizes.card} if sizes.card else {}
        if output.coded:
            if mixture is None:
                raise PrecisionError("The model has no levels: it was published before there were any.", UPLOAD_AGAIN)
            self._path = MixedPath(within, mixture, sizes)
            return
        self._last = None
        if output.exact:
            self._last = (
                formats.writer_of(original, output, original=True).sizes().whole
                if output != output.plain
                else uploaded + sizes.card
            )
        self._path = PlanPath(within, growth, sizes, self._last)

    @cached_property
    def _path_by_params(self) -> PlanPath | MixedPath:
        """That of limits of parameters: that of bytes, but where ranks and steps are mixed."""
        return self._along(self._growth) if self.output.coded else self._path

    @cached_property
    def _path_by_macs(self) -> PlanPath | MixedPath:
        """That of limits of MACs: where there is no growth of its own, that of parameters."""
        return self._along(self._growth_by_macs) if self._growth_by_macs else self._path_by_params

    def _along(self, growth: Growth) -> PlanPath | MixedPath:
        """The path of a growth by ranks; what was published before there was one of levels has that of bytes."""
        if not self.output.coded:
            return PlanPath(self._within, growth, self._sizes, self._last)
        assert self.mixture is not None
        mixture = self.mixture.along(growth)
        return self._path if mixture is None else MixedPath(self._within, mixture, self._sizes)

    def _path_of(self, limit: Limit) -> PlanPath | MixedPath:
        if limit.quantity == "macs":
            return self._path_by_macs
        return self._path if limit.quantity == "bytes" else self._path_by_params

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
        mixture = Mixture.open(folder) if (folder / MIXTURE).exists() else None
        return Planner(template, growth, importance, None if template.tuned else by_macs, output, mixture)

    def written_as(self, output: Output) -> Planner:
        """The planner of the same master for other files."""
        uploaded = self._original["bytes"] if output.format == self.output.format else None
        others = (self._growth_by_macs, output, self.mixture)
        return Planner(self.template, self._growth, self._importance, *others, uploaded)

    def plan(
        self,
        budget: float | None = None,
        *,
        of: Of = "params",
        max_bytes: int | None = None,
        max_params: int | None = None,
        max_macs: int | None = None,
    ) -> Plan:
        """The largest plan within every limit given, one or several.

        `budget` is a fraction in (0, 1]: of the original's parameters *and* of its file as uploaded (a card comes on
        top of the share), or with `of="macs"` of its MACs; the others are absolute. Raises BudgetError where a limit
        cannot be met, alone or with those before it: `nearest` is what can be, and `limit` the limit's name where there
        are several.

        Limits of parameters and bytes have one path, limits of MACs another, and where ranks and steps are mixed
        each has its own. Where several kinds are given, the plan of one path that its own limits allow is the best
        within those, and where it meets the others too, they change nothing: a greedy order leaves little for another
        plan within all to be better by. Where each path is stopped by another's limits, the plan is that which keeps
        more of what the bases are worth.
        """
        limits = self.limits(budget, of=of, max_bytes=max_bytes, max_params=max_params, max_macs=max_macs)
        if not limits:
            raise ValueError("one of budget, max_bytes, max_params, max_macs is needed")
        own = {path: [each for each in limits if self._path_of(each) is path] for path in map(self._path_of, limits)}
        paths = sorted(own, key=lambda path: path is self._path_by_macs)
        hindered: list[tuple[int, PlanPath | MixedPath]] = []
        for path in paths:
            count = _largest(path, limits)
            if count is not None:
                hindered.append((count, path))
                if count == _largest(path, own[path]):
                    return self._at(count, path)
        if not hindered:
            raise _refusal(limits, paths)
        return self._at(*max(hindered, key=lambda each: self._worth(*each)))

    def limits(
        self,
        budget: float | None = None,
        *,
        of: Of = "params",
        max_bytes: int | None = None,
        max_params: int | None = None,
        max_macs: int | None = None,
    ) -> list[Limit]:
        """What is asked, as what no plan within it may exceed."""
        found: list[Limit] = []
        if budget is not None:
            share = Decimal(repr(float(budget)))
            beside = self._beside
            most = {each: math.floor(share * self._original[each]) + beside.get(each, 0) for each in self._budgeted(of)}
            found.append(Limit("budget", f"{budget:g}", most, self._original, beside))
        for quantity, value in (("params", max_params), ("macs", max_macs), ("bytes", max_bytes)):
            if value is not None:
                found.append(Limit(f"max_{quantity}", str(value), {quantity: value}))
        return found

    def _budgeted(self, of: Of) -> Sequence[str]:
        """What a budget bounds. Where ranks and steps are mixed, the file alone."""
        return ("bytes",) if self.output.coded and of == "params" else BUDGETED[of]

    def find(self, digest: str) -> Plan | None:
        """The plan with this digest. The first time it looks at every plan, which takes a moment of many."""
        place = self._places.get(digest)
        return None if place is None else self._at(*place)

    @cached_property
    def _places(self) -> Mapping[str, tuple[int, PlanPath | MixedPath]]:
        """By its digest where each plan lies; on both paths, on the first."""
        paths = dict.fromkeys((self._path_by_macs, self._path_by_params, self._path))
        return {self._at(count, path).digest: (count, path) for path in paths for count in range(len(path))}

    def least(self, of: Of = "params") -> float:
        """The smallest budget that can be met, rounded up to six digits."""
        path = self._path_by_macs if of == "macs" else self._path
        limit = Limit("budget", "", dict.fromkeys(self._budgeted(of), 0), self._original, self._beside)
        return float(limit.least(path, np.ones(len(path), dtype=bool)))

    def rungs(self, most: int) -> list[Plan]:
        """At most so many of the plans by parameters, the smallest file first, evenly by the logarithm of bytes; the
        smallest and the largest are among them. Of a plan's own bytes as `max_bytes`, the answer is that plan."""
        bytes = self._path.bytes
        wanted = np.floor(np.geomspace(bytes.min(), bytes[-1], most)).astype(np.int64)
        counts = {count for each in wanted if (count := PlanPath.largest((bytes, int(each)))) is not None}
        return [self._at(count) for count in sorted(counts)]

    @property
    def least_bytes(self) -> int:
        """How large the smallest file is."""
        return int(self._path.bytes.min())

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
        """The plan with which the path begins: that with the fewest parameters, or the coarsest levels."""
        return self._at(0)

    @property
    def largest(self) -> Plan:
        """The whole network: as uploaded where numbers are exact."""
        return self._at(len(self._path) - 1)

    def __len__(self) -> int:
        """How many different plans there are by parameters."""
        return len(self._path)

    def _worth(self, count: int, path: PlanPath | MixedPath) -> float:
        """What a path's plan keeps, in the unit of the importance, less something that all have. Only asked where there
        are several paths, and so an importance that is said per parameter (see `criteria`)."""
        if isinstance(path, MixedPath):
            return -path.loses(count)
        total = 0.0
        for rank, layer, values in zip(path.ranks(count), self.template.decomposed, self._importance, strict=True):
            worth = np.cumsum(np.where(np.isinf(values), 0.0, values) * layer.params_of_basis)
            total += float(worth[rank - 1])  # of a layer left whole, rank 0, the last: all of it
        return total

    def _at(self, count: int, path: PlanPath | MixedPath | None = None) -> Plan:
        path = path or self._path
        params = int(path.params[count])
        return Plan(
            ranks=path.ranks(count),
            params=params,
            macs=int(path.macs[count]),
            bytes=int(path.bytes[count]),
            budget=params / self.template.original.params,
            original=self.output.exact and count == len(path) - 1,
            output=self.output,
            grids=path.grids(count),
        )


def _largest(path: PlanPath | MixedPath, limits: Sequence[Limit]) -> int | None:
    return PlanPath.largest(*((getattr(path, each), most) for limit in limits for each, most in limit.most.items()))


def _refusal(limits: Sequence[Limit], paths: Sequence[PlanPath | MixedPath]) -> BudgetError:
    """Of limits that no step of the paths meets, the first that none meets which meets those before it."""
    left = [np.ones(len(path), dtype=bool) for path in paths]
    for limit in limits:
        before = [(path, steps) for path, steps in zip(paths, left, strict=True) if steps.any()]
        left = [steps & limit.met(path) for path, steps in zip(paths, left, strict=True)]
        if not any(steps.any() for steps in left):
            break
    nearest = min(limit.least(path, steps) for path, steps in before)
    others = ", together with the limits before it" if len(limits) > 1 else ""
    if limit.name == "budget" and nearest > 1:
        return BudgetError(
            f"In this precision each file is larger than the one as uploaded: none meets `budget={limit.asked}`.",
            "Ask for another precision: a network as small as this gains nothing by it.",
            limit=limit.name if len(limits) > 1 else None,
        )
    return BudgetError(
        f"`{limit.name}={limit.asked}` is below what this model can be cut to{others}.",
        f"The smallest that can be met is {nearest if isinstance(nearest, int) else f'{nearest:g}'}.",
        nearest=nearest,
        limit=limit.name if len(limits) > 1 else None,
    )
