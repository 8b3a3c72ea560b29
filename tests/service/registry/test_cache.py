from __future__ import annotations

import hashlib
import random
import threading
import time
from pathlib import Path

import pytest
import redis

from rightrank.service.problems import Problem
from rightrank.service.registry import cache
from rightrank.service.registry.cache import Artifact, Cache, Evicted
from rightrank.service.registry.pieces import digest
from rightrank.service.settings import Settings
from tests.service.conftest import frozen


@pytest.fixture
def there(settings: Settings) -> Cache:
    return Cache(settings)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHUNK", 10)


def put(there: Cache, path: Path, data: bytes) -> Artifact:
    path.write_bytes(data)
    assert there.put("model", "plan", hashlib.sha256(data).hexdigest(), path)
    artifact = there.find("model", "plan")
    assert artifact is not None
    return artifact


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 95])
def test_every_part_of_an_artifact_reads_as_it_was_written(
    there: Cache, tmp_path: Path, small_chunks: None, size: int
) -> None:
    data = bytes(range(size))
    artifact = put(there, tmp_path / "a", data)
    for start in range(0, size + 1, 3):
        for stop in range(start, size + 1, 4):
            assert b"".join(there.read(artifact, start, stop)) == data[start:stop]


def test_an_artifact_with_a_chunk_missing_is_not_found(there: Cache, tmp_path: Path, small_chunks: None) -> None:
    artifact = put(there, tmp_path / "a", b"x" * 35)
    there.redis.delete(artifact.chunk_keys()[2])
    assert there.find("model", "plan") is None
    with pytest.raises(Evicted):
        list(there.read(artifact, 0, 35))


def test_an_artifact_leaves_by_itself_and_later_where_it_is_used(settings: Settings, tmp_path: Path) -> None:
    there = Cache(settings)
    artifact = put(there, tmp_path / "a", b"x")
    for key in (artifact.key, *artifact.chunk_keys()):
        assert 0 < there.redis.ttl(key) <= settings.artifact_ttl
        there.redis.expire(key, 5)
    there.find("model", "plan")
    assert all(there.redis.ttl(key) > 5 for key in (artifact.key, *artifact.chunk_keys()))


def test_what_would_push_everything_else_out_is_not_taken(there: Cache, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (there.largest + 1))
    assert not there.put("model", "plan", "0" * 64, tmp_path / "a")
    assert there.find("model", "plan") is None


def test_a_forgotten_model_has_no_artifacts_and_others_keep_theirs(there: Cache, tmp_path: Path) -> None:
    put(there, tmp_path / "a", b"x")
    there.put("other", "plan", digest(tmp_path / "a"), tmp_path / "a")
    there.forget("model")
    assert there.find("model", "plan") is None
    assert there.find("other", "plan") is not None


def test_a_lock_has_one_holder(there: Cache) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with there.lock("l"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_that_a_crash_left_behind_ends(there: Cache) -> None:
    assert there.lock_of("lock:l", 0.05).hold()
    with there.lock("l", seconds=5):
        pass


def test_a_lock_lasts_as_long_as_its_holder_however_short_its_term(there: Cache) -> None:
    with there.lock("l", seconds=0.3):
        time.sleep(0.6)
        assert not there.lock_of("lock:l", 1).hold()
    assert there.lock_of("lock:l", 1).hold()


def test_a_full_cache_loses_artifacts_and_no_lock(there: Cache, tmp_path: Path) -> None:
    lock = there.lock_of("running:x", 60)
    assert lock.hold()
    (tmp_path / "a").write_bytes(random.randbytes(there.largest // 2))
    for n in range(24):
        there.put("m", f"plan{n}", digest(tmp_path / "a"), tmp_path / "a")
    assert there.find("m", "plan0") is None
    assert not there.lock_of("running:x", 60).hold()


def test_a_lock_that_was_lost_is_not_taken_from_its_new_holder(there: Cache) -> None:
    with there.lock("l"):
        there.redis.delete("rightrank:lock:l")
        another = there.lock_of("lock:l", 5)
        assert another.hold()
    assert not there.lock_of("lock:l", 5).hold() and another.hold()


def test_counters_add_up_by_label(there: Cache) -> None:
    there.count("jobs", kind="cut", outcome="done")
    there.count("jobs", 2, kind="cut", outcome="done")
    there.count("jobs", kind="cut", outcome="failed")
    assert there.counters() == {("jobs", "cut", "done"): 3, ("jobs", "cut", "failed"): 1}


@pytest.mark.parametrize(("start", "stop"), [(0, 95), (30, 60)])
def test_a_chunk_that_changed_is_not_read_and_the_artifact_is_dropped(
    there: Cache, tmp_path: Path, small_chunks: None, start: int, stop: int
) -> None:
    data = bytes(range(95))
    artifact = put(there, tmp_path / "a", data)
    there.redis.setrange(artifact.chunk_keys()[4], 3, b"?")
    read = b""
    with pytest.raises(Evicted):
        for piece in there.read(artifact, start, stop):
            read += piece
    assert read == data[start : start + len(read)]
    assert there.find("model", "plan") is None and there.nearby.get(artifact.sha256) is None


def test_an_artifact_that_an_earlier_version_put_there_is_put_there_again(there: Cache, tmp_path: Path) -> None:
    artifact = put(there, tmp_path / "a", b"x")
    there.redis.hdel(artifact.key, "each")
    assert there.find("model", "plan") is None
    assert put(there, tmp_path / "a", b"x") == artifact


def test_what_was_answered_from_memory_stays_in_the_cache_for_longer(there: Cache, tmp_path: Path) -> None:
    artifact = put(there, tmp_path / "a", b"x")
    list(there.read(artifact, 0, 1))
    assert there.whole("model", "plan", artifact.sha256) == b"x"
    keys = [artifact.key, *artifact.chunk_keys()]
    for key in keys:
        there.redis.expire(key, 5)
    there.keep_used()
    assert all(there.redis.ttl(key) > 5 for key in keys)


def test_a_frozen_valkey_is_waited_for_once(valkey: Settings, there: Cache) -> None:
    with frozen(valkey):
        with pytest.raises(redis.TimeoutError):
            there.check()
        for ask in (there.check, there.counters, lambda: there.find("model", "plan")):
            with pytest.raises(redis.ConnectionError, match="a moment ago"):
                ask()


def test_a_lock_that_another_keeps_is_unavailable(there: Cache) -> None:
    another = there.lock_of("lock:l", 60)
    assert another.hold()
    with pytest.raises(Problem) as caught, there.lock("l", seconds=0.05):
        pass
    assert caught.value.kind == "unavailable"
