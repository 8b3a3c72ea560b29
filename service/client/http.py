"""A thin client over HTTP: what the command line uses, and what a program may use in its place.

ClientError
├── Problem        the server refused, in its own words (RFC 9457)
├── Unreachable    no answer could be had
├── Damaged        what arrived is not what the server says it sent
├── Unwritable     the file cannot be written
└── ScriptError    a script that was to measure it did not (`script.py`)
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import quote

import httpx

from rightrank.models.card import checked, written
from rightrank.models.progress import Progress, silent

CHUNK = 1 << 20
WAIT = 20
"""Seconds the server may hold one request while it cuts and measures."""
PATIENCE = 5
"""Times in a row that a request may fail without a single new byte before the client gives up."""
LONG_PATIENCE = 3 * PATIENCE
"""Times in a row that what was waited for may not be there in the end."""
BUSY = (429, 502, 503, 504)
"""Statuses that ask to come back later."""
UNREADY = ("not-ready", "model-not-ready")
"""Kinds of problems that name the operation after which the file can be had."""
ETAG = re.compile(rb'"[\x21\x23-\x7e]+"')
"""A strong ETag: what a download may be continued by."""


class ClientError(Exception):
    """A request that did not succeed; the text is for people."""


class Unreachable(ClientError):
    """No answer could be had from the server."""


class Damaged(ClientError):
    """What arrived is not what the server says it sent."""


class Unwritable(ClientError):
    """The file cannot be written: there is no room, or another download is writing it."""


class Problem(ClientError):
    """The server's refusal: its problem document, or the little that could be made of its answer."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = dict(document)
        words = [str(document.get(key) or "") for key in ("detail", "hint")]
        super().__init__(" ".join(filter(None, words)) or str(document.get("title", "The request failed.")))

    @property
    def status(self) -> int:
        return int(self.document.get("status", 0))

    @property
    def kind(self) -> str:
        """The last part of the problem's type: `budget-unreachable`."""
        return str(self.document.get("type", "")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]

    @staticmethod
    def of(response: httpx.Response) -> Problem:
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            document = {"title": f"{response.status_code} {response.reason_phrase} from {response.url}"}
        return Problem({"status": response.status_code, **document})


