"""A zip archive that nobody could have meant as a trap.

torch writes every entry uncompressed and back to back. An archive that does not look so is refused:
a compressed entry can be a bomb, overlapping entries can too, and where the two directories of a zip
file disagree, two readers can see two different files.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from rightrank.models.checkpoint.advice import CUT, EXPORT
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_NAME_BYTES = 1024
# A directory record: 46 bytes, the name, and extra fields that torch leaves nearly empty.
_RECORD_BYTES = 46 + 2 * _NAME_BYTES
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PIECE = 1 << 20


class Archive:
    """The entries of a zip file, each checked before the first is read.

    Names are relative to the single top folder that torch wraps an archive in.
    """

    def __init__(self, file: BinaryIO, entries: int) -> None:
        """Check the whole directory. At most `entries` entries. Raises UnsafeCheckpoint, MalformedCheckpoint."""
        self._file = file
        self._spans = _directory(file, file.seek(0, io.SEEK_END), entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __contains__(self, name: str) -> bool:
        return name in self._spans

    def size(self, name: str) -> int:
        """Bytes in the entry. Raises MalformedCheckpoint when there is no such entry."""
        return self._span(name)[1]

    def read(self, name: str, most: int | None = None) -> bytearray:
        """The entry's bytes, with their checksum checked; at most `most` of them, or UnsafeCheckpoint."""
        offset, size, checksum = self._span(name)
        if most is not None and size > most:
            raise UnsafeCheckpoint(f"The archive's {name} takes {size} bytes; at most {most} are read.")
        data = bytearray(size)
        self._file.seek(offset)
        if self._file.readinto(data) != size:  # type: ignore[attr-defined]
            raise MalformedCheckpoint(f"The archive's {name} ends early.", CUT)
        if zlib.crc32(data) != checksum:
            raise MalformedCheckpoint(f"The archive's {name} does not match its checksum.", CUT)
        return data

    def open(self, name: str) -> BinaryIO:
        """The entry as a file of its own, for one that is an archive itself; its checksum is checked first."""
        offset, size, checksum = self._span(name)
        window = _Window(self._file, offset, size)
        found = 0
        while piece := window.read(_PIECE):
            found = zlib.crc32(piece, found)
        if window.tell() != size or found != checksum:
            raise MalformedCheckpoint(f"The archive's {name} does not match its checksum.", CUT)
        window.seek(0)
        return window  # type: ignore[return-value]

    def _span(self, name: str) -> tuple[int, int, int]:
        if name not in self._spans:
            raise MalformedCheckpoint(f"The archive has no {name}.", CUT)
        return self._spans[name]


class _Window(io.RawIOBase):
    """A part of a file, to be read as if it were the whole of one."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        self._file.seek(self._start + self._at)
        count: int = self._file.readinto(view)  # type: ignore[attr-defined]
        self._at += count
        return count


def _directory(file: BinaryIO, size: int, entries: int) -> dict[str, tuple[int, int, int]]:
    """Each entry's (offset of its data, size, CRC-32), by name without the top folder."""
    start, count = _end_of_entries(file, size, entries)
    file.seek(0)
    try:
        infos = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, OverflowError, ValueError, NotImplementedError, struct.error) as error:
        raise MalformedCheckpoint("The archive's directory cannot be read.", CUT) from error
    if len(infos) != count:
        raise MalformedCheckpoint(f"The archive declares {count} entries and has {len(infos)}.", CUT)
    if not infos:
        raise MalformedCheckpoint("The archive is empty.", "Save the model again.")
    spans: list[tuple[int, int]] = []
    found: dict[str, tuple[int, int, int]] = {}
    for info in infos:
        _check(info)
        offset = _data_offset(file, info, start)
        spans.append((info.header_offset, offset + info.file_size))
        if info.filename in found:
            raise UnsafeCheckpoint(f"The archive holds two entries called {info.filename}.")
        found[info.filename] = (offset, info.file_size, info.CRC)
    _check_apart(spans, start)
    return _without_top(found)


