from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from rightrank.service.jobs import worker
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running


@contextlib.contextmanager
def process(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as a process of its own."""
    environment = os.environ | {
        "RIGHTRANK_DATA": str(settings.data),
        "RIGHTRANK_REDIS_URL": settings.redis,
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen([sys.executable, "-m", "rightrank.service", "worker", *arguments], env=environment) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running(web: Running, operation: str) -> Callable[[], bool]:
    return lambda: web.client.get(f"/operations/{operation}").json()["state"] == "running"


def test_a_killed_workers_job_is_done_by_the_next(web: Running, settings: Settings, files: Files) -> None:
    operation = web.push({"checkpoint": files.checkpoint}).json()["operation"]
    with process(settings) as first:
        wait_for(running(web, operation))
        first.kill()
    assert not web.client.get(f"/operations/{operation}").json()["done"]
    with process(settings):
        assert web.end(operation)["error"] is None
    assert web.parts.cache.redis.hget(f"rightrank:operation:{operation}", "attempts") == b"2"


def test_a_worker_that_is_asked_to_end_gives_its_job_back(web: Running, settings: Settings, files: Files) -> None:
    operation = web.push({"checkpoint": files.checkpoint}).json()["operation"]
    with process(settings) as first:
        wait_for(running(web, operation))
        first.terminate()
        assert first.wait(30) == 0
    with process(settings):
        assert web.end(operation)["error"] is None
    assert web.parts.cache.redis.hget(f"rightrank:operation:{operation}", "attempts") == b"1"


def test_a_queue_that_does_not_exist_is_refused(settings: Settings) -> None:
    with pytest.raises(ValueError, match="no queue is called later"):
        worker.run(settings, ["waiting", "later"])


def test_a_job_begun_twice_is_done_once(parts: Parts, settings: Settings, files: Files, service: Running) -> None:
    answer = service.push({"checkpoint": files.checkpoint}).json()
    parts.jobs.send("ingest", answer["operation"])
    assert service.end(answer["operation"])["error"] is None
    wait_for(lambda: parts.jobs.length("ingest") == 0)
    assert service.parts.cache.counters()[("jobs", "ingest", "done")] == 1