class Client:
    """Talks to one server. `key` is sent as a bearer token; `transport` replaces the network."""

    def __init__(self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(60.0, connect=10.0, read=WAIT + 60.0),
            transport=transport,
            # A proxy in the environment is for what lies beyond this machine.
            trust_env=httpx.URL(self.url).host not in ("127.0.0.1", "::1", "localhost"),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def push(
        self,
        checkpoint: Path,
        *,
        name: str | None = None,
        architecture: str | None = None,
        evaluation: Path | None = None,
        calibration: Path | None = None,
        options: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        progress: Progress = silent,
    ) -> dict[str, Any]:
        """Uploads, streamed from disk; returns the server's `{id, operation}`. Raises DataError for what is no card."""
        fields = {
            "name": name,
            "architecture": architecture,
            "options": json.dumps(options) if options else None,
            "card": written(checked(card)) if card else None,
        }
        files = {"checkpoint": checkpoint, "evaluation": evaluation, "calibration": calibration}
        with contextlib.ExitStack() as opened:
            meter = _Meter(progress)
            parts = {
                field: (path.name, meter.watch(opened.enter_context(path.open("rb"))))
                for field, path in files.items()
                if path is not None
            }
            data = {field: value for field, value in fields.items() if value is not None}
            response = self._send("POST", "/models", data=data, files=parts)
        answer: dict[str, Any] = response.json()
        return answer

    def wait(
        self, operation: str, progress: Progress = silent, noted: Callable[[str], None] = lambda note: None
    ) -> dict[str, Any]:
        """The operation once it is done; Problem if it failed. `noted` is called with what is known of the model on the
        way, once."""
        told = None
        for attempt in itertools.count():
            response = self._patiently("GET", f"/operations/{operation}")
            state: dict[str, Any] = response.json()
            if state.get("error"):
                raise Problem(state["error"])
            if state.get("done"):
                return state
            now = state.get("progress") or {}
            if (note := now.get("note")) and note != told:
                noted(told := note)
            progress(
                now.get("phase") or "waiting for a worker",
                now.get("completed") or 0,
                now.get("total") or 0,
                now.get("unit") or "",
            )
            time.sleep(min(0.1 * 1.2 ** min(attempt, 20), 1.0))
        raise AssertionError("unreachable")

    def pull(self, reference: str, size: Mapping[str, Any], file: Path, progress: Progress = silent) -> dict[str, str]:
        """Downloads the artifact of `reference` at `size` (the query: `{"budget": 0.3}`) into `file`.

        The bytes gather in `file.part`, beside it their ETag in `file.part.etag`; a part that is already
        there is continued. The SHA-256 is checked before `file` appears. Returns the answer's headers,
        their names in lower case. What is not ready is waited for, unless `size` says `ready`.
        """
        with _Part(file) as part:
            failures, waited = 0, set[str]()
            while True:
                before, known = part.size, len(waited)
                try:
                    headers = self._fetch(reference, size, part, progress, waited)
                except (httpx.TransportError, ClientError) as error:
                    failures = 1 if part.size > before else failures + 1
                    if failures >= PATIENCE or not _passes(error):
                        raise _plain(error, self.url) from error
                    _pause(failures)
                    continue
                if headers is not None:
                    part.finish()
                    return headers
                # What is to be certified is measured size by size.
                failures += len(waited) == known
                if failures >= LONG_PATIENCE:
                    raise Unreachable(f"{self.url} says again and again that it has made the file, and has not.")

    def _fetch(
        self, reference: str, size: Mapping[str, Any], part: _Part, progress: Progress, waited: set[str]
    ) -> dict[str, str] | None:
        """One request. None where the file is not there yet and the next request should be; `waited` then has the
        operation that was waited for."""
        request = {"Prefer": f"respond-async, wait={WAIT}", "Accept-Encoding": "identity", **part.conditions()}
        path = _path(reference)
        with self._http.stream("GET", path, params=dict(size), headers=request) as response:
            if response.status_code == 416:
                part.empty()
                return None
            if response.status_code == 202:
                operation = str(json.loads(response.read())["operation"])
            elif response.status_code in (200, 206):
                part.receive(response, progress)
                return dict(response.headers)
            else:
                response.read()
                problem = Problem.of(response)
                operation = str(problem.document.get("operation") or "").rsplit("/", 1)[-1]
                if problem.kind not in UNREADY or not operation or size.get("ready"):
                    raise problem
        self.wait(operation, progress)
        waited.add(operation)
        return None

    def models(self) -> Iterator[dict[str, Any]]:
        """Every model, newest first, page by page."""
        cursor: str | None = None
        while True:
            page = self._patiently("GET", "/models", params={"cursor": cursor} if cursor else {}).json()
            yield from page["models"]
            cursor = page.get("next")
            if not cursor:
                return

    def show(self, reference: str) -> dict[str, Any]:
        """The description of a model."""
        description: dict[str, Any] = self._patiently("GET", _path(reference)).json()
        return description

    def curve(self, reference: str, precision: str | None = None, format: str | None = None) -> list[dict[str, Any]]:
        """What has been measured of a model's files in a precision, by default its publisher's, and in a format, by
        default TorchScript, the smallest first."""
        query = {name: value for name, value in (("precision", precision), ("format", format)) if value}
        points: list[dict[str, Any]] = self._patiently("GET", f"{_path(reference)}/curve", params=query).json()[
            "points"
        ]
        return points

    def report(self, reference: str, sha256: str, metric: str, number: Mapping[str, Any]) -> dict[str, Any]:
        """Reports what was measured of the file with this SHA-256: `value`, and as far as they are known `n`, `low`,
        `high` and `higher_is_better`. The report as it stands then."""
        path = f"{_path(reference)}/reports/{quote(sha256, safe='')}/{quote(metric, safe='')}"
        found: dict[str, Any] = self._patiently("PUT", path, json=dict(number)).json()
        return found

    def delete(self, reference: str, purge: bool = False) -> dict[str, Any]:
        """Deletes a model; its id, its names, and until when it can be had back (seconds since 1970; None: it is
        forgotten, as `purge` asks)."""
        query = {"purge": "true"} if purge else {}
        gone: dict[str, Any] = self._send("DELETE", _path(reference), params=query).json()
        return gone

    def undelete(self, reference: str) -> dict[str, Any]:
        """Has a deleted model back, by its id or by name@version."""
        back: dict[str, Any] = self._send("POST", f"{_path(reference)}/undelete").json()
        return back

    def name(self, name: str) -> dict[str, Any]:
        """The versions and aliases of a name."""
        found: dict[str, Any] = self._patiently("GET", f"/names/{quote(name, safe='')}").json()
        return found

    def move(self, name: str, alias: str, version: int | None) -> dict[str, Any]:
        """Has `name@alias` stand for a version, or for none; the name as it is then."""
        path = f"/names/{quote(name, safe='')}/aliases/{quote(alias, safe='')}"
        if version is None:
            found: dict[str, Any] = self._send("DELETE", path).json()
        else:
            found = self._send("PUT", path, json={"version": version}).json()
        return found

    def retry(self, operation: str) -> dict[str, Any]:
        """Has a failed operation tried again, whose upload or model is still there; what it is now."""
        state: dict[str, Any] = self._send("POST", f"/operations/{quote(operation, safe='')}/retry").json()
        return state

    def ready(self) -> bool:
        """Whether the server answers and has all it needs."""
        try:
            return self._http.get("/readyz", timeout=1.0).status_code == 200
        except httpx.TransportError:
            return False

    def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **rest)
        except httpx.TransportError as error:
            raise _plain(error, self.url) from error
        if response.is_error:
            raise Problem.of(response)
        return response

    def _patiently(self, method: str, path: str, **rest: Any) -> httpx.Response:
        """As `_send`, for a request that may be repeated: outlives a server that restarts or is busy."""
        for failures in range(1, PATIENCE):
            try:
                return self._send(method, path, **rest)
            except ClientError as error:
                if not _passes(error):
                    raise
                _pause(failures)
        return self._send(method, path, **rest)


