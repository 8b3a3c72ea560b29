from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rightrank.service.jobs import worker
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


def children(pid: int) -> list[int]:
    """A process's children that live."""
    listings = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for listing in listings for child in listing.read_text().split()]
    return [child for child in found if alive(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_workers_job_is_done_by_the_next(web: Running, settings: Settings, files: Files) -> None:
    operation = web.push({"checkpoint": files.checkpoint}).json()["operation"]
    with process(settings) as first:
        wait_for(running(web, operation))
        # The reader, which was started before there was torch in the worker, and reads now.
        (reader,) = children(first.pid)
        first.kill()
        wait_for(lambda: not alive(reader))
    assert not web.client.get(f"/operations/{operation}").json()["done"]
    with process(settings):
        assert web.end(operation)["error"] is None
    assert web.parts.cache.redis.hmget(f"rightrank:operation:{operation}", "tries", "deaths") == [b"2", b"1"]


def test_a_worker_that_is_asked_to_end_gives_its_job_back(web: Running, settings: Settings, files: Files) -> None:
    operation = web.push({"checkpoint": files.checkpoint}).json()["operation"]
    with process(settings) as first:
        wait_for(running(web, operation))
        first.terminate()
        assert first.wait(30) == 0
    with process(settings):
        assert web.end(operation)["error"] is None
    assert web.parts.cache.redis.hmget(f"rightrank:operation:{operation}", "tries", "deaths") == [b"1", None]


def test_a_queue_that_does_not_exist_is_refused(settings: Settings) -> None:
    with pytest.raises(ValueError, match="no queue is called later"):
        worker.run(settings, ["waiting", "later"])


def test_a_job_has_so_much_memory_and_no_more() -> None:
    script = """
import torch
from rightrank.service.jobs.worker import bound
bound(64 << 20)
torch.zeros(4 << 20)
try:
    torch.zeros(32 << 20)
except (MemoryError, RuntimeError) as error:
    from rightrank.service.jobs.attempt import cause
    print(cause(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "The memory did not suffice\n", done.stderr


def test_a_worker_that_may_not_read_uploads_leaves_them_to_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, ...]] = []

    def start(runner: object, queues: tuple[str, ...]) -> None:
        served.append(queues)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(worker, "start", start)
    monkeypatch.setattr(worker, "stop", lambda *_: None)
    monkeypatch.setattr("torch.set_num_interop_threads", lambda _: None)  # which is possible only once
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    for able in (True, False):
        monkeypatch.setattr(worker.reading, "able", lambda _, able=able: able)
        worker.run(settings)
    for number, handler in handlers:
        signal.signal(number, handler)
    assert served == [("waiting", "ingest", "background"), ("waiting", "background")]
