from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import redis

from rightrank.service.run import valkey
from rightrank.service.run.valkey import Embedded
from rightrank.service.settings import Settings


def settings_in(folder: Path) -> Settings:
    return Settings(data=folder, cache_bytes=16 * 1024 * 1024)


def connect(settings: Settings) -> redis.Redis:
    return redis.Redis.from_url(settings.redis)


def test_it_answers_inside_and_is_gone_afterwards(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with Embedded(settings) as server:
        client = connect(settings)
        assert client.set("a", "b")
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "volatile-ttl"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("port")["port"] == "0"
    assert not server.answers()
    assert not settings.socket.exists()


def test_only_its_owner_reaches_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with Embedded(settings):
        assert settings.socket.stat().st_mode & 0o077 == 0


def test_it_is_replaced_when_it_dies(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with Embedded(settings) as server:
        before = connect(settings).info("server")["process_id"]
        os.kill(before, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while not server.answers() or connect(settings).info("server")["process_id"] == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_one_that_a_killed_service_left_behind_is_adopted_with_what_it_knows(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = Embedded(settings)
    first._start()
    connect(settings).set("a", "b")
    with Embedded(settings):
        assert connect(settings).get("a") == b"b"
    assert not first.answers()
    first._reap()


def test_an_adopted_one_that_is_frozen_is_waited_for_and_one_that_died_is_replaced(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = Embedded(settings)
    first._start()
    assert first._process is not None
    with Embedded(settings) as second:
        first._process.send_signal(signal.SIGSTOP)
        time.sleep(3 * valkey.CHECK_SECONDS)
        assert second._process is None
        first._process.kill()
        first._process.wait()
        deadline = time.monotonic() + 20
        while second._process is None or not second.answers():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_no_second_one_is_started_beside_one_that_is_frozen(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = Embedded(settings)
    first._start()
    assert first._process is not None
    first._process.send_signal(signal.SIGSTOP)
    threading.Timer(1.0, first._process.send_signal, [signal.SIGCONT]).start()
    with Embedded(settings) as second:
        assert second._process is None and second.answers()
    assert first._process.wait(10) is not None


def test_one_that_stays_frozen_is_ended_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "START_SECONDS", 1.0)
    settings = settings_in(tmp_path)
    first = Embedded(settings)
    first._start()
    assert first._process is not None
    first._process.send_signal(signal.SIGSTOP)
    threading.Thread(target=first._process.wait).start()
    with Embedded(settings) as second:
        assert second._process is not None and second.answers()
        assert first._process.wait(10) == -signal.SIGKILL
    assert not second.answers()


def test_a_socket_without_a_server_is_no_obstacle(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first = Embedded(settings)
    first._start()
    assert first._process is not None
    first._process.kill()
    first._process.wait()
    assert settings.socket.exists()
    with Embedded(settings) as second:
        assert second.answers()


def test_a_data_folder_with_a_long_path_works(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / ("x" * 120))
    with Embedded(settings) as server:
        assert server.answers()
    assert settings.socket.parent.stat().st_mode & 0o077 == 0
    settings.socket.parent.rmdir()


def test_a_socket_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / ("x" * 120))
    settings.socket.parent.mkdir()
    settings.socket.parent.chmod(0o777)
    with pytest.raises(RuntimeError, match="somebody else"), Embedded(settings):
        pass
    settings.socket.parent.rmdir()


def test_a_full_cache_drops_what_leaves_soonest_and_keeps_what_has_no_end(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with Embedded(settings) as server:
        client = connect(settings)
        client.set("kept", "x")
        for n in range(120):
            client.set(f"chunk:{n}", b"x" * 1024 * 1024, ex=1000 + n)
        assert client.get("kept") == b"x"
        assert client.get("chunk:0") is None
        assert client.get("chunk:119") is not None
        assert client.info("memory")["used_memory"] <= server.memory * 1.1
