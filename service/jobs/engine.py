"""The job engine: queues in Redis, a lease for each job under way, one script for each verb.

    waiting      a device waits for the answer
    ingest       a publisher does
    background   nobody does
    executorch   whoever waits, of files that only workers of their own make (`Format.separate`), by the format's name

An operation is its own job. It is a hash; while it waits its id is in a queue (by when it came) or in `later` (by
when it is due again), while it runs in `leases` (by when it ends unless it is renewed). `take` gives a worker the
first job of the first of its queues, with a number that no other attempt has; whatever an attempt says afterwards
counts only while the hash has its number. One whose lease has ended goes back to its queue the next time that any
worker looks for work. Each script runs alone and whole, so there is no state between two of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

from rightrank.models.emit.format import FIRST
from rightrank.models.emit.formats import FORMATS
from rightrank.service.jobs.operations import ENDED, IDLE, Operation, kind_of
from rightrank.service.registry.cache import PREFIX, Cache
from rightrank.service.settings import Settings

WAITING, INGEST, BACKGROUND = QUEUES = ("waiting", "ingest", "background")
SEPARATE = tuple(name for name, versions in FORMATS.items() if versions[-1].separate)
# How long it is taken for granted that a queue is served which a worker has looked into: it may be at a long job.
SERVED_SECONDS = 3600
# An ended operation is of interest for so long; one that has not ended stays.
KEEP_SECONDS = 24 * 3600
# Without a sign of life for so long an attempt is over, and another worker's turn.
LEASE_SECONDS = 6.0
# How long an idle worker rests before it looks for leases that have ended. A job that is sent wakes it at once.
IDLE_SECONDS = 1.0
# What was given up is not begun again for so long because somebody asks for it: it would only take workers down.
GIVEN_UP_SECONDS = 600.0

COMMON = f"""
local call, P = redis.call, '{PREFIX}'
local now = call('time')
now = now[1] + now[2] / 1000000
local function op(id) return P .. 'operation:' .. id end
local function get(id, field) return call('hget', op(id), field) end
local function waits(id)
  return call('zscore', P .. 'queue:' .. (get(id, 'queue') or ''), id) or call('zscore', P .. 'later', id)
end
local function enqueue(id)
  local queue = get(id, 'queue')
  call('hset', op(id), 'state', 'queued', 'attempt', '')
  call('zadd', P .. 'queue:' .. queue, get(id, 'since'), id)
  call('rpush', P .. 'bell:' .. queue, 1)
  call('ltrim', P .. 'bell:' .. queue, 0, 63)
end
local function leave(id)
  call('zrem', P .. 'queue:' .. (get(id, 'queue') or ''), id)
  call('zrem', P .. 'later', id)
  call('zrem', P .. 'leases', id)
end
local function mine(id, attempt) return get(id, 'state') == 'running' and get(id, 'attempt') == attempt end
"""
SEND = """
local id, queue = KEYS[1], ARGV[1]
local state = get(id, 'since') and get(id, 'state')  -- an earlier version's has none
if state == 'queued' or state == 'running' then
  if queue == 'waiting' and get(id, 'queue') == 'background' then
    call('hset', op(id), 'queue', queue)
    if call('zrem', P .. 'queue:background', id) == 1 then enqueue(id) end
  end
  if not waits(id) and not call('zscore', P .. 'leases', id) then enqueue(id) end
  return 0
end
if state == 'failed' and ARGV[4] ~= '' and get(id, 'gave_up') and now - get(id, 'updated') < tonumber(ARGV[4]) then
  return 0
end
leave(id)
call('del', op(id))
call('hset', op(id), 'queue', queue, 'since', now, 'updated', now, 'details', ARGV[2], 'owner', ARGV[3])
enqueue(id)
return 1
"""
TAKE = """
local seen = tonumber(call('get', P .. 'seen') or now)
call('set', P .. 'seen', now)
for _, id in ipairs(call('zrangebyscore', P .. 'leases', '-inf', now, 'limit', 0, 100)) do
  if now - seen > 3 and tonumber(call('zscore', P .. 'leases', id)) > seen and not get(id, 'spared') then
    call('hset', op(id), 'spared', 1)  -- Redis may have stood still: who lives has a moment to say so, once
    call('zadd', P .. 'leases', now + 2, id)
  else
    call('zrem', P .. 'leases', id)
    if get(id, 'state') == 'running' then
      call('hincrby', op(id), 'deaths', 1)
      enqueue(id)
    end
  end
end
for _, id in ipairs(call('zrangebyscore', P .. 'later', '-inf', now, 'limit', 0, 100)) do
  call('zrem', P .. 'later', id)
  if get(id, 'state') == 'queued' then enqueue(id) end
