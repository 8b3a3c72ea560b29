"""A worker: one process that takes one job at a time from the queues it serves."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from rightrank.models.checkpoint.readers import Readers
from rightrank.models.emit.formats import FORMATS
from rightrank.service.jobs import reading
from rightrank.service.jobs.attempt import Runner
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import INGEST, QUEUES, SEPARATE
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")

# What a job may take to notice that the worker is to end, before the process ends anyway.
GRACE_SECONDS = 5.0
LOOK_SECONDS = 0.1
# What torch takes by itself, at most.
TORCH_BYTES = 256 << 20


def run(settings: Settings, queues: Sequence[str] | None = None) -> None:
    """Works until SIGTERM or SIGINT; a job under way is then left for another worker to do again.

    `queues` in the order of their urgency, by default those that any worker serves. Raises `ValueError` for one that
    does not exist, and for one of a format that cannot be made here.
    """
    wanted = tuple(queues or QUEUES)
    if unknown := set(wanted) - {*QUEUES, *SEPARATE}:
        there = ", ".join((*QUEUES, *SEPARATE))
        raise ValueError(f"no queue is called {', '.join(sorted(unknown))}: there are {there}")
    for format in set(wanted) & set(SEPARATE):
        if why := FORMATS[format][-1].available():
            raise ValueError(why)
    # What is started from here on keeps that; once torch is here as well the job's own bound follows.
    bound(settings.job_memory and settings.job_memory + TORCH_BYTES)
    parts = Parts.of(settings, patient=True)
    parts.store.sweep()
    reading.tell(settings)
    if not reading.able(settings) and INGEST in wanted:
        wanted = tuple(queue for queue in wanted if queue != INGEST)
        if not wanted:
            raise ValueError("this machine cannot confine what reads uploads, and nothing else was to be done here")
        log.error("this worker takes no uploads: %s is left to others", INGEST)
    with contextlib.ExitStack() as held:
        readers = Readers(held.enter_context(parts.store.folder_for_work()))
        held.callback(readers.close)
        if INGEST in wanted:
            readers.make_ready()
        # Late: torch takes seconds, in which what makes the readers imports it as well.
        import torch

        from rightrank.service.jobs import cut, ingest

        torch.set_num_interop_threads(1)
        bound(settings.job_memory)
        _work(Runner(parts, {"ingest": ingest.run, "cut": cut.run}, readers), wanted)


def _work(runner: Runner, wanted: tuple[str, ...]) -> None:
    """Works until a signal comes."""
    # Not an Event: its lock may be held by the very code that the signal interrupts.
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: asked.append(number))
    thread = start(runner, wanted)
    log.info("working on %s", ", ".join(wanted))
    while not asked and thread.is_alive():
        time.sleep(LOOK_SECONDS)
    if not asked:
        log.error("this worker works no more; its process ends")
        os._exit(os.EX_SOFTWARE)
    stop(runner, thread)


def start(runner: Runner, queues: tuple[str, ...]) -> threading.Thread:
    """Has `runner` perform what comes in `queues`, in a thread of this process."""
    thread = threading.Thread(target=runner.work, args=(queues,), daemon=True)
    thread.start()
    return thread


def stop(runner: Runner, thread: threading.Thread) -> None:
    """Ends the thread, and has the job under way done by another worker, at no cost to its tries."""
    runner.stop.set()
    thread.join(GRACE_SECONDS)
    attempt = runner.current
    if thread.is_alive() and attempt is not None:
        with contextlib.suppress(redis.RedisError):
            runner.parts.engine.give_back(attempt)


def bound(memory: int) -> None:
    """Lets this process have so many bytes beside what it has now, if any number is given: a job that wants more gets
    a MemoryError, where the kernel would end whichever process it finds largest."""
    if memory:
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + memory, hard))
