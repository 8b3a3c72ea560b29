"""One attempt at an operation: its progress, its sign of life, and its end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from models.errors import Cancelled, RightRankError
from service.cache import PREFIX
from service.operations import ATTEMPTS
from service.problems import Problem, describe
from service.work import Parts

log = logging.getLogger("rightrank")

BEAT_SECONDS = 0.5
# No longer than the queue takes to notice a dead worker: then its job comes here again.
LOCK_SECONDS = 4.0
REPORT_SECONDS = 0.1


class Stopped(Exception):
    """The worker is asked to end; the operation goes on elsewhere."""


class Job:
    """What a job may know and say. `progress` raises `Cancelled` or `Stopped` where the job is to end."""

    def __init__(self, parts: Parts, operation: str, details: Mapping[str, Any], stop: threading.Event) -> None:
        self.parts = parts
        self.operation = operation
        self.details = details
        self.model: str = details["model"]
        # How a job that raised nothing is counted: "done", or "unneeded" where its work was there already.
        self.outcome = "done"
        self.cancelled = threading.Event()
        self._stop = stop
        self._ended = threading.Event()
        self._spared: frozenset[int] | None = None
        self._reported = ("", 0.0)

    def progress(self, phase: str, completed: int, total: int, unit: str) -> None:
        """Tells how far the job is; a `models.master.Progress`."""
        self.check()
        now = time.monotonic()
        if phase != self._reported[0] or completed == total or now - self._reported[1] > REPORT_SECONDS:
            self._reported = (phase, now)
            self.parts.operations.report(self.operation, phase, completed, total, unit)

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("The operation was cancelled.")
        if self._stop.is_set():
            raise Stopped

    @contextlib.contextmanager
    def kills_children(self) -> Iterator[None]:
        """Meanwhile, a cancelled or stopped job ends the processes that it starts."""
        self._spared = children()
        try:
            yield
        except RightRankError:
            self.check()
            raise
        finally:
            self._spared = None
        self.check()

    @contextlib.contextmanager
    def alive(self, lock: str) -> Iterator[None]:
        """Meanwhile, the operation and its lock show that somebody is at it."""
        thread = threading.Thread(target=self._beat, args=(lock,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _beat(self, lock: str) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(redis.RedisError):
                self.parts.cache.redis.set(lock, os.getpid(), px=int(LOCK_SECONDS * 1000))
                if self.parts.operations.beat(self.operation):
                    self.cancelled.set()
            spared = self._spared
            if spared is not None and (self.cancelled.is_set() or self._stop.is_set()):
                kill(children() - spared)


class Runner:
    """Performs operations, one at a time, whatever happens in them."""

    def __init__(self, parts: Parts, kinds: Mapping[str, Callable[[Job], Mapping[str, Any]]]) -> None:
        self.parts = parts
        self.kinds = kinds
        self.stop = threading.Event()
        self.current: str | None = None

    def perform(self, operation: str) -> None:
        """One attempt. An error is the operation's end, and never this worker's."""
        lock = f"{PREFIX}running:{operation}"
        if not self._lock(lock):
            return
        try:
            self._attempt(operation, lock)
        finally:
            self.current = None
            self.parts.cache.redis.delete(lock)

    def _attempt(self, operation: str, lock: str) -> None:
        found = self.parts.operations.get(operation)
        attempt = self.parts.operations.start(operation) if found else 0
        if found is None or not attempt:
            return
        self.current = operation
        kind = operation.partition("-")[0]
        job = Job(self.parts, operation, found.details, self.stop)
        began = time.monotonic()
        try:
            if attempt > ATTEMPTS:
                raise Problem(
                    "worker-lost",
                    f"The worker ended {ATTEMPTS} times while it did this, without saying why.",
                    "It may have run out of memory: give the workers more, or upload a smaller model.",
                )
            with job.alive(lock):
                result = self.kinds[kind](job)
        except Stopped:
            log.info("%s goes on elsewhere", operation)
            self._pass_on(operation, kind)
            return
        except (redis.ConnectionError, redis.TimeoutError):
            log.warning("%s: lost Redis; it goes on when somebody asks for it", operation)
            return
        except Exception as error:
            self._fail(job, kind, error)
            return
        self.parts.operations.finish(operation, job.details, result)
        self._count(kind, job.outcome, began)

    def _fail(self, job: Job, kind: str, error: Exception) -> None:
        document = describe(error)
        if document["type"].endswith("/internal"):
            log.error("%s failed", job.operation, exc_info=error)
        else:
            log.info("%s failed: %s", job.operation, error)
        # The lock keeps the same model, uploaded again just now, from being discarded with a job under way.
        with self.parts.cache.lock(f"model:{job.model}"):
            if kind == "ingest" and not self.parts.catalogue.exists(job.model):
                self.parts.catalogue.discard(job.model)
            self.parts.operations.fail(job.operation, job.details, document)
        self._count(kind, "cancelled" if document["type"].endswith("/cancelled") else "failed", None)

    def _pass_on(self, operation: str, kind: str) -> None:
        self.parts.jobs.send("ingest" if kind == "ingest" else "waiting", operation)

    def _count(self, kind: str, outcome: str, began: float | None) -> None:
        self.parts.cache.count("jobs", kind=kind, outcome=outcome)
        if began is not None:
            self.parts.cache.count("job_seconds", time.monotonic() - began, kind=kind)

    def _lock(self, lock: str) -> bool:
        """Takes the operation for this worker; waits as long as a dead worker's lock may last."""
        deadline = time.monotonic() + LOCK_SECONDS + BEAT_SECONDS
        while not self.parts.cache.redis.set(lock, os.getpid(), nx=True, px=int(LOCK_SECONDS * 1000)):
            if time.monotonic() > deadline or self.stop.is_set():
                return False
            time.sleep(0.05)
        return True


def children() -> frozenset[int]:
    """This process's children (Linux; elsewhere none are known, and they end by their own limits)."""
    found: set[int] = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, listing.read_text().split()))
    return frozenset(found)


def kill(processes: frozenset[int]) -> None:
    """Kills processes, and the groups of those that lead one."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)