def _end_of_entries(file: BinaryIO, size: int, entries: int) -> tuple[int, int]:
    """Where the directory begins and its number of records; nothing of it is parsed before its size is known."""
    if size < _END.size:
        raise MalformedCheckpoint("The archive is cut short.", CUT)
    file.seek(size - _END.size)
    signature, disk, first, here, count, length, start, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\x05\x06" or comment or disk or first or here != count:
        raise MalformedCheckpoint("The archive has no end record: it is cut, or bytes follow its end.", CUT)
    end = size - _END.size
    if 0xFFFF in (count, here) or 0xFFFFFFFF in (length, start) or _has_end64(file, end):
        short = (count, length, start)
        end, count, length, start = _end64(file, end)
        if any(a not in (b, 0xFFFF, 0xFFFFFFFF) for a, b in zip(short, (count, length, start), strict=True)):
            raise MalformedCheckpoint("The archive's two end records disagree.", CUT)
    if count > entries:
        raise UnsafeCheckpoint(f"The archive declares {count} entries; at most {entries} are read.")
    if length > count * _RECORD_BYTES:
        raise UnsafeCheckpoint(f"The archive's directory takes {length} bytes for {count} entries.")
    if start + length != end:
        raise MalformedCheckpoint("The archive's directory is not where its end record says.", CUT)
    return int(start), int(count)


def _has_end64(file: BinaryIO, end: int) -> bool:
    file.seek(max(0, end - _END64_LOCATOR.size))
    return file.read(4) == b"PK\x06\x07"


def _end64(file: BinaryIO, end: int) -> tuple[int, int, int, int]:
    """The 64-bit end record's position, entry count, directory size and directory start."""
    at = end - _END64_LOCATOR.size - _END64.size
    if at < 0:
        raise MalformedCheckpoint("The archive's 64-bit end record is missing.", CUT)
    file.seek(at)
    record = _END64.unpack(file.read(_END64.size))
    locator = _END64_LOCATOR.unpack(file.read(_END64_LOCATOR.size))
    if record[0] != b"PK\x06\x06" or locator[0] != b"PK\x06\x07" or locator[2] != at:
        raise MalformedCheckpoint("The archive's 64-bit end record is damaged.", CUT)
    return at, record[7], record[8], record[9]


def _check(info: zipfile.ZipInfo) -> None:
    name = info.filename
    shown = repr(name[:80])
    if len(name) > _NAME_BYTES or not name.isprintable() or info.orig_filename != name:
        raise UnsafeCheckpoint(f"The archive's entry {shown} has a name that is not printable, or too long.")
    if name.startswith("/") or "\\" in name or ":" in name or not all(name.split("/")) or _climbs(name):
        raise UnsafeCheckpoint(f"The archive's entry {shown} points outside the archive.")
    if info.flag_bits & _ENCRYPTED:
        raise UnsafeCheckpoint(f"The archive's entry {shown} is encrypted.")
    if info.compress_type != zipfile.ZIP_STORED and "/code/" in name:
        raise UnsupportedCheckpoint("The file is TorchScript, which is code.", EXPORT)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise UnsafeCheckpoint(
            f"The archive's entry {shown} is compressed.",
            "torch.save and torch.export.save store entries uncompressed; upload the file that they wrote.",
        )


def _climbs(name: str) -> bool:
    return any(part in (".", "..") for part in name.split("/"))


def _data_offset(file: BinaryIO, info: zipfile.ZipInfo, start: int) -> int:
    """Where the entry's bytes begin; its own header has to agree with the directory."""
    if info.header_offset < 0 or info.header_offset + _LOCAL.size > start:
        raise MalformedCheckpoint(f"The archive's entry {info.filename} lies outside the file.", CUT)
    file.seek(info.header_offset)
    header = _LOCAL.unpack(file.read(_LOCAL.size))
    name = file.read(header[9])
    if header[0] != b"PK\x03\x04" or name != info.filename.encode() or header[3] != zipfile.ZIP_STORED:
        raise UnsafeCheckpoint(f"The archive's two headers of {info.filename} disagree.")
    offset = info.header_offset + _LOCAL.size + header[9] + header[10]
    if offset + info.file_size > start:
        raise MalformedCheckpoint(f"The archive's entry {info.filename} is longer than the file.", CUT)
    return int(offset)


def _check_apart(spans: list[tuple[int, int]], start: int) -> None:
    end = 0
    for first, last in sorted(spans):
        if first < end:
            raise UnsafeCheckpoint("Entries of the archive overlap.")
        end = last
    if end > start:
        raise UnsafeCheckpoint("Entries of the archive overlap its directory.")


def _without_top(found: dict[str, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
    tops = {name.partition("/")[0] for name in found}
    if len(tops) != 1 or any("/" not in name for name in found):
        return found
    return {name.partition("/")[2]: span for name, span in found.items()}
