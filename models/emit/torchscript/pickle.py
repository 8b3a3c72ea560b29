"""The few pickle opcodes that a TorchScript archive's object needs, written by hand.

Python's own pickler cannot write an instance of a class that exists only inside the archive. Sizes
never depend on the numbers written, only on how many there are, so that a file's size is known
before its contents: integers always take four bytes (eight beyond 2³¹).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

HEAD, END = b"\x80\x02", b"."
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
EMPTY_TUPLE = b")"


@lru_cache(4096)
def string(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if value < 2**31 else b"\x8a\x08" + struct.pack("<q", value)


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


@lru_cache(4096)
def integers(values: tuple[int, ...]) -> bytes:
    return tuple_(*map(integer, values)) if values else EMPTY_TUPLE


class Memo:
    """What has been written once is referred to by number after that."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def __call__(self, data: bytes) -> bytes:
        if data in self._numbers:
            return b"h" + bytes([self._numbers[data]])
        self._numbers[data] = len(self._numbers)
        return data + b"q" + bytes([self._numbers[data]])


def instance(module: str, name: str, state: Iterable[tuple[str, bytes]]) -> bytes:
    """An object of a class, made without calling it, with `state` as its attributes."""
    items = b"".join(string(key) + value for key, value in state)
    return _global(module, name) + b")\x81}(" + items + b"ub"


def tensor(
    memo: Memo, storage: str, key: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], grad: bool
) -> bytes:
    """A tensor over all `count` elements of the archive's record `data/<key>`."""
    kind = memo(_global("torch", storage))
    handle = tuple_(memo(string("storage")), kind, string(key), memo(string("cpu")), integer(count)) + b"Q"
    hooks = memo(_global("collections", "OrderedDict")) + b")R"
    arguments = tuple_(handle, integer(0), integers(shape), integers(strides), TRUE if grad else FALSE, hooks)
    return memo(_global("torch._utils", "_rebuild_tensor_v2")) + arguments + b"R"


@lru_cache(64)
def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()