end
for n = 3, #ARGV do
  call('set', P .. 'served:' .. ARGV[n], 1, 'ex', ARGV[2])
  local id = call('zpopmin', P .. 'queue:' .. ARGV[n])[1]
  while id do
    if get(id, 'state') == 'queued' then
      local attempt = string.format('%.0f', now * 1000000)
      local tries = call('hincrby', op(id), 'tries', 1)
      call('hdel', op(id), 'spared')
      call('hset', op(id), 'state', 'running', 'attempt', attempt, 'updated', now)
      call('zadd', P .. 'leases', now + ARGV[1], id)
      return {id, attempt, get(id, 'details'), tries, tonumber(get(id, 'deaths') or 0)}
    end
    id = call('zpopmin', P .. 'queue:' .. ARGV[n])[1]
  end
end
return false
"""
BEAT = """
local id = KEYS[1]
if call('exists', op(id)) == 0 then
  call('hset', op(id), 'queue', ARGV[4], 'since', now, 'details', ARGV[3], 'state', 'running', 'attempt', ARGV[1])
end
if not mine(id, ARGV[1]) then return get(id, 'state') == 'cancelled' and 'cancelled' or 'lost' end
call('hset', op(id), 'updated', now)
call('hdel', op(id), 'spared')
call('zadd', P .. 'leases', now + ARGV[2], id)
if now - tonumber(call('get', P .. 'seen') or now) <= 3 then call('set', P .. 'seen', now) end
return 'ours'
"""
REPORT = """
if not mine(KEYS[1], ARGV[1]) then return 0 end
call('hset', op(KEYS[1]), 'progress', ARGV[2], 'updated', now)
return 1
"""
SAVED = "if mine(KEYS[1], ARGV[1]) then call('hdel', op(KEYS[1]), 'tries', 'deaths') end"
GIVE_BACK = """
local id, pause = KEYS[1], tonumber(ARGV[2])
if not mine(id, ARGV[1]) then return 0 end
call('zrem', P .. 'leases', id)
if pause < 0 then
  if tonumber(get(id, 'tries') or 0) > 0 then call('hincrby', op(id), 'tries', -1) end
  enqueue(id)
else
  call('hset', op(id), 'state', 'queued', 'attempt', '', 'updated', now, 'progress', ARGV[3])
  call('zadd', P .. 'later', now + pause, id)
end
return 1
"""
END = """
local id = KEYS[1]
if ARGV[1] ~= '' and not mine(id, ARGV[1]) then return 0 end
if ARGV[1] == '' and get(id, 'state') ~= 'queued' and get(id, 'state') ~= 'running' then return 0 end
leave(id)
call('hset', op(id), 'state', ARGV[2], ARGV[3], ARGV[4], 'updated', now, 'attempt', '')
if ARGV[5] ~= '' then call('hset', op(id), 'gave_up', 1) end
call('expire', op(id), ARGV[6])
return 1
"""


def queue_of(id: str, details: Mapping[str, Any], otherwise: str = WAITING) -> str:
    """Where an operation goes that does what `details` say; a cut, of which any worker makes the file, `otherwise`."""
    if kind_of(id) == "ingest":
        return INGEST
    return queue_for(details.get("plan", {}).get("output", {}).get("format", FIRST.format), otherwise)


def queue_for(format: str, otherwise: str) -> str:
    """Where cuts to files of a format go."""
    return format if format in SEPARATE else otherwise


@dataclass(frozen=True, slots=True)
class Attempt:
    """What `take` hands out. `number` is this attempt's alone; `tries` counts it too, `deaths` are those of workers."""

    operation: str
    number: str
    details: Mapping[str, Any]
    tries: int
    deaths: int


