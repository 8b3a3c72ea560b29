"""One attempt at an operation: its progress, its sign of life, and its end.

An attempt ends in one of these ways. It succeeds. It fails by what was uploaded or asked (`FAULTS`), and an upload is
discarded with it. It is cancelled. The worker is stopped, or the operation is another attempt's by now, and nothing
has happened. Or something went wrong that is nobody's fault, a full disk, a bucket or a Redis that does not answer:
then it is tried again, with growing pauses, and after `TRIES` of them given up, and an upload is kept.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import redis

from rightrank.models.checkpoint.readers import ReaderLost, Readers
from rightrank.models.checkpoint.sandbox import NotConfined
from rightrank.models.errors import Cancelled, RightRankError
from rightrank.service import logs
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import Attempt
from rightrank.service.jobs.operations import kind_of
from rightrank.service.problems import Problem, describe
from rightrank.service.registry.layout import TOKEN, checkpoint_key, digests_of, failure_key, upload_key

log = logging.getLogger("rightrank")

BEAT_SECONDS = 0.5
REPORT_SECONDS = 0.1
# Beyond its time a job may take so long to notice; then its process ends.
OVERTIME_SECONDS = 20.0
# How often something that may pass is tried, and how long after the first, the second… failure again. Of an error
# that nobody foresaw there is less hope.
TRIES, UNFORESEEN_TRIES = 8, 3
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 120.0
# How many workers may die over one job.
DEATHS = 3
# How long an attempt that has ended tries to say so, and how long it rests in between.
TELL_SECONDS, TELL_PAUSE = 30.0, 1.0
# The faults of uploads and of requests.
FAULTS = frozenset({
    "checkpoint-unusable", "checkpoint-unsafe", "checkpoint-unsupported", "checkpoint-malformed", "data-unusable",
    "budget-unreachable", "precision-unavailable", "format-unavailable", "master-unreadable", "model-not-found",
    "upload-incomplete",
})  # fmt: skip
# Of a cut, that the model is not there just now, for whatever is asked next.
ABSENT = frozenset({"model-deleted", "model-not-ready", "model-failed"})
# Not tried again either, but by somebody's wish.
LIMITS = frozenset({"worker-lost", "too-slow"})


class Stopped(Exception):
    """The worker is asked to end; the operation goes on elsewhere."""


class Lost(Exception):
    """Another attempt has taken the operation over, since nothing was heard of this one: it is that one's now."""


