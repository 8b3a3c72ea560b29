"""The real reading child, killed while it reads."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rightrank.models.checkpoint.readers import Reader
from tests.faults import verdict, world
from tests.faults.world import Files, World


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch, redis_url: str, net: Files, tmp_path: Path) -> World:
    world.small_times(monkeypatch)
    world.journalled(monkeypatch)
    return world.world_in(tmp_path, redis_url, net)


def test_an_upload_whose_reader_is_killed_is_read_again(reading: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, killed = Reader.ask, list[int]()

    def asking(reader: Reader, *arguments: Any) -> Any:
        if not killed:
            killed.append(reader.pid)
            os.kill(reader.pid, signal.SIGKILL)
        return ask(reader, *arguments)

    monkeypatch.setattr(Reader, "ask", asking)
    model = reading.upload()
    assert reading.work()
    assert killed and reading.unfinished() == [f"ingest-{model}"]
    assert reading.settle()
    known = {record.plan.digest: record.sha256 for record in reading.another().catalogue.records(model)}
    assert [*verdict.ends_once(reading, 1), *verdict.whole(reading, model, known), *verdict.tidy(reading)] == []
