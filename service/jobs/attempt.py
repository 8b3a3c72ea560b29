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

from rightrank.models.errors import Cancelled
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.operations import ATTEMPTS
from rightrank.service.problems import Problem, describe
from rightrank.service.registry.catalogue import upload_key
from rightrank.service.registry.lock import Lock

log = logging.getLogger("rightrank")

BEAT_SECONDS = 0.5
# No longer than the queue takes to notice a dead worker: then its job comes here again.
LOCK_SECONDS = 4.0
REPORT_SECONDS = 0.1


class Stopped(Exception):
    """The worker is asked to end; the operation goes on elsewhere."""


class Lost(Exception):
    """Another worker has taken the operation over, since nothing was heard of this one: it is that one's now."""


class Job:
    """What a job may know and say. `progress` raises `Cancelled`, `Stopped` or `Lost` where the job is to end."""

    def __init__(
        self,
        parts: Parts,
        operation: str,
        details: Mapping[str, Any],
        stop: threading.Event,
        lock: Lock | None = None,
    ) -> None:
        self.parts = parts
        self.lock = lock or lock_of(parts, operation)
        self.operation = operation
        self.details = details
        self.model: str = details["model"]
        # How a job that raised nothing is counted: "done", or "unneeded" where its work was there already.
        self.outcome = "done"
        self.cancelled = threading.Event()
        self.lost = threading.Event()
        self._stop = stop
        self._ended = threading.Event()
        self._spared: frozenset[int] | None = None
        self._reported = ("", 0.0)

    def progress(self, phase: str, completed: int, total: int, unit: str) -> None:
        """Tells how far the job is; a `models.progress.Progress`."""
        self.check()
        now = time.monotonic()
        if phase != self._reported[0] or completed == total or now - self._reported[1] > REPORT_SECONDS:
            self._reported = (phase, now)
            self.parts.operations.report(self.operation, phase, completed, total, unit)

    def hold(self) -> None:
        """Makes sure that the operation is still this worker's, before what only one may do."""
        if not self.lock.hold():
            self.lost.set()
        self.check()

    def check(self) -> None:
        if self.lost.is_set():
            raise Lost
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
        except Exception:
            self.check()
            raise
        finally:
            self._spared = None
        self.check()

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Meanwhile, the operation and its lock show that somebody is at it."""
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(redis.RedisError):
                if not self.lock.hold():
                    self.lost.set()
                elif self.parts.operations.beat(self.operation):
                    self.cancelled.set()
            spared = self._spared
            if spared is not None and any(each.is_set() for each in (self.lost, self.cancelled, self._stop)):
                kill(children() - spared)


class Runner:
    """Performs operations, one at a time, whatever happens in them."""

    def __init__(self, parts: Parts, kinds: Mapping[str, Callable[[Job], Mapping[str, Any]]]) -> None:
        self.parts = parts
        self.kinds = kinds
        self.stop = threading.Event()
        self.current: str | None = None
        # Attempts that Redis could not be told do not count.
        self._owed: list[str] = []

    def perform(self, operation: str) -> None:
        """One attempt. An error is the operation's end, and never this worker's."""
        while self._owed:
            self.parts.operations.put_back(self._owed[-1])
            self._owed.pop()
        lock = lock_of(self.parts, operation)
        if not self._take(lock):
            return
        try:
            self._attempt(operation, lock)
        finally:
            self.current = None
            lock.release()

    def _attempt(self, operation: str, lock: Lock) -> None:
        found = self.parts.operations.get(operation)
        attempt = self.parts.operations.start(operation) if found else 0
        if found is None or not attempt:
            return
        self.current = operation
        kind = operation.partition("-")[0]
        job = Job(self.parts, operation, found.details, self.stop, lock)
        began, upload = time.monotonic(), self._upload(job.model)
        try:
            if attempt > ATTEMPTS:
                raise Problem(
                    "worker-lost",
                    f"The worker ended {ATTEMPTS} times while it did this, without saying why.",
                    "It may have run out of memory: give the workers more, or upload a smaller model.",
                )
            with job.alive():
                result = self.kinds[kind](job)
        except Stopped:
            log.info("%s goes on elsewhere", operation)
            self._pass_on(operation, kind)
            return
        except Lost:
            log.warning("%s was taken over by another worker", operation)
            return
        except (redis.ConnectionError, redis.TimeoutError):
            log.warning("%s: lost Redis; it goes on when somebody asks for it", operation)
            self._owed.append(operation)
            return
        except Exception as error:
            self._fail(job, kind, error, upload)
            return
        self.parts.operations.finish(operation, job.details, result)
        self._count(kind, job.outcome, began)

    def _upload(self, model: str) -> Mapping[str, Any] | None:
        return self.parts.store.read_json(upload_key(model))

    def _fail(self, job: Job, kind: str, error: Exception, upload: Mapping[str, Any] | None) -> None:
        """Ends the operation, and an `upload` with it; one that has come in its place since is taken up."""
        document = describe(error)
        if document["type"].endswith("/internal"):
            log.error("%s failed", job.operation, exc_info=error)
        else:
            log.info("%s failed: %s", job.operation, error)
        # The lock keeps the same model, uploaded again just now, from being discarded with a job under way.
        with self.parts.cache.lock(f"model:{job.model}"):
            if kind == "ingest" and not self.parts.catalogue.exists(job.model):
                newer = self._upload(job.model)
                if newer is not None and newer != upload:
                    self.parts.operations.forget(job.operation)
                    self.parts.ingest(job.model, newer.get("owner", ""))
                    return
                self.parts.catalogue.discard(job.model)
            self.parts.operations.fail(job.operation, job.details, document)
        self._count(kind, "cancelled" if document["type"].endswith("/cancelled") else "failed", None)

    def _pass_on(self, operation: str, kind: str) -> None:
        self.parts.jobs.send("ingest" if kind == "ingest" else "waiting", operation)

    def _count(self, kind: str, outcome: str, began: float | None) -> None:
        self.parts.cache.count("jobs", kind=kind, outcome=outcome)
        if began is not None:
            self.parts.cache.count("job_seconds", time.monotonic() - began, kind=kind)

    def _take(self, lock: Lock) -> bool:
        """Takes the operation for this worker; waits as long as a dead worker's lock may last."""
        deadline = time.monotonic() + LOCK_SECONDS + BEAT_SECONDS
        while not lock.hold():
            if time.monotonic() > deadline or self.stop.is_set():
                return False
            time.sleep(0.05)
        return True


def lock_of(parts: Parts, operation: str) -> Lock:
    """What says that a worker is at an operation."""
    return parts.cache.lock_of(f"running:{operation}", LOCK_SECONDS)


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