class Engine:
    """The operations in one Redis."""

    def __init__(self, settings: Settings, cache: Cache) -> None:
        self.redis = cache.redis
        # A worker's rest takes longer than any other answer may.
        self._resting: Any = redis.Redis.from_url(settings.redis, socket_timeout=IDLE_SECONDS + 4)
        self._served: dict[str, bool] = {}
        register = self.redis.register_script
        self._send, self._take, self._beat = register(COMMON + SEND), register(COMMON + TAKE), register(COMMON + BEAT)
        self._report, self._saved = register(COMMON + REPORT), register(COMMON + SAVED)
        self._give_back, self._end = register(COMMON + GIVE_BACK), register(COMMON + END)

    def send(self, id: str, queue: str, details: Mapping[str, Any], owner: str = "", insist: bool = False) -> bool:
        """Makes sure that an operation is under way; whether it begins anew. One that waits in the background is moved
        to where a device waits; `insist`: also what was given up just now."""
        spared = "" if insist or queue == INGEST else GIVEN_UP_SECONDS
        begun = bool(self._send(keys=[id], args=[queue, json.dumps(details), owner, spared]))
        if begun and owner:
            self.redis.zadd(f"{PREFIX}owner:{owner}", {id: 0})
            self.redis.expire(f"{PREFIX}owner:{owner}", KEEP_SECONDS)
        return begun

    def get(self, id: str) -> Operation | None:
        """The operation as Redis knows it."""
        found = {key.decode(): value.decode() for key, value in self.redis.hgetall(f"{PREFIX}operation:{id}").items()}
        if "details" not in found:
            return None
        read = {name: json.loads(found.get(name, "null")) for name in ("details", "progress", "result", "error")}
        read["progress"] = read["progress"] or IDLE
        return Operation(id, found["state"], **read, owner=found.get("owner", ""))

    def unfinished(self, most: int) -> list[Operation]:
        """At most so many operations that have not ended: those that run, then those that wait, in the order in which
        they will be taken."""
        keys = ["leases", *(f"queue:{queue}" for queue in (*QUEUES, *SEPARATE)), "later"]
        ids = [id.decode() for key in keys for id in self.redis.zrange(f"{PREFIX}{key}", 0, most - 1)]
        found = (self.get(id) for id in list(dict.fromkeys(ids))[:most])
        return [operation for operation in found if operation is not None and not operation.done]

    def length(self, queue: str) -> int:
        """How many jobs wait in a queue."""
        return int(self.redis.zcard(f"{PREFIX}queue:{queue}"))

    def served(self, queue: str) -> bool:
        """Whether a worker has looked into the queue lately; where Redis does not answer, what it said last."""
        try:
            self._served[queue] = bool(self.redis.exists(f"{PREFIX}served:{queue}"))
        except redis.RedisError:
            if queue not in self._served:
                raise
        return self._served[queue]

    def under_way(self, owner: str) -> int:
        """How many of a key's operations have not ended."""
        name = f"{PREFIX}owner:{owner}"
        ids = [id.decode() for id in self.redis.zrange(name, 0, -1)]
        states = {id: self.redis.hget(f"{PREFIX}operation:{id}", "state") for id in ids}
        ended = [id for id, state in states.items() if state is None or state.decode() in ENDED]
        if ended:
            self.redis.zrem(name, *ended)
        return len(ids) - len(ended)

    def cancel(self, id: str, error: Mapping[str, Any]) -> bool:
        """Ends an operation that has not ended, at once: an attempt at it finds that it is none any more."""
        return bool(self._end(keys=[id], args=["", "cancelled", "error", json.dumps(error), "", KEEP_SECONDS]))

    # What follows is for the worker that performs an operation.

    def take(self, queues: Sequence[str], rest: float = IDLE_SECONDS) -> Attempt | None:
        """The next job of these queues, in the order of their urgency; None where none came for `rest` seconds."""
        found = self._take(args=[LEASE_SECONDS, SERVED_SECONDS, *queues])
        if not found and rest and self._resting.blpop([f"{PREFIX}bell:{queue}" for queue in queues], rest):
            found = self._take(args=[LEASE_SECONDS, SERVED_SECONDS, *queues])
        if not found:
            return None
        id, number, details, tries, deaths = found
        return Attempt(id.decode(), number.decode(), json.loads(details), tries, deaths)

    def beat(self, attempt: Attempt) -> Literal["ours", "lost", "cancelled"]:
        """Renews the lease, also where Redis has forgotten the operation; whose that is by now."""
        arguments = [attempt.number, LEASE_SECONDS, json.dumps(attempt.details)]
        arguments.append(queue_of(attempt.operation, attempt.details))
        answer: bytes = self._beat(keys=[attempt.operation], args=arguments)
        return cast(Literal["ours", "lost", "cancelled"], answer.decode())

    def report(self, attempt: Attempt, progress: Mapping[str, Any]) -> None:
        self._report(keys=[attempt.operation], args=[attempt.number, json.dumps(progress)])

    def saved(self, attempt: Attempt) -> None:
        """What has been done so far will not have to be done again: the count of tries starts over."""
        self._saved(keys=[attempt.operation], args=[attempt.number])

    def give_back(self, attempt: Attempt, pause: float | None = None) -> bool:
        """To be tried again in `pause` seconds; without one at once, as if this attempt had not been."""
        progress = {**IDLE, "phase": "waiting to try again"}
        arguments = [attempt.number, -1 if pause is None else pause, json.dumps(progress)]
        return bool(self._give_back(keys=[attempt.operation], args=arguments))

    def finish(self, attempt: Attempt, result: Mapping[str, Any]) -> bool:
        """Whether it was still this attempt's to end; so in `fail`."""
        self.report(attempt, {"phase": "done", "completed": 1, "total": 1, "unit": ""})
        return self._ended(attempt, "done", "result", result)

    def fail(self, attempt: Attempt, error: Mapping[str, Any], gave_up: bool = False) -> bool:
        state = "cancelled" if error["type"].endswith("/cancelled") else "failed"
        return self._ended(attempt, state, "error", error, gave_up)

    def _ended(self, attempt: Attempt, state: str, field: str, value: Mapping[str, Any], gave_up: bool = False) -> bool:
        arguments = [attempt.number, state, field, json.dumps(value), "1" if gave_up else "", KEEP_SECONDS]
        return bool(self._end(keys=[attempt.operation], args=arguments))
