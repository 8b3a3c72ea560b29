"""What a size is to reach: an accuracy that the service measured, or a number that the publisher reported, which the
query then names. Which way that number goes, the parameter says: `min_accuracy`, or `max_error` for one that is better
the lower it is; one that goes the other way is refused, not guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rightrank.models.errors import BudgetError
from rightrank.models.measure.metrics import METRICS
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Record

if TYPE_CHECKING:
    from rightrank.service.registry.reports import ByFile


class Reported(Protocol):
    """What publishers reported."""

    def of(self, id: str) -> ByFile:
        """Of a model's files."""


def exactly(number: float) -> str:
    """A number in as few digits as give it again: who follows what is said asks for what there is."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


@dataclass(frozen=True, slots=True)
class Goal:
    """`parameter`: the one that asks for it; `words`: what it asks for; `cuts`: what those are called that have such a
    number; `unknown`: what is raised where none has; `of`: the number of a cut, None where it has none."""

    parameter: str
    threshold: float
    cuts: str
    words: str
    unknown: BudgetError
    of: Callable[[Record], float | None]

    @property
    def lower(self) -> bool:
        return self.parameter == "max_error"

    def reached(self, record: Record) -> bool:
        found = self.of(record)
        return found is not None and (found <= self.threshold if self.lower else found >= self.threshold)

    def best(self, records: Iterable[Record]) -> float:
        """The best number that any of them has; there is one."""
        found = [number for record in records if (number := self.of(record)) is not None]
        return min(found) if self.lower else max(found)


def measured(parameter: str, threshold: float, records: Iterable[Record]) -> Goal:
    """At least, or with `max_error` at most, this number, as the service measured it."""
    lower = parameter == "max_error"
    metric = next((record.measurement["metric"] for record in records if record.measurement), None)
    if metric is None:
        unknown = BudgetError(
            "No accuracy of this model has been measured.", "Publish it with `evaluation` data, or ask for a `budget`."
        )
    else:
        way, right = ("higher", "min_accuracy") if METRICS[metric].higher else ("lower", "max_error")
        unknown = BudgetError(
            f"The {metric} that this model is measured by is better the {way} it is.", f"Ask for `{right}`."
        )

    def number(record: Record) -> float | None:
        found = record.measurement
        return float(found["value"]) if found is not None and METRICS[found["metric"]].higher != lower else None

    words = f"{'an error' if lower else 'an accuracy'} of {'at most ' if lower else ''}{exactly(threshold)}"
    return Goal(parameter, threshold, "measured cut", words, unknown, number)


def reported(parameter: str, threshold: float, metric: str, reports: ByFile) -> Goal:
    """At least, or with `max_error` at most, this number, as the publisher reported it. Raises `Problem` where that is
    not how the metric goes."""
    if metric in METRICS:
        raise Problem(
            "invalid-request",
            f"A metric is named that a publisher reported, and {metric} is what the service measures.",
            "Without a metric, `min_accuracy` is of what the service measured.",
        )
    found = [metrics[metric] for metrics in reports.values() if metric in metrics]
    ways = {report.higher_is_better for report in found} - {None}
    if found and len(ways) != 1:
        said = "was not said" if not ways else "was said both ways"
        raise Problem(
            "invalid-request",
            f"Whether a higher {metric} is better {said}, so no size can be asked for by it.",
            "Its publisher reports it again, with `higher_is_better`, and the same for all files.",
        )
    right = "min_accuracy" if ways == {True} else "max_error"
    if found and parameter != right:
        better = "higher" if ways == {True} else "lower"
        raise Problem(
            "invalid-request",
            f"A {metric} is better the {better} it is, as its publisher says.",
            f"Ask for `{right}={exactly(threshold)}` of it.",
        )
    known = sorted({name for metrics in reports.values() for name in metrics})
    unknown = BudgetError(
        f"Nobody has reported a {metric} of this model.",
        f"Reported: {', '.join(known)}." if known else "Its publisher can: PUT /models/…/reports/<sha256>/<metric>.",
    )
    numbers = {file: metrics[metric].value for file, metrics in reports.items() if metric in metrics}
    words = f"a {metric} of at {'most' if parameter == 'max_error' else 'least'} {exactly(threshold)}"
    return Goal(parameter, threshold, "reported cut", words, unknown, lambda record: numbers.get(record.sha256))
