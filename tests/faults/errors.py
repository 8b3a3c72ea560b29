"""What can go wrong at a step, by what the step needs."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

import redis
from obstore.exceptions import GenericError

from rightrank.models.checkpoint.readers import ReaderLost
from tests.faults.steps import CHILD, FORM, MEMORY, OBJECTS, READ, REDIS, WRITE, Step

ONCE, HEARD, FOR_EVER = "once", "heard", "for ever"


@dataclass(frozen=True)
class Error:
    """`needs`: the steps that it can happen at. `modes`: once, and the next call goes well; heard, so that what was
    asked for is done and only the answer is missing; for ever, until somebody mends it."""

    name: str
    needs: frozenset[str]
    make: Callable[[], Exception]
    modes: tuple[str, ...] = (ONCE, FOR_EVER)

    def fits(self, step: Step) -> bool:
        # What a bucket answers, the client of buckets raises; the rest is this project's own code on its own disk.
        objects = self.name != "store away" or step.call in OBJECTS or step.part.startswith("store.create")
        return step.needs in self.needs and objects


def _error(name: str, needs: set[str], make: Callable[[], Exception], *modes: str) -> Error:
    return Error(name, frozenset(needs), make, modes or (ONCE, FOR_EVER))


# A job that tells progress has just written to its scratch, or is about to.
WRITES, STORE = {WRITE, FORM, MEMORY}, {READ, WRITE}
ERRORS = (
    _error("disk full", WRITES, lambda: OSError(errno.ENOSPC, "No space left on device")),
    _error("quota", WRITES, lambda: OSError(errno.EDQUOT, "Disk quota exceeded"), ONCE),
    _error("disk error", STORE | {FORM}, lambda: OSError(errno.EIO, "Input/output error"), ONCE, HEARD),
    _error("store away", STORE, lambda: GenericError("503 SlowDown"), ONCE, HEARD, FOR_EVER),
    _error("Redis read-only", {REDIS}, lambda: redis.exceptions.ReadOnlyError("READONLY")),
    _error("Redis full", {REDIS}, lambda: redis.exceptions.OutOfMemoryError("OOM"), ONCE, FOR_EVER),
    _error("Redis time-out", {REDIS}, lambda: redis.TimeoutError("time-out"), ONCE, HEARD, FOR_EVER),
    _error("Redis refused", {REDIS}, lambda: redis.ConnectionError("refused"), ONCE, HEARD, FOR_EVER),
    _error("MemoryError", {MEMORY, CHILD}, MemoryError, ONCE, FOR_EVER),
    _error("torch's memory", {MEMORY}, lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory")),
    _error("child killed", {CHILD}, lambda: ReaderLost("The reader was killed by SIGKILL."), ONCE, FOR_EVER),
)  # fmt: skip
