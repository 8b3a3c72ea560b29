"""Operations: what the API shows of a background job, kept in Redis while it is of interest.

An operation's id says what it does (`ingest-<model>`, `cut-<model>-<plan>`), so that asking twice for the
same thing is one operation, and so that it can be found again when Redis has lost it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rightrank.service.registry.cache import PREFIX, Cache

KEEP_SECONDS = 24 * 3600
# Queued or running for this long without a sign of life: its job is sent again.
STALE_SECONDS = 30.0
ATTEMPTS = 3
ENDED = ("done", "failed", "cancelled")

# A failure of a cut that kills its workers stands for so long: devices that ask again would kill more of them.
GIVEN_UP_SECONDS = 600.0
NOW = """
local now = redis.call('time')
now = string.format('%.3f', now[1] + now[2] / 1000000)
"""
CLAIM = (
    NOW
    + """
local state = redis.call('hget', KEYS[1], 'state')
local since = tonumber(now) - tonumber(redis.call('hget', KEYS[1], 'updated') or now)
if state == 'queued' or state == 'running' then
  if state == 'queued' and ARGV[1] == 'waiting' and redis.call('hget', KEYS[1], 'queue') == 'background' then
    redis.call('hset', KEYS[1], 'queue', 'waiting', 'updated', now)
    return 1
  end
  if since > tonumber(ARGV[2]) then
    redis.call('hset', KEYS[1], 'updated', now)
    return 1
  end
  return 0
end
if state == 'failed' and ARGV[1] ~= 'ingest' and since < tonumber(ARGV[3])
   and string.find(redis.call('hget', KEYS[1], 'error'), '/worker-lost"', 1, true) then return 0 end
redis.call('del', KEYS[1])
redis.call('hset', KEYS[1], 'state', 'queued', 'queue', ARGV[1], 'updated', now, 'details', ARGV[5],
           'owner', ARGV[6])
redis.call('expire', KEYS[1], ARGV[4])
return 1
"""
)
START = (
    NOW
    + """
local state = redis.call('hget', KEYS[1], 'state')
if state ~= 'queued' and state ~= 'running' then return 0 end
redis.call('hset', KEYS[1], 'state', 'running', 'updated', now)
return redis.call('hincrby', KEYS[1], 'attempts', 1)
"""
)
PUT_BACK = """
if redis.call('exists', KEYS[1]) == 1 then redis.call('hincrby', KEYS[1], 'attempts', -1) end
"""
BEAT = (
    NOW
    + """
local state = redis.call('hget', KEYS[1], 'state')
if not state then return 0 end
if state == 'cancelled' or redis.call('hexists', KEYS[1], 'cancel') == 1 then return 1 end
if state == 'queued' then redis.call('hset', KEYS[1], 'state', 'running') end
redis.call('hset', KEYS[1], 'updated', now)
return 0
"""
)
REPORT = """
if redis.call('exists', KEYS[1]) == 1 then redis.call('hset', KEYS[1], 'progress', ARGV[1]) end
"""
CANCEL = """
local state = redis.call('hget', KEYS[1], 'state')
if state == 'queued' then
  redis.call('hset', KEYS[1], 'state', 'cancelled', 'error', ARGV[1])
  return 1
