"""Bytes kept in this process: the artifacts that are asked for again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Nearby:
    """The values used last, at most `limit` bytes of them in all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Keeps a value, dropping those that have waited longest; one above the limit is not kept."""
        with self._lock:
            if key in self._values or len(value) > self.limit:
                return
            self._values[key] = value
            self._bytes += len(value)
            while self._bytes > self.limit:
                self._bytes -= len(self._values.popitem(last=False)[1])
