"""The real reading child, killed while it reads."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from rightrank.models.checkpoint.readers import ForkServer
from tests.faults import verdict, world
from tests.faults.world import Files, World
from tests.system.processes import children


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch, redis_url: str, net: Files, tmp_path: Path) -> World:
    world.small_times(monkeypatch)
    world.journalled(monkeypatch)
    return world.world_in(tmp_path, redis_url, net)


def kill_reader(server: int) -> None:
    """Kills the child of a fork server, once it has one."""
    deadline = time.monotonic() + 60
    while not (reader := children(server)):
        assert time.monotonic() < deadline
    os.kill(min(reader), signal.SIGKILL)


def test_an_upload_whose_reader_is_killed_is_read_again(reading: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read, killed = ForkServer.read, list[int]()

    def reading_of(server: ForkServer, request: int, answer: int, seconds: float) -> int | None:
        """Of the first, the reader is killed as soon as it is there."""
        if killed:
            return read(server, request, answer, seconds)
        killed.append(server.pid)
        killer = threading.Thread(target=kill_reader, args=(server.pid,))
        killer.start()
        code = read(server, request, answer, seconds)
        killer.join()
        return code

    monkeypatch.setattr(ForkServer, "read", reading_of)
    model = reading.upload()
    assert reading.work()
    assert killed and reading.unfinished() == [f"ingest-{model}"]
    assert reading.settle()
    known = {record.plan.digest: record.sha256 for record in reading.another().catalogue.records(model)}
    assert [*verdict.ends_once(reading, 1), *verdict.whole(reading, model, known), *verdict.tidy(reading)] == []
