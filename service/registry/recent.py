"""Values that a process keeps because it may need them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The last `size` values used, by key."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V | None]) -> V | None:
        """The value of `key`, made and kept where it is not there and can be made."""
        value = self._values.get(key)
        if value is None:
            value = make()
            if value is None:
                return None
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        self._values[key] = value
        try:
            self._values.move_to_end(key)
            while len(self._values) > self.size:
                self._values.popitem(last=False)
        except KeyError:  # another thread was faster
            pass

    def drop(self, unwanted: Callable[[K], bool]) -> None:
        for key in [key for key in list(self._values) if unwanted(key)]:
            self._values.pop(key, None)
