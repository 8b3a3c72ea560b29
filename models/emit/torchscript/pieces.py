"""Pieces of a pickle that are constant bytes, or how many a field has (see `text`): what `pickle` writes, where sizes
depend on the plan."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from rightrank.models.emit.torchscript.pickle import string
from rightrank.models.program.dtypes import DTYPES

# The pickle's memo: how a tensor is made, its hooks, false, true, and then storages.
REBUILD, HOOKS = b"ctorch._utils\n_rebuild_tensor_v2\nq\0", b"ccollections\nOrderedDict\n)Rq\x01"
FIRST = 4


def entry(name: str, value: bytes) -> bytes:
    """An attribute and its value; one without a name is only there to be put into the memo."""
    return string(name) + value


def persistent(dtype: str, key: str) -> bytes:
    """A storage, up to the number of its elements."""
    kind = f"ctorch\n{DTYPES[dtype].storage}\n".encode()
    return b"(" + string("storage") + kind + string(key) + string("cpu")


def wide(values: Sequence[int | None]) -> int:
    """The bytes of a field for numbers up to these."""
    return 2 if max(value or 0 for value in values) < 1 << 16 else 4


def number_template(extremes: Sequence[int | None]) -> list[bytes | int]:
    """A number that is always the same, or a field where it is not."""
    value = extremes[0]
    assert value is not None
    if extremes[0] != extremes[1]:
        return [b"M", 2] if wide(extremes) == 2 else [b"J", 4]
    if value < 256:
        return [b"K" + bytes([value])]
    return [b"M" + struct.pack("<H", value)] if value < 1 << 16 else [b"J" + struct.pack("<i", value)]


def merged(pieces: Iterable[bytes | int]) -> list[bytes | int]:
    """Constant bytes next to each other as one."""
    found: list[bytes | int] = []
    for piece in pieces:
        if isinstance(piece, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def in_pickle(dictionary: bytes) -> bytes:
    return entry("", string(dictionary.decode("ascii")))