class _Part:
    """The bytes of a file that have arrived so far, which one download at a time may write."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.path = file.with_name(file.name + ".part")
        self.etag = file.with_name(file.name + ".part.etag")
        self._bytes = -1

    def __enter__(self) -> _Part:
        if self.file.is_dir():
            raise Unwritable(f"{self.file} is a folder. Name a file with -o.")
        while True:
            self._bytes = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self._bytes, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._close()
                raise Unwritable(
                    f"Another download is writing {self.path}. Wait for it, or name another file."
                ) from error
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._bytes), self.path.stat()):
                    return self
            # Another download has ended meanwhile, and what was opened is its file.
            self._close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bytes >= 0 and not self.size:
            self.path.unlink(missing_ok=True)
            self.etag.unlink(missing_ok=True)
        self._close()

    @property
    def size(self) -> int:
        return os.fstat(self._bytes).st_size

    def conditions(self) -> dict[str, str]:
        """The headers that ask for the rest only, as long as the whole is still the same. A part whose ETag is none, as
        when the power went, is thrown away."""
        etag = b""
        with contextlib.suppress(FileNotFoundError):
            etag = self.etag.read_bytes()
        if not ETAG.fullmatch(etag):
            self.empty()
        return {"Range": f"bytes={self.size}-", "If-Range": etag.decode("latin-1")} if self.size else {}

    def receive(self, response: httpx.Response, progress: Progress) -> None:
        """Appends the body. With nothing kept, Damaged if the whole does not have the digest announced, and Unwritable
        where the room ends on the way."""
        if response.status_code == 200:
            self.empty()
            self._remember(response.headers.get("etag", ""))
        elif not response.headers.get("content-range", "").startswith(f"bytes {self.size}-"):
            self.empty()
            raise Damaged("The server continued the file at another place than was asked.")
        arrived = self.size
        rest = int(response.headers.get("content-length", 0))
        total = arrived + rest
        disk = shutil.disk_usage(self.path.parent)
        if disk.total and rest > disk.free:
            raise Unwritable(
                f"There is no room for {self.file}: it takes {rest:,} more bytes, and {disk.free:,} are free."
            )
        digest = hashlib.sha256()
        os.lseek(self._bytes, 0, os.SEEK_SET)
        while piece := os.read(self._bytes, CHUNK):
            digest.update(piece)
        progress("downloading", arrived, total, "bytes")
        for piece in response.iter_raw():
            self._write(piece)
            digest.update(piece)
            arrived += len(piece)
            progress("downloading", arrived, total, "bytes")
        os.fsync(self._bytes)
        if digest.digest() != sha256_of(response.headers.get("repr-digest", "")):
            self.empty()
            raise Damaged("What arrived does not have the digest that the server announced; nothing was kept.")

    def finish(self) -> None:
        """The part becomes the file, all at once."""
        self.path.replace(self.file)
        self.etag.unlink(missing_ok=True)
        self._settle()
        self._close()

    def empty(self) -> None:
        """Begins anew: the ETag goes first, so that it never stands beside the bytes of another version."""
        self.etag.unlink(missing_ok=True)
        os.ftruncate(self._bytes, 0)

    def _remember(self, etag: str) -> None:
        """Keeps the ETag, on the disk before the first byte that it is of. Without one the part cannot be continued."""
        if not ETAG.fullmatch(etag.encode()):
            return
        temporary = self.etag.with_name(self.etag.name + ".new")
        try:
            with _room(self.file), temporary.open("w") as out:
                out.write(etag)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(self.etag)
        finally:
            temporary.unlink(missing_ok=True)
        self._settle()

    def _write(self, piece: bytes) -> None:
        try:
            with _room(self.file):
                left = memoryview(piece)
                while left:
                    left = left[os.write(self._bytes, left) :]
        except Unwritable:
            # What fills the disk is not left there.
            self.empty()
            raise

    def _settle(self) -> None:
        """Has the names on the disk, where folders can be."""
        with contextlib.suppress(OSError):
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _close(self) -> None:
        if self._bytes >= 0:
            os.close(self._bytes)
        self._bytes = -1


@contextlib.contextmanager
def _room(file: Path) -> Iterator[None]:
    """A full disk in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise Unwritable(
            f"There is no room for {file}: {error.strerror}. Nothing of it is kept; the file is as it was."
        ) from error


