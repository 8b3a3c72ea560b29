"""A worker: one process that takes one job at a time from the queues it serves."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence

import dramatiq
import torch

from rightrank.service.jobs import cut, ingest
from rightrank.service.jobs.attempt import Runner
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.queues import QUEUES
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")

# What a job may take to notice that the worker is to end, before the process ends anyway.
GRACE_MS = 5_000
LOOK_SECONDS = 0.1


def run(settings: Settings, queues: Sequence[str] | None = None) -> None:
    """Works until SIGTERM or SIGINT; a job under way is then left for another worker to do again.

    `queues` in the order of their urgency, by default all. Raises `ValueError` for one that does not exist.
    """
    wanted = tuple(queues or QUEUES)
    if unknown := set(wanted) - set(QUEUES):
        raise ValueError(f"no queue is called {', '.join(sorted(unknown))}: there are {', '.join(QUEUES)}")
    torch.set_num_interop_threads(1)
    parts = Parts.of(settings, patient=True)
    parts.store.sweep()
    runner = Runner(parts, {"ingest": ingest.run, "cut": cut.run})
    # Not an Event: its lock may be held by the very code that the signal interrupts.
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: asked.append(number))
    worker = start(parts, runner, wanted)
    log.info("working on %s", ", ".join(wanted))
    while not asked:
        time.sleep(LOOK_SECONDS)
    stop(parts, runner, worker)


def start(parts: Parts, runner: Runner, queues: tuple[str, ...]) -> dramatiq.Worker:
    """Has `runner` perform what comes in `queues`, in threads of this process."""
    broker = parts.jobs.broker
    broker.order = queues
    for queue in queues:
        broker.declare_queue(queue)
    dramatiq.actor(actor_name="perform", queue_name=queues[0], broker=broker)(runner.perform)
    worker = dramatiq.Worker(broker, queues=set(queues), worker_threads=1, worker_timeout=200)
    worker.start()
    return worker


def stop(parts: Parts, runner: Runner, worker: dramatiq.Worker) -> None:
    """Ends the threads, and has the job under way done by another worker, at no cost to its attempts."""
    for thread in worker.workers:
        thread.stop()  # first, lest this worker takes up again what it is about to give back
    runner.stop.set()
    if (operation := runner.current) is not None:
        parts.operations.put_back(operation)
    worker.stop(timeout=GRACE_MS)
