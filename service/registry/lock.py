"""A lock in Redis that no crash keeps for long, and that is lost to nobody while its holder renews it."""

from __future__ import annotations

import uuid
from typing import Any

# The end stands in the value, by Redis's own clock. A key that expired as soon would be the first to be evicted from
# a full cache (`volatile-ttl`); this one outlives every artifact.
HOLD = """
local now = redis.call('time')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local token, ends = string.match(redis.call('get', KEYS[1]) or '', '^(%S+) (%d+)$')
if token and token ~= ARGV[1] and tonumber(ends) > now then return 0 end
redis.call('set', KEYS[1], ARGV[1] .. ' ' .. string.format('%.0f', now + ARGV[2]), 'ex', ARGV[3])
return 1
"""
RELEASE = """
if string.match(redis.call('get', KEYS[1]) or '', '^%S+') == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""
DAY = 24 * 3600


class Lock:
    """One holder's side of the lock at `key`, which lasts `seconds` from each `hold`; `outlives` are the seconds that
    what else is in Redis lasts."""

    def __init__(self, redis: Any, key: str, seconds: float, outlives: int) -> None:
        self._redis, self._key, self._token = redis, key, uuid.uuid4().hex
        self._times = [int(seconds * 1000), 2 * outlives + DAY]

    def hold(self) -> bool:
        """Takes the lock, or keeps it for longer; False where another has it."""
        return bool(self._redis.eval(HOLD, 1, self._key, self._token, *self._times))

    def release(self) -> None:
        """Lets go of it, if it is still held from here."""
        self._redis.eval(RELEASE, 1, self._key, self._token)