end
if state == 'running' then redis.call('hset', KEYS[1], 'cancel', '1') end
return 0
"""


@dataclass(frozen=True, slots=True)
class Operation:
    """A snapshot. `details` say what to do: `{"model": …}`, and for a cut `{"model": …, "plan": {…}}`."""

    id: str
    state: str
    details: Mapping[str, Any]
    progress: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    # Seconds since something was heard of it, by Redis's clock.
    silent: float = 0.0
    # The name of the key that asked for it.
    owner: str = ""

    @property
    def lost(self) -> bool:
        """Whether it is said to run or to wait, and nothing has been heard of it."""
        return not self.done and self.silent > STALE_SECONDS

    @property
    def done(self) -> bool:
        return self.state in ENDED

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"id": self.id, "operation": self.id, "done": self.done, "state": self.state}
        body["model"] = self.details.get("model")
        if self.done:
            body |= {"error": self.error} if self.error is not None else {"result": self.result}
        body["progress"] = dict(self.progress)
        return body


IDLE = {"phase": "queued", "completed": 0, "total": 0, "unit": ""}


class Operations:
    """The operations in one Redis."""

    def __init__(self, cache: Cache) -> None:
        self.redis = cache.redis
        self._claim = self.redis.register_script(CLAIM)
        self._start = self.redis.register_script(START)
        self._put_back = self.redis.register_script(PUT_BACK)
        self._beat = self.redis.register_script(BEAT)
        self._report = self.redis.register_script(REPORT)
        self._cancel = self.redis.register_script(CANCEL)

    def claim(self, id: str, queue: str, details: Mapping[str, Any], owner: str = "") -> bool:
        """Whether the caller must send the job: it is new, or somebody now waits for it, or it seems lost."""
        arguments = [queue, STALE_SECONDS, GIVEN_UP_SECONDS, KEEP_SECONDS, json.dumps(details), owner]
        claimed = bool(self._claim(keys=[_key(id)], args=arguments))
        if claimed and owner:
            self.redis.zadd(f"{PREFIX}owner:{owner}", {id: time.time()})
            self.redis.expire(f"{PREFIX}owner:{owner}", KEEP_SECONDS)
        return claimed

    def get(self, id: str) -> Operation | None:
        """The operation as Redis knows it."""
        with self.redis.pipeline(transaction=False) as pipeline:
            values, (seconds, microseconds) = pipeline.hgetall(_key(id)).time().execute()
        found = {key.decode(): value.decode() for key, value in values.items()}
        if "details" not in found:
            return None
        return Operation(
            id=id,
            state=found["state"],
            details=json.loads(found["details"]),
            progress=json.loads(found.get("progress", "null")) or IDLE,
            result=json.loads(found.get("result", "null")),
            error=json.loads(found.get("error", "null")),
            owner=found.get("owner", ""),
            # What the scripts write is rounded, half a millisecond ahead at most.
            silent=max(seconds + microseconds / 1e6 - float(found.get("updated", 0)), 0.0),
        )

    def under_way(self, owner: str) -> int:
        """How many of a key's operations have not ended."""
        name = f"{PREFIX}owner:{owner}"
        ids = [id.decode() for id in self.redis.zrange(name, 0, -1)]
        states = {id: self.redis.hget(_key(id), "state") for id in ids}
        ended = [id for id, state in states.items() if state is None or state.decode() in ENDED]
        if ended:
            self.redis.zrem(name, *ended)
        return len(ids) - len(ended)

    def cancel(self, id: str, error: Mapping[str, Any]) -> bool:
        """Asks an operation to stop; whether it had not begun and is therefore cancelled already."""
        return bool(self._cancel(keys=[_key(id)], args=[json.dumps(error)]))

    # What follows is for the worker that performs an operation.

    def start(self, id: str) -> int:
        """Which attempt this is, from 1; 0 where there is nothing to do any more."""
        return int(self._start(keys=[_key(id)]))

    def put_back(self, id: str) -> None:
        """Undoes `start`, for a worker that was asked to stop or lost Redis."""
        self._put_back(keys=[_key(id)])

    def beat(self, id: str) -> bool:
        """A sign of life; whether the operation is to stop."""
        return bool(self._beat(keys=[_key(id)]))

    def report(self, id: str, phase: str, completed: int, total: int, unit: str) -> None:
        progress = {"phase": phase, "completed": completed, "total": total, "unit": unit}
        self._report(keys=[_key(id)], args=[json.dumps(progress)])

    def finish(self, id: str, details: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        self.report(id, "done", 1, 1, "")
        self._end(id, details, "done", "result", result)

    def fail(self, id: str, details: Mapping[str, Any], error: Mapping[str, Any]) -> None:
        state = "cancelled" if error["type"].endswith("/cancelled") else "failed"
        self._end(id, details, state, "error", error)

    def forget(self, id: str) -> None:
        """As if it had never been."""
        self.redis.delete(_key(id))

    def _end(self, id: str, details: Mapping[str, Any], state: str, field: str, value: Mapping[str, Any]) -> None:
        seconds, _ = self.redis.time()
        with self.redis.pipeline() as pipeline:
            # The details again, because Redis may have lost them since the operation began.
            mapping = {"details": json.dumps(details), "state": state, field: json.dumps(value), "updated": seconds}
            pipeline.hset(_key(id), mapping=mapping)
            pipeline.expire(_key(id), KEEP_SECONDS)
            pipeline.execute()


def ingest_id(model: str) -> str:
    return f"ingest-{model}"


def cut_id(model: str, plan: str) -> str:
    return f"cut-{model}-{plan}"


def _key(id: str) -> str:
    return f"{PREFIX}operation:{id}"
