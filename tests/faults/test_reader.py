"""The real reading child, killed while it reads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rightrank.service.jobs.attempt import children
from tests.faults import verdict, world
from tests.faults.world import Files, World


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch, redis_url: str, net: Files, tmp_path: Path) -> World:
    world.small_times(monkeypatch)
    world.journalled(monkeypatch)
    return world.world_in(tmp_path, redis_url, net)


def killed(before: frozenset[int], over: threading.Event) -> Iterator[int]:
    """Kills the first child that is started after this."""
    while not over.wait(0.002):
        for child in children() - before:
            os.kill(child, signal.SIGKILL)
            yield child
            return


def test_an_upload_whose_reader_is_killed_is_read_again(reading: World) -> None:
    model = reading.upload()
    over, found, before = threading.Event(), list[int](), children()
    thread = threading.Thread(target=lambda: found.extend(killed(before, over)))
    thread.start()
    assert reading.work()
    over.set()
    thread.join()
    assert found and reading.unfinished() == [f"ingest-{model}"]
    assert reading.settle()
    known = {record.plan.digest: record.sha256 for record in reading.another().catalogue.records(model)}
    assert [*verdict.ends_once(reading, 1), *verdict.whole(reading, model, known), *verdict.tidy(reading)] == []
