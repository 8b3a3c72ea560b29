"""What is in Redis besides jobs: artifacts in chunks, locks and counters. All of it can be rebuilt.

Where Redis does not answer, everything here raises `redis.RedisError`, and soon.
"""

from __future__ import annotations

import hashlib
import logging
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

from rightrank.service.problems import Problem
from rightrank.service.registry.lock import Lock
from rightrank.service.registry.nearby import Nearby
from rightrank.service.registry.pieces import DIGEST, Damaged, verified
from rightrank.service.registry.reach import Reach
from rightrank.service.settings import MIB, Settings

log = logging.getLogger("rightrank")

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
    """Bytes in the cache: `size` of them, in chunks of `CHUNK`, whose SHA-256 are in `each`, one after the other."""

    model: str
    plan: str
    sha256: str
    size: int
    each: bytes = b""

    @property
    def chunks(self) -> int:
        return -(-self.size // CHUNK)

    @property
    def key(self) -> str:
        return f"{PREFIX}artifact:{self.model}:{self.plan}"

    def chunk_keys(self) -> list[str]:
        return [f"{self.key}:{self.sha256[:16]}:{n}" for n in range(self.chunks)]


class Client(redis.Redis):
    """A client of Redis that does not wait for what has just not answered."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.reach = Reach()
        super().__init__(*args, **options)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        with asking(self.reach):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Commands:
        commands = Commands(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        commands.reach = self.reach
        return commands


class Commands(redis.client.Pipeline):
    """Several commands that are sent at once."""

    reach: Reach

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with asking(self.reach):
            return super().execute(raise_on_error)


@contextmanager
def asking(reach: Reach) -> Iterator[None]:
    """Raises what Redis raises, and `redis.ConnectionError` at once where it has just not answered."""
    if not reach.may_ask():
        raise redis.ConnectionError("Redis did not answer a moment ago")
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        reach.failed()
        log.error("Redis: %s", str(error) or type(error).__name__)
        raise
    except redis.RedisError:
        reach.answered()
        raise
    reach.answered()


class Cache:
    """One Redis connection pool, and what the service keeps there. `patient`: for a job, which waits longer for Redis
    than a request does."""

    def __init__(self, settings: Settings, patient: bool = False) -> None:
        # What took too long is not tried again, or it would take twice as long.
        again = () if not patient else (redis.TimeoutError,)
        client: Any = Client.from_url(
            settings.redis,
            socket_timeout=10 if patient else 1,
            socket_connect_timeout=2 if patient else 1,
            retry=Retry(
                ExponentialBackoff(cap=0.2, base=0.02),
                3 if patient else 1,
                supported_errors=(redis.ConnectionError, *again),
            ),
        )
        client.reach = Reach(patient)
        self.redis = client
        self.nearby = Nearby(NEARBY)
        self.ttl = settings.artifact_ttl
        self.largest = settings.cache_bytes // LARGEST_SHARE
        self._used: set[Artifact] = set()

    def check(self) -> None:
        """Raises `redis.RedisError` where Redis does not answer."""
        self.redis.ping()

    def find(self, model: str, plan: str) -> Artifact | None:
        """The artifact if all of its chunks are there; that also keeps it for another TTL."""
        meta = self.redis.hgetall(f"{PREFIX}artifact:{model}:{plan}")
        if not meta.keys() >= {b"sha256", b"size", b"each"}:  # none, or one that an earlier version put there
            return None
        artifact = Artifact(model, plan, meta[b"sha256"].decode(), int(meta[b"size"]), meta[b"each"])
        if len(artifact.each) != DIGEST * artifact.chunks:
            return None
        return artifact if self._keep(artifact) else None

    def _keep(self, artifact: Artifact) -> bool:
        """Keeps an artifact for another TTL; whether all of it was there."""
        with self.redis.pipeline(transaction=False) as pipeline:
            for key in (artifact.key, *artifact.chunk_keys()):
                pipeline.expire(key, self.ttl)
            return all(pipeline.execute())

    def among(self, model: str, plans: Sequence[str]) -> set[str]:
        """Those of some plans whose artifacts are likely to be there, in one question: `find` looks at every chunk."""
        with self.redis.pipeline(transaction=False) as pipeline:
            for plan in plans:
                pipeline.exists(f"{PREFIX}artifact:{model}:{plan}")
            return {plan for plan, found in zip(plans, pipeline.execute(), strict=True) if found}

    def put(self, model: str, plan: str, sha256: str, path: Path) -> bool:
        """Copies a file with this SHA-256 into the cache, its description last; False where it is too large for it."""
        artifact = Artifact(model, plan, sha256, path.stat().st_size)
        if artifact.size > self.largest:
            return False
        try:
            each = bytearray()
            with open(path, "rb") as file:
                for key in artifact.chunk_keys():
                    chunk = file.read(CHUNK)
                    self.redis.set(key, chunk, ex=self.ttl)
                    each += hashlib.sha256(chunk).digest()
            with self.redis.pipeline() as pipeline:
                pipeline.hset(artifact.key, mapping={"sha256": sha256, "size": artifact.size, "each": bytes(each)})
                pipeline.expire(artifact.key, self.ttl)
                pipeline.execute()
        except redis.exceptions.OutOfMemoryError:
            return False
        return True

    def whole(self, model: str, plan: str, sha256: str) -> bytes | None:
        """The artifact with this SHA-256, if this process has it in memory; Redis is told later that it was used."""
        data = self.nearby.get(sha256)
        if data is not None:
            self._used.add(Artifact(model, plan, sha256, len(data)))
        return data

    def read(self, artifact: Artifact, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive), in pieces that were verified. Raises `Evicted` where a chunk has gone or
        has changed; then nothing of the artifact stays."""
        try:
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
                    verified(chunk, number, artifact.each)
                    yield chunk if high - low == len(chunk) else chunk[low:high]
        except Damaged as error:
            log.error("%s in the cache is damaged (%s): it is made again", artifact.key, error)
            self.redis.delete(artifact.key, *artifact.chunk_keys())
            raise Evicted(artifact.key) from error

    def _whole(self, artifact: Artifact) -> bytes:
        chunks = self.redis.mget(artifact.chunk_keys()) if artifact.chunks else []
        if any(chunk is None for chunk in chunks):
            raise Evicted(artifact.key)
        data = b"".join(chunks)
        if hashlib.sha256(data).hexdigest() != artifact.sha256:
            raise Damaged("the whole")
        self.nearby.put(artifact.sha256, data)
        return data

    def keep_used(self) -> None:
        """Keeps for another TTL what was answered from memory since the last time."""
        used, self._used = self._used, set()
        try:
            for artifact in used:
                self._keep(artifact)
        except redis.RedisError:
            self._used |= used
            raise

    def forget(self, model: str) -> None:
        """Drops every artifact of a model."""
        for key in self.redis.scan_iter(f"{PREFIX}artifact:{model}:*", count=1000):
            self.redis.delete(key)

    def lock_of(self, name: str, seconds: float) -> Lock:
        """A lock to take and to renew."""
        return Lock(self.redis, f"{PREFIX}{name}", seconds, self.ttl)

    @contextmanager
    def lock(self, name: str, seconds: float = 10.0) -> Iterator[Lock]:
        """Holds a lock that no crash keeps longer than `seconds`. Raises `Problem` where another holds it for long."""
        lock = self.lock_of(f"lock:{name}", seconds)
        deadline = time.monotonic() + 2 * seconds
        while not lock.hold():
            if time.monotonic() > deadline:
                raise Problem(
                    "unavailable", "Another request is busy with the same.", "Try again.", headers={"Retry-After": "2"}
                )
            time.sleep(0.02)
        ended = threading.Event()
        thread = threading.Thread(target=_renew, args=(lock, seconds / 3, ended), daemon=True)
        thread.start()
        try:
            yield lock
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
