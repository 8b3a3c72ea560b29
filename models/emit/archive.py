"""A ZIP archive, as pieces that need only be written one after the other.

No seeking, no copy of the data, and nothing in it that varies: one date, one mode, and no compression but of what comes
compressed already. Without ZIP64, since a file's size is known before and must be exact: up to 4 GiB and 65,535
records.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Data = bytes | memoryview

ALIGNMENT = 64
LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
VERSION = 20
UNIX = 3 << 8
MIDNIGHT, NEW_YEAR_1980 = 0, 1 << 5 | 1
ORDINARY_FILE = 0o644 << 16
STORED, DEFLATED = 0, 8
LARGEST, MOST = 2**32 - 1, 2**16 - 1


@dataclass(frozen=True)
class Known:
    """A record's data whose CRC-32 is known."""

    data: Data
    crc: int


@dataclass(frozen=True)
class Deflated:
    """A record's data as they are to be written, and the CRC-32 and the size of what they stand for."""

    pieces: Sequence[Data]
    crc: int
    size: int


def pieces(records: Iterable[tuple[str, Data | Known | Deflated, bool]], least: int = 0) -> Iterator[Data]:
    """The archive of `(name, data, aligned)`; aligned data start at a multiple of 64 bytes of the file. One that would
    be smaller than `least` has zeros before its directory.

    Raises `OverflowError` beyond what the format holds.
    """
    offset, directory = 0, bytearray()
    count = 0
    for name, data, aligned in records:
        encoded, extra = name.encode(), filler(padding(offset, name) if aligned else 0)
        if isinstance(data, Deflated):
            written, whole, crc, method = sum(map(len, data.pieces)), data.size, data.crc, DEFLATED
        else:
            data, crc = (data.data, data.crc) if isinstance(data, Known) else (data, zlib.crc32(data))
            written, whole, method = len(data), len(data), STORED
        start, offset = offset, offset + LOCAL.size + len(encoded) + len(extra) + written
        if max(offset, whole) > LARGEST or count == MOST:
            raise OverflowError("the file would be larger than a ZIP archive without ZIP64 can be")
        common = (0, method, MIDNIGHT, NEW_YEAR_1980, crc, written, whole, len(encoded))
        yield LOCAL.pack(b"PK\3\4", VERSION, *common, len(extra)) + encoded + extra
        if isinstance(data, Deflated):
            yield from data.pieces
        else:
            yield data
        # The padding is for the data; the directory need not repeat it.
        directory += CENTRAL.pack(b"PK\1\2", UNIX | VERSION, VERSION, *common, 0, 0, 0, 0, ORDINARY_FILE, start)
        directory += encoded
        count += 1
    if (short := least - offset - len(directory) - END.size) > 0:
        yield bytes(short)
        offset += short
    yield bytes(directory) + END.pack(b"PK\5\6", 0, 0, count, count, len(directory), offset, 0)


Offset = TypeVar("Offset", int, NDArray[np.int64])


def padding(offset: Offset, name: str) -> Offset:
    """Bytes of extra field that bring the record's data to a multiple of 64; 0, or 4 at the least."""
    short = -(offset + LOCAL.size + len(name)) % ALIGNMENT
    return short + ALIGNMENT * ((short > 0) & (short < 4))


def span(size: NDArray[np.int64], name: str, following: str | None) -> NDArray[np.int64]:
    """All that an aligned record of so many bytes takes in the file, up to where the data begin of the `following`
    one, which is aligned too; None where none is."""
    end, record = size, LOCAL.size + CENTRAL.size + 2 * len(name)
    return record + (end if following is None else end + padding(end, following))


def stored(name: str, data: Data) -> int:
    """All that a record takes which is neither aligned nor deflated."""
    return LOCAL.size + CENTRAL.size + 2 * len(name) + len(data)


def filler(length: int) -> bytes:
    """An extra field of exactly `length` bytes, under the tag that torch itself pads with."""
    return b"FB" + (length - 4).to_bytes(2, "little") + bytes(length - 4) if length else b""