class _Meter:
    """Counts what several files have sent, as one upload."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.sent = self.total = 0

    def watch(self, file: IO[bytes]) -> IO[bytes]:
        self.total += os.fstat(file.fileno()).st_size
        return _Watched(file, self)  # type: ignore[return-value]

    def add(self, count: int) -> None:
        self.sent += count
        self.progress("uploading", self.sent, self.total, "bytes")


class _Watched:
    """A file as httpx reads it: in pieces, from the start."""

    def __init__(self, file: IO[bytes], meter: _Meter) -> None:
        self._file, self._meter = file, meter

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._meter.add(len(piece))
        return piece


def sha256_of(repr_digest: str) -> bytes | None:
    """The SHA-256 in a Repr-Digest field (RFC 9530: `sha-256=:<base64>:`); None if there is none."""
    for member in repr_digest.split(","):
        name, _, value = member.strip().partition("=")
        if name == "sha-256":
            with contextlib.suppress(ValueError):
                return base64.b64decode(value.strip(":"), validate=True)
    return None


def _path(reference: str) -> str:
    return f"/models/{quote(reference, safe='@')}"


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed a little later. What is not ready is waited for by its operation, or not at
    all."""
    if isinstance(error, Problem):
        return error.status in BUSY and error.kind not in UNREADY
    return not isinstance(error, Unwritable)


def _plain(error: Exception, url: str) -> ClientError:
    if isinstance(error, ClientError):
        return error
    return Unreachable(f"No answer from {url} ({error or type(error).__name__}). Is the server running?")


def _pause(failures: int) -> None:
    time.sleep(min(0.25 * 2.0**failures, 5.0) * random.uniform(0.5, 1.0))
