"""What is asked for, and which plan answers to it, by what is known of a model's cuts. Knows neither HTTP nor a store:
who has a master in a folder asks the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rightrank.models.emit.format import FIRST
from rightrank.models.errors import BudgetError
from rightrank.models.plan.planner import Limit, Plan, Planner
from rightrank.service.api import certify
from rightrank.service.api.certify import Records
from rightrank.service.api.goal import Goal, Reported, exactly, measured, reported
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model, Record
from rightrank.service.registry.recent import Recent


class Known(Records, Protocol):
    """What is known of models' cuts, as the catalogue knows it."""

    @property
    def reports(self) -> Reported: ...

    def records(self, id: str) -> list[Record]:
        """Every known cut of a model, the smallest first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """How large the artifact may be, by one limit or several, what its numbers are stored as (None: as its publisher
    chose), in which format, and whether only what is `ready` will do. `of`: what a budget is a fraction of, by default
    the parameters."""

    budget: float | None = None
    of: Literal["params", "macs"] | None = None
    max_bytes: int | None = None
    max_params: int | None = None
    max_macs: int | None = None
    min_accuracy: float | None = None
    max_error: float | None = None
    confidence: float | None = None
    metric: str | None = None
    precision: str | None = None
    format: str = FIRST.format
    ready: bool = field(default=False, compare=False)  # the plan is the same

    def limits(self, model: Model) -> list[Limit]:
        """Those of its size."""
        return self.planner(model).limits(**self.size())

    def planner(self, model: Model) -> Planner:
        """The one for files as they are asked for. Raises FormatError, PrecisionError or `Problem` where there are no
        such files of this model, or not here."""
        return model.planner_in(self.precision, self.format)

    def size(self) -> Mapping[str, Any]:
        """What a planner is asked."""
        limits = {name: getattr(self, name) for name in ("budget", "max_bytes", "max_params", "max_macs")}
        return {**limits, "of": self.of or "params"}

    def check(self) -> None:
        """Raises `Problem` for what does not go together."""
        if self.of is not None and self.budget is None:
            raise Problem("invalid-request", "`of` says what a budget is a fraction of, and there is none.")
        if self.max_error is not None and self.min_accuracy is not None:
            raise Problem(
                "invalid-request", "`max_error` and `min_accuracy` are both given, and a measure goes one way."
            )
        if self.metric is not None and self.max_error is None and self.min_accuracy is None:
            raise Problem(
                "invalid-request", "A metric is of what `min_accuracy` or `max_error` asks for, and there is neither."
            )
        if self.metric is None and self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise Problem("invalid-request", f"`min_accuracy` is a share from 0 to 1, and not {self.min_accuracy:g}.")
        if self.confidence is not None:
            self._check_certifiable()

    def _check_certifiable(self) -> None:
        """Raises `Problem` for what `confidence` cannot go with."""
        if self.max_error is not None:
            raise Problem(
                "invalid-request",
                "`confidence` is of a share of right answers, and `max_error` of what has no greatest value.",
                "Leave it out; the answer has an interval.",
            )
        if self.metric is not None:
            raise Problem(
                "invalid-request",
                "`confidence` is of what the service measured, and a metric is named that the publisher reported.",
                "Leave one of them out.",
            )
        if self.min_accuracy is None:
            raise Problem(
                "invalid-request",
                "`confidence` says how sure an accuracy is to be, and none is asked for.",
                "Give `min_accuracy`, from 0 to 1.",
            )


# Plans follow from the model, the limits, the precision and the format alone.
PLANS: Recent[tuple[str, str, Ask], Plan] = Recent(4096)


def choose(known: Known, model: Model, ask: Ask) -> Plan:
    """The plan for what is asked. Raises `BudgetError` where there is none, and `Problem` where none is certified."""
    if (found := walked(known, model, ask)) is not None:
        assert ask.min_accuracy is not None and ask.confidence is not None
        if limits := ask.limits(model):
            ask.planner(model).plan(**ask.size())  # where no size at all is within them, that is the answer
        return certify.smallest(found, limits, ask.min_accuracy, ask.confidence)
    if (goal := goal_of(known, model, ask)) is not None:
        return smallest_accurate(known.records(model.id), goal, model, ask)
    plan = PLANS.get((model.id, model.tag, ask), lambda: ask.planner(model).plan(**ask.size()))
    assert plan is not None
    return plan


def certified(record: Record, ask: Ask) -> dict[str, str]:
    """What a file's header says of its having what was asked for in truth; nothing where that was not asked."""
    found = record.measurement
    if not found or ask.confidence is None:
        return {}
    said = f'{found["metric"]}="{ask.min_accuracy!r}";confidence="{ask.confidence!r}";n={found["n"]}'
    return {"RightRank-Certified": said}


def walked(known: Known, model: Model, ask: Ask) -> certify.Walk | None:
    """How far the test gets that is asked for; None where none is."""
    if ask.confidence is None or ask.min_accuracy is None:
        return None
    return certify.walk(known, model, ask.planner(model), ask.min_accuracy, ask.confidence)


def goal_of(known: Known, model: Model, ask: Ask) -> Goal | None:
    """What the size is to reach, if anything. Raises `Problem`."""
    parameter = "min_accuracy" if ask.max_error is None else "max_error"
    if ask.metric is None:
        threshold = getattr(ask, parameter)
        return None if threshold is None else measured(parameter, threshold, known.records(model.id))
    return reported(parameter, getattr(ask, parameter), ask.metric, known.reports.of(model.id))


def smallest_accurate(records: list[Record], goal: Goal, model: Model, ask: Ask) -> Plan:
    """The smallest cut in the precision asked for that reaches the goal, and that is within the limits asked for
    besides. Raises `BudgetError`."""
    limits, planner = ask.limits(model), ask.planner(model)
    if limits:
        planner.plan(**ask.size())  # where no size at all is within them, that is the answer
    known = [record for record in records if goal.of(record) is not None]
    if not known:
        raise goal.unknown
    known = [record for record in known if record.plan.output == planner.output]
    if not known:
        precision = model.precision_of(planner.output)
        kind, named = (f" as {ask.format}", f"`format={ask.format}`, ") if ask.format != FIRST.format else ("", "")
        raise BudgetError(
            f"There is no {goal.cuts} of this model in {precision}{kind} yet.",
            f"Ask for a `budget` with {named}`precision={precision}`, or name another precision.",
        )
    reaching = [record.plan for record in known if goal.reached(record)]
    for plan in reaching:
        if within(plan, limits):
            return plan
    if not reaching:
        best = goal.best(known)
        raise BudgetError(
            f"No {goal.cuts} of this model reaches {goal.words}.", f"The best has {exactly(best)}.", nearest=best
        )
    inside = [record for record in known if within(record.plan, limits)]
    if inside:
        best = goal.best(inside)
        raise BudgetError(
            f"No {goal.cuts} within the other limits reaches {goal.words}.",
            f"The best of them has {exactly(best)}.",
            nearest=best,
            limit=goal.parameter,
        )
    limit = next(limit for limit in limits if not limit.holds(reaching[0]))
    nearest = limit.needed(reaching[0])
    raise BudgetError(
        f"No {goal.cuts} that reaches {goal.words} is within `{limit.name}={limit.asked}`.",
        f"The smallest that reaches it needs `{limit.name}={nearest:.10g}`.",
        nearest=nearest,
        limit=limit.name,
    )


def within(plan: Plan, limits: Iterable[Limit]) -> bool:
    return all(limit.holds(plan) for limit in limits)
