"""What clients saw, in the order of time: whole for the verdict, and a line each in a file per client."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A fault may show for so long after it ended: pauses between tries grow.
AFTERMATH = 120.0


@dataclass
class Accepted:
    """A 202: an upload (`sound` or `broken`) or a size (`cut`), what its client did to it since, and how it ended."""

    client: str
    at: float
    kind: str
    model: str
    operation: str
    title: str = ""
    name: str = ""
    # Asked for, whatever came of it.
    cancelled: bool = False
    deleted: bool = False
    # The answer said that it is gone.
    gone: bool = False
    # A request whose answer never came: either outcome is right.
    unsure: bool = False
    end: Mapping[str, Any] | None = None
    ended: float = 0.0

    @property
    def ready(self) -> bool:
        return self.end is not None and not self.error and not (self.deleted or self.cancelled)

    @property
    def error(self) -> str:
        """The kind of problem that it ended with; "" where it did not."""
        document = (self.end or {}).get("error") or {}
        return str(document.get("type", "")).rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Answer:
    client: str
    at: float
    method: str
    route: str
    status: int
    problem: str


@dataclass(frozen=True)
class Silence:
    """A request without an answer, or without the whole of one."""

    client: str
    at: float
    method: str
    route: str
    error: str


@dataclass(frozen=True)
class Received:
    """A whole file, and what its headers said of it."""

    client: str
    at: float
    model: str
    plan: str
    etag: str
    announced: str
    sha256: str


@dataclass(frozen=True)
class Fault:
    at: float
    until: float
    target: str
    action: str
    outcome: str


@dataclass(frozen=True)
class Trouble:
    """What must not be. `client` has the log that tells more."""

    kind: str
    at: float
    client: str
    what: str


class Journal:
    """Safe for many threads. Times are seconds since it was opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._began = time.monotonic()
        self._lock = threading.RLock()
        self._files: dict[str, Any] = {}
        self._lines: dict[str, list[tuple[float, str]]] = {}
        self.uploads: dict[str, Accepted] = {}
        self.cuts: dict[str, Accepted] = {}
        # Sent, and never answered with 202: the service may have it all the same.
        self.attempted = 0
        self.answers: list[Answer] = []
        self.silences: list[Silence] = []
        self.received: list[Received] = []
        self.faults: list[Fault] = []
        self.troubles: list[Trouble] = []

    def now(self) -> float:
        return time.monotonic() - self._began

    def note(self, client: str, text: str) -> None:
        at = self.now()
        with self._lock:
            self._lines.setdefault(client, []).append((at, text))
            if client not in self._files:
                self._files[client] = (self.folder / f"{client}.log").open("a", buffering=1)
            self._files[client].write(f"{at:9.3f} {text}\n")

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def around(self, client: str, at: float, lines: int = 6) -> list[str]:
        """A client's last lines up to a moment, and the few after it."""
        with self._lock:
            kept = self._lines.get(client, [])
        before = [line for line in kept if line[0] <= at][-lines:]
        after = [line for line in kept if line[0] > at][:2]
        return [f"{moment:9.3f} {text}" for moment, text in before + after]

    def about(self, model: str, lines: int = 12) -> list[str]:
        """The first and the last lines, of all clients, that name a model."""
        with self._lock:
            found = sorted(
                (at, f"{client}: {text}")
                for client, kept in self._lines.items()
                for at, text in kept
                if model in text and not text.startswith("!!")
            )
        shown = found if len(found) <= lines else [*found[: lines // 2], *found[-lines // 2 :]]
        return [f"{at:9.3f} {text[:240]}" for at, text in shown]

    def fault(self, fault: Fault) -> None:
        with self._lock:
            self.faults.append(fault)
        self.note("faults", f"{fault.action} {fault.target}: {fault.outcome}, until {fault.until:.3f}")

    def trouble(self, kind: str, client: str, what: str, at: float | None = None) -> None:
        moment = self.now() if at is None else at
        with self._lock:
            self.troubles.append(Trouble(kind, moment, client, what))
        self.note(client, f"!! {kind}: {what}")

    def answer(self, answer: Answer) -> None:
        with self._lock:
            self.answers.append(answer)

    def silence(self, silence: Silence) -> None:
        with self._lock:
            self.silences.append(silence)

    def receive(self, received: Received) -> None:
        with self._lock:
            self.received.append(received)

    def accept(self, accepted: Accepted) -> Accepted:
        """Notes a 202. The same work asked for again is one operation, which may now end once more."""
        with self._lock:
            kept = self.cuts if accepted.kind == "cut" else self.uploads
            kept[accepted.operation] = accepted
            return accepted

    def ended(self, operation: str, document: Mapping[str, Any]) -> None:
        """Notes how an operation ended, where nobody has."""
        with self._lock:
            for kept in (self.uploads, self.cuts):
                accepted = kept.get(operation)
                if accepted is not None and accepted.end is None:
                    accepted.end, accepted.ended = dict(document), self.now()

    def open(self) -> list[Accepted]:
        """What has been accepted and has not been seen to end."""
        with self._lock:
            return [each for each in self._accepted() if each.end is None]

    def waiting(self) -> int:
        """How many uploads have not been seen to end."""
        with self._lock:
            return sum(each.end is None for each in self.uploads.values())

    def ready(self) -> list[Accepted]:
        with self._lock:
            return [each for each in self.uploads.values() if each.ready and each.kind == "sound"]

    def some(self, chance: random.Random, seldom: float = 0.1) -> Accepted | None:
        """A model to fetch: one that is ready, or, seldom, one that may not be."""
        with self._lock:
            ready = self.ready()
            every = list(self.uploads.values())
        pool = every if not ready or chance.random() < seldom else ready
        return chance.choice(pool) if pool else None

    def near(self, at: float) -> bool:
        """Whether a fault may show at this time."""
        return any(fault.at <= at <= fault.until + AFTERMATH for fault in self.faults)

    def _accepted(self) -> Iterator[Accepted]:
        yield from self.uploads.values()
        yield from self.cuts.values()