class Job:
    """What a job may know and say. `progress` raises `Cancelled`, `Stopped` or `Lost` where the job is to end."""

    def __init__(
        self,
        parts: Parts,
        attempt: Attempt,
        stop: threading.Event,
        readers: Readers,
        seconds: float = float("inf"),
    ) -> None:
        self.parts = parts
        # What reads the job's upload.
        self.readers = readers
        self.attempt = attempt
        self.operation = attempt.operation
        self.details = attempt.details
        self.model: str = attempt.details["model"]
        # How a job that raised nothing is counted: "done", or "unneeded" where its work was there already.
        self.outcome = "done"
        self.cancelled = threading.Event()
        # Of which upload it is, as soon as that is known, and whether any of its work has been saved.
        self.token: str | None = None
        self.kept = False
        self.lost = threading.Event()
        self.late = threading.Event()
        # What whoever waits should know already; told with the progress.
        self.note: str | None = None
        self._stop = stop
        self._ended = threading.Event()
        self._began = time.monotonic()
        self._deadline = self._began + seconds
        self._kill: Callable[[], None] | None = None
        self._reported = ("", 0.0)

    def progress(self, phase: str, completed: int, total: int, unit: str) -> None:
        """Tells how far the job is; a `models.progress.Progress`."""
        self.check()
        now = time.monotonic()
        if phase != self._reported[0] or completed == total or now - self._reported[1] > REPORT_SECONDS:
            self._reported = (phase, now)
            progress: dict[str, Any] = {"phase": phase, "completed": completed, "total": total, "unit": unit}
            if self.note is not None:
                progress["note"] = self.note
            with contextlib.suppress(redis.RedisError):  # nobody waits for it
                self.parts.engine.report(self.attempt, progress)

    @property
    def about(self) -> dict[str, Any]:
        """What every line of the log about it has."""
        plan = self.details.get("plan") or {}
        about = {"operation": self.operation, "model": self.model, "tries": self.attempt.tries}
        return {**about, "plan": plan.get("digest")}

    def tell(
        self, outcome: str, level: int = logging.INFO, error: BaseException | None = None, /, **facts: Any
    ) -> None:
        """Writes how this attempt has ended to the log."""
        seconds = time.monotonic() - self._began
        logs.event("operation-ended", level, error, **self.about, outcome=outcome, **facts, ms=round(seconds * 1000, 1))

    def allow(self, seconds: float) -> None:
        """Gives the job more time than any may take: for a training that is to take so long."""
        self._deadline += seconds

    def saved(self) -> None:
        """Says that what was done so far will not have to be done again."""
        self.kept = True
        with contextlib.suppress(redis.RedisError):
            self.parts.engine.saved(self.attempt)

    def hold(self) -> None:
        """Makes sure that the operation is still this attempt's, before what only one may do."""
        self._look()
        self.check()

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled("The operation was cancelled.")
        if self.lost.is_set():
            raise Lost
        if self._stop.is_set():
            raise Stopped
        if self.late.is_set():
            raise Problem("too-slow", "The work took longer than one job may.", "The operator can allow it more time.")

    @contextlib.contextmanager
    def killing(self, kill: Callable[[], None]) -> Iterator[None]:
        """Meanwhile, a cancelled or stopped job calls `kill`, from another thread and more than once, to end what it
        waits for."""
        self._kill = kill
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            self._kill = None
        self.check()

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Meanwhile, the operation shows that somebody is at it."""
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
                self._look()
            if time.monotonic() > self._deadline:
                self.late.set()
            if time.monotonic() > self._deadline + OVERTIME_SECONDS:
                log.error("%s does not end: this worker does", self.operation)
                os._exit(os.EX_SOFTWARE)
            kill, ending = self._kill, (self.lost, self.cancelled, self.late, self._stop)
            if kill is not None and any(each.is_set() for each in ending):
                kill()

    def _look(self) -> None:
        whose = self.parts.engine.beat(self.attempt)
        if whose == "cancelled":
            self.cancelled.set()
        elif whose == "lost":
            self.lost.set()


class Runner:
    """Performs operations, one at a time, whatever happens in them."""

    def __init__(
        self,
        parts: Parts,
        kinds: Mapping[str, Callable[[Job], Mapping[str, Any]]],
        readers: Readers,
    ) -> None:
        self.parts = parts
        self.kinds = kinds
        self.readers = readers
        self.stop = threading.Event()
        self.current: Attempt | None = None

    def work(self, queues: tuple[str, ...]) -> None:
        """Takes one job after another until `stop` is set."""
        while not self.stop.is_set():
            try:
                attempt = self.parts.engine.take(queues)
                if attempt is not None:
                    self.perform(attempt)
            except redis.RedisError as error:
                log.warning("Redis cannot be reached: %s", error)
                self.stop.wait(1)
            except Exception:  # no thread could be started, perhaps: the job comes again when its lease has ended
                log.exception("a job could not be begun")
                self.stop.wait(1)

    def perform(self, attempt: Attempt) -> None:
        """One attempt. An error is its end, and never this worker's."""
        self.current = attempt
        kind, began = kind_of(attempt.operation), time.monotonic()
        job = Job(self.parts, attempt, self.stop, self.readers, self.parts.settings.job_seconds)
        try:
            with job.alive():  # also while its end is told
                self._attempt(job, kind, began)
        finally:
            self.current = None

    def _attempt(self, job: Job, kind: str, began: float) -> None:
        attempt = job.attempt
        logs.event("operation-began", **job.about)
        try:
            if attempt.deaths >= DEATHS:
                raise Problem(
                    "worker-lost",
                    f"The worker ended {attempt.deaths} times while it did this, without saying why.",
                    "It may have run out of memory: give the workers more, or upload a smaller model.",
                )
            result = self.kinds[kind](job)
        except Stopped:
            job.tell("elsewhere")
            self._say(job, lambda: self.parts.engine.give_back(attempt))
        except Lost:
            job.tell("taken-over", logging.WARNING)
            self._look_after(job, kind)
        except Cancelled as error:
            job.tell("cancelled", detail=error.detail)
            document = describe(Problem("cancelled", error.detail))
            self._say(job, lambda: self._end_cancelled(job, kind, document))
            self._count(kind, "cancelled")
            self._look_after(job, kind)
        except Exception as error:
            failure = error  # which the name of a handler is not after it
            self._say(job, lambda: self._fail(job, kind, failure))
        else:
            if self._say(job, lambda: self.parts.engine.finish(attempt, result)):
                made: dict[str, Any] = {key: result[key] for key in ("name", "version", "size") if key in result}
                job.tell(job.outcome, **made)
                self._count(kind, job.outcome, began)

    def _fail(self, job: Job, kind: str, error: Exception) -> bool:
        """Ends the operation, or has it tried again; whether it was still this attempt's."""
        attempt, reason = job.attempt, cause(error)
        tries = 1 if job.kept else attempt.tries
        absent = kind == "cut" and isinstance(error, RightRankError) and error.kind in ABSENT
        final = absent or (isinstance(error, RightRankError) and error.kind in FAULTS | LIMITS)
        if not final and tries < (TRIES if reason else UNFORESEEN_TRIES):
            pause = min(FIRST_PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
            job.tell("retried", logging.WARNING, error, pause=round(pause))
            self._count(kind, "retried")
            return self.parts.engine.give_back(attempt, pause)
        document = describe(error)
        problem = {"problem": document["type"].rsplit("/")[-1], "detail": document["detail"]}
        if final:
            job.tell("failed", **problem)
        else:
            job.tell("gave-up", logging.ERROR, error, **problem)
        if reason:
            document = describe(Problem(
                "gave-up",
                f"{reason}. It was tried {attempt.tries} times.",
                f"Nothing is lost. Once the cause is mended: rightrank retry {attempt.operation}",
            ))  # fmt: skip
        at_fault = document["type"].rsplit("/")[-1] in FAULTS
        if kind == "ingest":
            ended = self._end_ingest(job, document, at_fault)
        else:
            ended = self.parts.engine.fail(attempt, document, gave_up=not at_fault and not absent)
        if ended:
            self._count(kind, "failed")
        return ended

    def _end_ingest(self, job: Job, document: Mapping[str, Any], at_fault: bool) -> bool:
        """What is wrong with an upload ends it; what is wrong with anything else is written down beside it."""
        catalogue, store = self.parts.catalogue, self.parts.store
        # Whoever uploads the same just now waits for this, and finds the operation ended.
        with catalogue.changing(job.model):
            if self.parts.engine.beat(job.attempt) != "ours":
                return False
            if not catalogue.whole(job.model):
                upload = store.read_json(upload_key(job.model)) or {}
                token = upload.get(TOKEN, "") if job.token is None else job.token
                again = upload.get(TOKEN, "") != token or (
                    document["type"].endswith("/upload-incomplete")
                    and all(store.exists(checkpoint_key(sha256)) for sha256 in digests_of(upload))
                )
                if at_fault and upload and again:
                    return self.parts.engine.give_back(job.attempt, FIRST_PAUSE)  # it has come again meanwhile
                if at_fault:
                    catalogue.refuse(job.model, document, upload.get("owner", ""))
                    catalogue.discard(job.model, token)
                else:
                    store.create_json(failure_key(job.model), dict(document))
            return self.parts.engine.fail(job.attempt, document, gave_up=not at_fault)

    def _end_cancelled(self, job: Job, kind: str, document: Mapping[str, Any]) -> bool:
        """Ends what was cancelled, unless the same upload has come again meanwhile: then that one's turn has come."""
        engine, catalogue = self.parts.engine, self.parts.catalogue
        if kind == "cut":
            return engine.fail(job.attempt, document)
        with catalogue.changing(job.model):
            if engine.beat(job.attempt) != "ours":
                return False
            if self.parts.store.exists(upload_key(job.model)) and not catalogue.whole(job.model):
                return engine.give_back(job.attempt, FIRST_PAUSE)
            return engine.fail(job.attempt, document)

    def _look_after(self, job: Job, kind: str) -> None:
        """An attempt that has come too late may have written beside, or removed, what others did meanwhile."""
        if kind == "ingest":
            with contextlib.suppress(Exception):  # `Parts.recover` finds that as well, later
                self.parts.take_up(job.model)

    def _say(self, job: Job, say: Callable[[], bool]) -> bool:
        """Tells Redis and the store how an attempt has ended, and goes on trying for a while: unsaid, it would be done
        once more. What `say` comes to, False where it could not be said. Where it is the store that cannot be told, the
        operation waits for it: silence would count as the death of a worker, and be told as one."""
        deadline = time.monotonic() + TELL_SECONDS
        while True:
            try:
                return say()
            except Exception as error:
                log.warning("how %s ended cannot be told: %s", job.operation, error)
                if self.stop.wait(TELL_PAUSE) or time.monotonic() > deadline:
                    with contextlib.suppress(redis.RedisError):
                        self.parts.engine.give_back(job.attempt, LONGEST_PAUSE)
                    return False

    def _count(self, kind: str, outcome: str, began: float | None = None) -> None:
        with contextlib.suppress(redis.RedisError):
            self.parts.cache.count("jobs", kind=kind, outcome=outcome)
            if began is not None:
                self.parts.cache.count("job_seconds", time.monotonic() - began, kind=kind)


def cause(error: BaseException) -> str:
    """What it is that may pass, in words; "" for what nobody foresaw."""
    if isinstance(error, RightRankError) and error.kind == "unavailable":
        return error.detail.rstrip(".")
    if isinstance(error, redis.RedisError):
        return "The cache did not answer as it should"
    if isinstance(error, ReaderLost):
        return "The process that read the upload was killed or could not work"
    if isinstance(error, NotConfined):
        return "The worker's machine cannot confine what reads uploads"
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "The memory did not suffice"
    if isinstance(error, OSError):
        return "The disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "The disk or the network failed"
    return ""
