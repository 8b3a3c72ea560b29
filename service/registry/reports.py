"""Reports: numbers that a publisher has measured of a file outside, such as a word error rate.

A report belongs to bytes: it lies below their SHA-256, and is shown only with a file that has it. Each is an object of
its own, numbered and written once, which also says what was reported before it; then those before it are removed.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

from rightrank.service.problems import Problem
from rightrank.service.registry.layout import reported_key
from rightrank.service.registry.recent import Recent
from rightrank.service.registry.store import Store

# As a key in a structured field (RFC 9651) may be.
METRIC = re.compile(r"[a-z][a-z0-9._-]{0,31}")
KEY = re.compile(
    rf"models/[^/]+/reported/(?P<file>[0-9a-f]{{64}})/(?P<metric>{METRIC.pattern})/(?P<number>[1-9][0-9]{{0,8}})\.json"
)
# So many metrics a file may have, since all of them are in its headers, and so many reports of each are remembered.
MOST, REMEMBERED = 16, 16
# What was reported through another process is known here after so long.
RECHECK_SECONDS = 1.0
# How often a report may be gone again, because a newer one has come, before it is read.
PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Report:
    """A number, its 95 % interval if any, on how many samples, and whether more is better, as far as that was said;
    when it was reported (seconds since 1970), and with whose key."""

    metric: str
    value: float
    n: int | None
    low: float | None
    high: float | None
    higher_is_better: bool | None
    reported: float
    by: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Report:
        """Raises KeyError, TypeError or ValueError where it is none."""
        found = Report(**{name: data[name] for name in Report.__slots__})
        if not math.isfinite(found.value):
            raise ValueError(f"{found.value} is not finite")
        return found

    def says(self, other: Report) -> bool:
        """Whether both say the same of the file."""
        return replace(self, reported=0.0, by="") == replace(other, reported=0.0, by="")


# By the file's SHA-256, by metric.
ByFile: TypeAlias = Mapping[str, Mapping[str, Report]]


class Reports:
    """The reports of all models in one store, and for a moment in this process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: Recent[str, tuple[float, ByFile]] = Recent(4096)
        # By key, size and time: after all reports of a metric were withdrawn, numbers begin anew.
        self._objects: Recent[tuple[str, tuple[int, float]], list[Report]] = Recent(4096)
        self._lock = threading.Lock()
        self._changes = 0

    def of(self, id: str) -> ByFile:
        """What is reported of a model's files, as it was within the last second; what the store said last where it does
        not answer. Raises `Problem` where that is nothing."""
        known = self._known.get(id, lambda: None)
        now, changes = time.monotonic(), self._changes
        if known is not None and now - known[0] < RECHECK_SECONDS:
            return known[1]
        try:
            found = self._read(id)
        except Problem as error:
            if known is None or error.kind != "unavailable":
                raise
            return known[1]
        with self._lock:
            if changes == self._changes:  # else what was read may be of before the change
                self._known.put(id, (now, found))
        return found

    def lately(self, id: str) -> ByFile:
        """As `of`, but nothing where nothing can be known: a file is served without."""
        try:
            return self.of(id)
        except Problem:
            return {}

    def history(self, id: str, sha256: str, metric: str) -> list[Report]:
        """What was reported of a file, the latest first; empty where nothing is. Raises `Problem`."""
        for _ in range(PATIENCE):
            newest = self._newest(reported_key(id, sha256, metric))
            if not newest:
                break
            if found := self._object(*next(iter(newest.values()))):
                return found
        return []

    def add(self, id: str, sha256: str, report: Report) -> None:
        """Has the report stand for its metric; what says the same as the one that does changes nothing. Raises
        `Problem`. By who holds `Catalogue.changing`, so that no report is overtaken by one before it."""
        prefix = reported_key(id, sha256, report.metric)
        for _ in range(16):
            there = {metric for _, metric in self._newest(reported_key(id, sha256))}
            if report.metric not in there and len(there) >= MOST:
                raise Problem(
                    "too-many-reports",
                    f"{MOST} metrics are reported of this file already: {', '.join(sorted(there))}.",
                    "Withdraw one of them: DELETE …/reports/<sha256>/<metric>.",
                )
            before = self.history(id, sha256, report.metric)
            if before and before[0].says(report):
                return
            old = self.store.keys(prefix)
            number = 1 + max((int(match["number"]) for match in map(KEY.fullmatch, old) if match), default=0)
            content = {"reports": [each.to_json() for each in [report, *before][:REMEMBERED]]}
            if self.store.create_json(reported_key(id, sha256, report.metric, number), content):
                self.store.delete(*old)
                self.forget(id)
                return
        raise Problem("name-taken", "Others are reporting the same right now.", "Try again.")

    def withdraw(self, id: str, sha256: str, metric: str) -> bool:
        """Forgets what was reported of a file; whether there was anything. Raises `Problem`. By who holds
        `Catalogue.changing`."""
        keys = self.store.keys(reported_key(id, sha256, metric))
        self.store.delete(*keys)
        self.forget(id)
        return bool(keys)

    def forget(self, id: str) -> None:
        """Drops what this process knows of a model's reports."""
        with self._lock:
            self._changes += 1
            self._known.drop(lambda key: key == id)

    def _read(self, id: str) -> ByFile:
        found: dict[str, dict[str, Report]] = {}
        for _ in range(PATIENCE):
            newest, found = self._newest(reported_key(id)), {}
            for (file, metric), place in newest.items():
                if reports := self._object(*place):
                    found.setdefault(file, {})[metric] = reports[0]
            if sum(map(len, found.values())) == len(newest):
                break
        return {file: dict(sorted(metrics.items())) for file, metrics in found.items()}

    def _newest(self, prefix: str) -> dict[tuple[str, str], tuple[str, tuple[int, float]]]:
        """By file and metric, of the objects below `prefix` the one with the highest number: its key, size and time."""
        about = self.store.sizes(prefix)
        found = [match for match in map(KEY.fullmatch, about) if match]
        found.sort(key=lambda match: int(match["number"]))
        return {(match["file"], match["metric"]): (match[0], about[match[0]]) for match in found}

    def _object(self, key: str, about: tuple[int, float]) -> list[Report] | None:
        """The reports in an object, the latest first; None where it has gone or cannot be read."""

        def read() -> list[Report] | None:
            data = self.store.read_json(key)
            try:
                return [Report.from_json(each) for each in data["reports"]] if data is not None else None
            except (KeyError, TypeError, ValueError):
                return None  # another version's

        return self._objects.get((key, about), read)
