"""Multipart forms, read as they come: files go to disk, their SHA-256 is taken on the way, memory stays flat."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from rightrank.service.api.bodies import chunks
from rightrank.service.problems import Problem
from rightrank.service.settings import Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD_LIMIT = 64 * 1024
# Boundaries and headers of a form's parts, on top of what they carry.
FORM_OVERHEAD = 64 * 1024
PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A received file: where it lies until the form is closed, its digest and its size."""

    path: Path
    sha256: str
    size: int
    filename: str


@dataclass
class Form:
    """What a form held: files and text fields by name."""

    files: dict[str, Upload] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


class Receiver:
    """Takes the pieces of a form's body, in any cut."""

    def __init__(self, boundary: bytes, folder: Path, files: Collection[str], fields: Collection[str]) -> None:
        self.form = Form()
        self._folder = folder
        self._file_names, self._field_names = files, fields
        self._header, self._value, self._disposition = b"", b"", b""
        self._name, self._filename = "", ""
        self._text: bytearray | None = None
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._whole = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._on_data,
            "on_part_end": self._end,
            "on_end": self._on_end,
        }
        self._parser = MultipartParser(boundary, callbacks, max_header_count=8, max_header_size=4096)

    def write(self, data: bytes) -> None:
        """Raises `Problem` where the form is not as it should be."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Problem("upload-incomplete", "The body is not a valid multipart form.") from error

    def finish(self) -> Form:
        if not self._whole:
            raise Problem("upload-incomplete", "The form ends before its last boundary.", "Upload it again.")
        return self.form

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        self._header, self._value, self._disposition = b"", b"", b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._filename = options.get(b"filename", b"").decode("utf-8", "replace")
        if self._name in self.form.files or self._name in self.form.fields:
            raise Problem("invalid-request", f"The form has {self._name!r} twice.")
        if self._name in self._file_names:
            self._file = (self._folder / self._name).open("wb", buffering=0)
            self._hash, self._size = hashlib.sha256(), 0
        elif self._name in self._field_names:
            self._text = bytearray()
        else:
            known = ", ".join(sorted({*self._file_names, *self._field_names}))
            raise Problem("invalid-request", f"The form has a field {self._name[:100]!r}.", f"Known are {known}.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            piece = memoryview(data)[start:end]
            self._hash.update(piece)
            self._size += len(piece)
            self._file.write(piece)
        elif self._text is not None:
            self._text += data[start:end]
            if len(self._text) > FIELD_LIMIT:
                raise Problem("invalid-request", f"The field {self._name!r} is larger than {FIELD_LIMIT} bytes.")

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            path = self._folder / self._name
            self.form.files[self._name] = Upload(path, self._hash.hexdigest(), self._size, self._filename)
            self._file = None
        elif self._text is not None:
            try:
                self.form.fields[self._name] = self._text.decode()
            except UnicodeDecodeError as error:
                raise Problem("invalid-request", f"The field {self._name!r} is not UTF-8.") from error
            self._text = None

    def _on_end(self) -> None:
        self._whole = True


async def receive(
    request: Request, folder: Path, files: Collection[str], fields: Collection[str], settings: Settings
) -> Form:
    """The form in a request's body, its files in `folder`. Raises `Problem` beyond the upload limit, where the disk of
    `folder` gets too full, and where nothing comes for too long."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem("invalid-request", "The body is not multipart/form-data.", "curl -F sends such a form.")
    limit, reserve = settings.upload_limit, settings.disk_reserve
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdigit() and len(declared) < 20 else 0
    if size > limit + FORM_OVERHEAD or len(declared) >= 20:
        raise too_large(limit)
    await run_in_threadpool(make_sure_of_room, folder, size, reserve)
    receiver = Receiver(options[b"boundary"], folder, files, fields)

    def write(piece: bytes) -> None:
        make_sure_of_room(folder, len(piece), reserve)
        receiver.write(piece)

    try:
        async for piece in _pieces(request, limit + FORM_OVERHEAD, settings.body_seconds):
            await run_in_threadpool(write, piece)
    except FormParserError as error:
        raise Problem("upload-incomplete", "The body is not a valid multipart form.") from error
    finally:
        receiver.close()
    form = receiver.finish()
    if sum(upload.size for upload in form.files.values()) > limit:
        raise too_large(limit)
    return form


async def _pieces(request: Request, limit: int, patience: float) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a thread's time."""
    gathered, total = bytearray(), 0
    async for chunk in chunks(request, patience):
        total += len(chunk)
        if total > limit:
            raise too_large(limit - FORM_OVERHEAD)
        gathered += chunk
        if len(gathered) >= PIECE:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def make_sure_of_room(folder: Path, size: int, reserve: int) -> None:
    """Raises `Problem` where `size` bytes more would leave less than `reserve` on the folder's disk."""
    free = shutil.disk_usage(folder).free
    if free - size < reserve:
        raise no_room(f"{size} bytes more would leave {max(free - size, 0)} free on its disk, and {reserve} are kept.")


@contextlib.contextmanager
def storing() -> Iterator[None]:
    """A disk that is full is a problem that says so. Raises `Problem`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise no_room("Its disk, or what it may use of it, is full.") from error


def no_room(detail: str) -> Problem:
    return Problem(
        "insufficient-storage",
        f"The service has no room for the upload. {detail}",
        "Its operator can delete models, or give it a larger disk.",
    )


def too_large(limit: int) -> Problem:
    return Problem(
        "upload-too-large",
        f"The upload is larger than {limit} bytes.",
        "The operator can raise RIGHTRANK_UPLOAD_LIMIT.",
        headers={"Connection": "close"},
        members={"limit": limit},
    )
