"""What is in Redis besides jobs: artifacts in chunks, locks and counters. All of it can be rebuilt."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from rightrank.service.registry.lock import Lock
from rightrank.service.registry.nearby import Nearby
from rightrank.service.settings import MIB, Settings

CHUNK = MIB
PREFIX = "rightrank:"
# An artifact larger than this part of the cache would push out all others: it goes to the store.
LARGEST_SHARE = 4
# What is sent whole and is not larger than this stays in the process, up to `NEARBY` bytes in all.
NEARBY_LARGEST, NEARBY = 16 * MIB, 64 * MIB


class Evicted(Exception):
    """A chunk is gone from the cache."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes in the cache: `size` of them, in chunks of `CHUNK`."""

    model: str
    plan: str
    sha256: str
    size: int

    @property
    def chunks(self) -> int:
        return -(-self.size // CHUNK)

    @property
    def key(self) -> str:
        return f"{PREFIX}artifact:{self.model}:{self.plan}"

    def chunk_keys(self) -> list[str]:
        return [f"{self.key}:{self.sha256[:16]}:{n}" for n in range(self.chunks)]


class Cache:
    """One Redis connection pool, and what the service keeps there."""

    def __init__(self, settings: Settings) -> None:
        self.redis: Any = redis.Redis.from_url(
            settings.redis,
            socket_timeout=10,
            socket_connect_timeout=2,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), 3),
        )
        self.nearby = Nearby(NEARBY)
        self.ttl = settings.artifact_ttl
        self.largest = settings.cache_bytes // LARGEST_SHARE

    def find(self, model: str, plan: str) -> Artifact | None:
        """The artifact if all of its chunks are there; that also keeps it for another TTL."""
        meta = self.redis.hgetall(f"{PREFIX}artifact:{model}:{plan}")
        if not meta:
            return None
        artifact = Artifact(model, plan, meta[b"sha256"].decode(), int(meta[b"size"]))
        keys = [artifact.key, *artifact.chunk_keys()]
        with self.redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.expire(key, self.ttl)
            return artifact if all(pipeline.execute()) else None

    def among(self, model: str, plans: Sequence[str]) -> set[str]:
        """Those of some plans whose artifacts are likely to be there, in one question: `find` looks at every chunk."""
        with self.redis.pipeline(transaction=False) as pipeline:
            for plan in plans:
                pipeline.exists(f"{PREFIX}artifact:{model}:{plan}")
            return {plan for plan, found in zip(plans, pipeline.execute(), strict=True) if found}

    def put(self, model: str, plan: str, sha256: str, path: Path) -> bool:
        """Copies a file into the cache, its description last; False where it is too large for it."""
        artifact = Artifact(model, plan, sha256, path.stat().st_size)
        if artifact.size > self.largest:
            return False
        try:
            with open(path, "rb") as file:
                for key in artifact.chunk_keys():
                    self.redis.set(key, file.read(CHUNK), ex=self.ttl)
            with self.redis.pipeline() as pipeline:
                pipeline.hset(artifact.key, mapping={"sha256": sha256, "size": artifact.size})
                pipeline.expire(artifact.key, self.ttl)
                pipeline.execute()
        except redis.exceptions.OutOfMemoryError:
            return False
        return True

    def read(self, artifact: Artifact, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive), in pieces. Raises `Evicted` where a chunk has gone."""
        if stop - start == artifact.size <= NEARBY_LARGEST:
            yield self._whole(artifact)
            return
        for number, key in enumerate(artifact.chunk_keys()):
            first = number * CHUNK
            low, high = max(start - first, 0), min(stop - first, CHUNK, artifact.size - first)
            if low < high:
                chunk = self.redis.get(key)
                if chunk is None:
                    raise Evicted(key)
                yield chunk if high - low == len(chunk) else chunk[low:high]

    def _whole(self, artifact: Artifact) -> bytes:
        whole = self.nearby.get(artifact.sha256)
        if whole is None:
            chunks = self.redis.mget(artifact.chunk_keys()) if artifact.chunks else []
            if any(chunk is None for chunk in chunks):
                raise Evicted(artifact.key)
            whole = b"".join(chunks)
            self.nearby.put(artifact.sha256, whole)
        return whole

    def forget(self, model: str) -> None:
        """Drops every artifact of a model."""
        for key in self.redis.scan_iter(f"{PREFIX}artifact:{model}:*", count=1000):
            self.redis.delete(key)

    def lock_of(self, name: str, seconds: float) -> Lock:
        """A lock to take and to renew."""
        return Lock(self.redis, f"{PREFIX}{name}", seconds, self.ttl)

    @contextmanager
    def lock(self, name: str, seconds: float = 10.0) -> Iterator[None]:
        """Holds a lock that no crash keeps longer than `seconds`. Raises `TimeoutError`."""
        lock = self.lock_of(f"lock:{name}", seconds)
        deadline = time.monotonic() + 2 * seconds
        while not lock.hold():
            if time.monotonic() > deadline:
                raise TimeoutError(name)
            time.sleep(0.02)
        ended = threading.Event()
        thread = threading.Thread(target=_renew, args=(lock, seconds / 3, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()  # else it might take again what is let go of here
            lock.release()

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a counter that /metrics shows."""
        self.redis.hincrbyfloat(f"{PREFIX}counters", "|".join((name, *labels.values())), amount)

    def counters(self) -> dict[tuple[str, ...], float]:
        """Every counter: its name and label values, and how far it has come."""
        found = self.redis.hgetall(f"{PREFIX}counters")
        return {tuple(key.decode().split("|")): float(value) for key, value in found.items()}


def _renew(lock: Lock, pause: float, ended: threading.Event) -> None:
    while not ended.wait(pause):
        with suppress(redis.RedisError):
            if not lock.hold():
                return


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
