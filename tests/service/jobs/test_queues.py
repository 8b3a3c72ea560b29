from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dramatiq
import pytest

from rightrank.service.jobs import queues as jobs
from rightrank.service.jobs.queues import BACKGROUND, INGEST, QUEUES, WAITING, Jobs
from rightrank.service.settings import Settings


@contextmanager
def worker(settings: Settings, perform: Callable[[str], None], queues: tuple[str, ...] = QUEUES) -> Iterator[Jobs]:
    there = Jobs(settings)
    there.broker.order = queues
    for queue in queues:
        there.broker.declare_queue(queue)
    dramatiq.actor(actor_name="perform", queue_name=queues[0], broker=there.broker)(perform)
    threads = dramatiq.Worker(there.broker, queues=set(queues), worker_threads=1, worker_timeout=100)
    threads.start()
    yield there
    threads.stop(timeout=2000)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_most_urgent_queue_goes_first_whatever_came_first(settings: Settings) -> None:
    sender, done = Jobs(settings), list[str]()
    for queue, id in ((BACKGROUND, "b1"), (BACKGROUND, "b2"), (INGEST, "i1"), (WAITING, "w1"), (WAITING, "w2")):
        sender.send(queue, id)
    with worker(settings, done.append):
        wait_for(lambda: len(done) == 5)
    assert done == ["w1", "w2", "i1", "b1", "b2"]


def test_a_busy_worker_leaves_every_other_job_to_others(settings: Settings) -> None:
    sender, begun, go = Jobs(settings), list[str](), threading.Event()

    def slow(id: str) -> None:
        begun.append(id)
        go.wait(20)

    sender.send(BACKGROUND, "long")
    with worker(settings, slow):
        wait_for(lambda: begun == ["long"])
        for queue in QUEUES:
            sender.send(queue, queue)
        time.sleep(10 * jobs.BUSY_SECONDS)
        assert [sender.length(queue) for queue in QUEUES] == [1, 1, 1]
        done = list[str]()
        with worker(settings, done.append, (WAITING, INGEST)):
            wait_for(lambda: done == [WAITING, INGEST])
        assert sender.length(BACKGROUND) == 1
        go.set()
        wait_for(lambda: begun == ["long", BACKGROUND])


def test_a_busy_worker_keeps_its_job(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_TIMEOUT", 1500)
    begun, go = list[str](), threading.Event()

    def slow(id: str) -> None:
        begun.append(id)
        go.wait(20)

    with worker(settings, slow, (WAITING,)) as first, worker(settings, begun.append, (WAITING,)):
        first.send(WAITING, "long")
        wait_for(lambda: bool(begun))
        time.sleep(3)
        assert begun == ["long"]
        go.set()


def test_a_dead_workers_job_is_done_by_another(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_TIMEOUT", 300)
    dead, done = Jobs(settings), list[str]()
    dead.send(INGEST, "a")
    assert dead.broker.do_fetch(INGEST, 1)
    assert dead.length(INGEST) == 0
    with worker(settings, done.append):
        wait_for(lambda: done == ["a"])


def test_a_job_that_raises_frees_its_worker(settings: Settings) -> None:
    done = list[str]()

    def fail(id: str) -> None:
        done.append(id)
        raise RuntimeError(id)

    sender = Jobs(settings)
    sender.send(WAITING, "a")
    sender.send(WAITING, "b")
    with worker(settings, fail):
        wait_for(lambda: done == ["a", "b"])
