"""What is done to which process, and when: drawn from a seed, so that a run can be had again."""

from __future__ import annotations

import heapq
import random
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.chaos import family
from benchmarks.chaos.journal import Fault, Journal
from benchmarks.chaos.setups import Setup

LONGEST_FREEZE = 12.0
# How long an event waits for its process to be there: one that reads an upload is there now and then only.
PATIENCE = 10.0
LOOK = 0.05


@dataclass(frozen=True)
class Event:
    """`seconds`: how long the process stays frozen, or, killed, is away before it is started again (where that is
    this program's to do)."""

    at: float
    target: str
    action: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:8.2f} s  {self.action:<6}  {self.target:<10}{self.seconds:6.2f} s"


def draw(seed: int, events: int, targets: Sequence[str], gap: float, longest: float = LONGEST_FREEZE) -> list[Event]:
    """Events about `gap` seconds apart. Each target is killed and frozen about as often as any other."""
    chance = random.Random(seed)
    found: list[Event] = []
    bag: list[tuple[str, str]] = []
    at = 0.0
    for _ in range(events):
        if not bag:
            bag = [(target, action) for target in targets for action in ("kill", "freeze")]
            chance.shuffle(bag)
        target, action = bag.pop()
        at += chance.uniform(0.2, 2 * gap - 0.2)
        seconds = chance.uniform(0.5, longest) if action == "freeze" else chance.uniform(0.1, min(3.0, longest))
        found.append(Event(round(at, 3), target, action, round(seconds, 3)))
    return found


def inflict(events: Sequence[Event], setup: Setup, journal: Journal, stop: threading.Event) -> None:
    """Does all of it to the set-up's processes; returns when the last frozen one goes on."""
    began = time.monotonic()
    queue: list[tuple[float, int, Event | tuple[Fault, family.Process]]] = []
    for number, event in enumerate(events):
        heapq.heappush(queue, (event.at, number, event))
    frozen: set[int] = set()
    late = len(events)
    try:
        while queue and not stop.is_set():
            due, _, what = queue[0]
            now = time.monotonic() - began
            if due > now:
                stop.wait(min(due - now, LOOK))
                continue
            heapq.heappop(queue)
            if isinstance(what, tuple):
                thaw(what[0], what[1], journal)
                frozen.discard(what[1].pid)
                continue
            process = setup.find(what.target)
            if process is None or (what.action == "freeze" and process.pid in frozen):
                late += 1
                if now - what.at < PATIENCE:
                    heapq.heappush(queue, (now + LOOK, late, what))
                else:
                    journal.fault(Fault(journal.now(), journal.now(), what.target, what.action, "there was none"))
                continue
            if what.action == "kill":
                setup.pause(what.target, what.seconds)
                family.send(process, signal.SIGKILL)
                journal.fault(Fault(journal.now(), journal.now() + what.seconds, what.target, "kill", str(process.pid)))
            else:
                family.send(process, signal.SIGSTOP)
                frozen.add(process.pid)
                fault = Fault(journal.now(), journal.now() + what.seconds, what.target, "freeze", str(process.pid))
                journal.fault(fault)
                late += 1
                heapq.heappush(queue, (now + what.seconds, late, (fault, process)))
    finally:
        for _, _, what in queue:
            if isinstance(what, tuple):
                thaw(what[0], what[1], journal)


def thaw(fault: Fault, process: family.Process, journal: Journal) -> None:
    family.send(process, signal.SIGCONT)
    journal.note("faults", f"{fault.target} ({process.pid}) goes on")
