"""The object store: everything that must survive, under names that are written once (`layout.py`).

staged/<anything>                       a large file on its way into a bucket
damaged/<key>                           what could not be read at `key` any more

Where the store does not answer, whatever was asked of it raises `Problem` ("unavailable"), and soon.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, NotSupportedError
from obstore.store import LocalStore

from rightrank.service.problems import Problem, unavailable
from rightrank.service.registry import disk
from rightrank.service.registry.bucket import PATIENT, PATIENT_PIECE_TIME, PIECE_TIME, QUICK, bucket
from rightrank.service.registry.pieces import DIGEST, PIECE, Damaged, digests, verified
from rightrank.service.registry.reach import Reach
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")

KEPT_FOLDERS = 8
# What is larger is put into a bucket in parts.
WHOLE = 64 * 1024 * 1024
PART = 8 * 1024 * 1024
# The name of a file that is not whole yet, which no key has and obstore never lists.
PARTIAL = re.compile(r"#\d+$")
DAMAGED, STAGED = "damaged", "staged"
# What is not finished after so long is nobody's any more: one that goes on all the same begins again.
UNFINISHED_SECONDS = 60.0
# Of so many large artifacts this process keeps the digests of their pieces.
KEPT_PIECES = 64


class Store:
    """Create-only objects by key. A folder where it is local; elsewhere a bucket, with copies fetched as needed.

    `patient`: for a job, which waits longer for a bucket than a request does.
    """

    def __init__(self, settings: Settings, patient: bool = False) -> None:
        self.root = settings.store_folder
        self.copies = settings.data.absolute() / "copies"
        self.scratch = settings.scratch
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._reach = Reach(patient)
        self._intact = disk.Intact()
        self._pieces: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        if self.root is not None:
            self.root.mkdir(parents=True, exist_ok=True)
            self.use(LocalStore(self.root, automatic_cleanup=True))
        else:
            assert settings.store_url is not None
            self.use(
                bucket(settings.store_url, PATIENT if patient else QUICK, patient),
                bucket(settings.store_url, PATIENT_PIECE_TIME if patient else PIECE_TIME, patient),
                bucket(settings.store_url, PATIENT_PIECE_TIME, patient),
            )

    def use(self, backend: Any, reading: Any = None, writing: Any = None) -> None:
        """Keeps objects in `backend`; large ones are read through `reading` and written through `writing`."""
        self.backend, self.reading, self.writing = backend, reading or backend, writing or backend

    def check(self) -> None:
        """Raises `Problem` where objects can be neither listed nor, in a folder, written."""
        with self._asking(writes=True):
            if self.root is not None:
                probe = disk.beside(self.root / "ready")
                probe.touch()
                probe.unlink()
            # Of a bucket that is not there, every object is "not found"; only a listing says so.
            obstore.list_with_delimiter(self.backend, "names")

    def exists(self, key: str) -> bool:
        return self.tag(key) is not None

    def tag(self, key: str) -> str | None:
        """What tells the object from another one that was at `key` before it; None where there is none."""
        try:
            with self._asking():
                about = obstore.head(self.backend, key)
        except FileNotFoundError:
            return None
        return f"{about['e_tag']} {about['last_modified'].isoformat()}"

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises `FileNotFoundError`."""
        with self._asking():
            return bytes(obstore.get(self.backend, key).bytes())

    def read_json(self, key: str) -> dict[str, Any] | None:
        """The JSON object at `key`, or None where there is none. A number that is not finite, for which JSON has
        no word, is null. What is no JSON object is set aside, and then there is none."""
        try:
            data = self.read(key)
        except FileNotFoundError:
            return None
        try:
            found = json.loads(data, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        # It counts as absent even where it cannot be moved just now.
        with contextlib.suppress(Problem):
            self.set_aside(key, data)
        return None

    def set_aside(self, key: str, data: bytes) -> None:
        """Moves `data`, which could not be read at `key`, to `damaged/<key>`."""
        for number in itertools.count():
            place = f"{DAMAGED}/{key}" + (f".{number}" if number else "")
            if self.create(place, data) or self.read(place) == data:
                break
        with contextlib.suppress(FileNotFoundError):
            if self.read(key) == data:  # else another one is there by now
                self.delete(key)
        log.error(
            "%s in the store cannot be read (%d bytes): it is at %s now, and counts as absent", key, len(data), place
        )

    def create_json(self, key: str, data: dict[str, Any]) -> bool:
        """Writes `data` unless the key exists already; whether it was written."""
        return self.create(key, json.dumps(data, sort_keys=True, separators=(",", ":")).encode())

    def create(self, key: str, data: bytes) -> bool:
        """Writes `data`, for good, unless the key exists already; whether it was written."""
        try:
            with self._asking(writes=True):
                if self.root is not None:
                    self._place(key, lambda partial: disk.write(partial, data))
                else:
                    obstore.put(self.backend, key, data, mode="create")
        except FileExistsError:
            return False
        except AlreadyExistsError:
            # Of a request that was heard, and whose answer was a 503, the client asks again: then it is this one's.
            with contextlib.suppress(FileNotFoundError):
                return self.read(key) == data
            return False
        return True

    def replace_json(self, key: str, data: dict[str, Any]) -> None:
        """Writes `data` in place of what is there."""
        content = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        with self._asking(writes=True):
            if self.root is not None:
                self._place(key, lambda partial: disk.write(partial, content), replace=True)
            else:
                obstore.put(self.backend, key, content)

    def create_file(self, key: str, path: Path) -> bool:
        """Puts the file at `path` under `key`, unless the key exists; the file may be moved rather than copied.
        Whether it was put there."""
        if self.exists(key):
            return False
        try:
            with self._asking(writes=True):
                if self.root is not None:
                    self._place(key, lambda partial: disk.link_or_copy(path, partial))
                elif path.stat().st_size <= WHOLE:
                    obstore.put(self.writing, key, path, mode="create", use_multipart=False)
                else:
                    self._create_in_parts(key, path)
        except (AlreadyExistsError, FileExistsError):
            return False
        return True

    def _create_in_parts(self, key: str, path: Path) -> None:
        """A bucket takes parts under no condition, but copies under one."""
        staged = f"{STAGED}/{uuid.uuid4().hex}"
        try:
            obstore.put(self.writing, staged, path, chunk_size=PART)
            obstore.copy(self.writing, staged, key, overwrite=False)
        except NotSupportedError:
            # Between the look at what is there and this, another one may come; it is found out by its size at best.
            obstore.copy(self.writing, staged, key, overwrite=True)
        finally:
            with contextlib.suppress(FileNotFoundError, BaseError):
                obstore.delete(self.backend, staged)

    def create_artifact(self, key: str, path: Path) -> bool:
        """As `create_file`, and beside it the digests of its pieces, by which `stream` verifies them."""
        with open(path, "rb") as file:
            whole, each = digests(iter(lambda: file.read(PIECE), b""))
        content = bytes.fromhex(whole) + each
        if not self.create(_pieces_key(key), content) and self.read(_pieces_key(key)) != content:
            self.delete(key, _pieces_key(key))  # the same plan came out as other bytes then
            self.create(_pieces_key(key), content)
        return self.create_file(key, path)

    def replace_file(self, key: str, path: Path) -> None:
        """Puts a copy of the file at `path` under `key`, in place of what is there: for work under way."""
        with self._asking(writes=True):
            if self.root is None:
                obstore.put(self.writing, key, path, chunk_size=PART)
            else:
                self._place(key, lambda partial: disk.copy(path, partial), replace=True)

    def keys(self, prefix: str) -> list[str]:
        """Every key below `prefix`, sorted."""
        with self._asking():
            return sorted(entry["path"] for batch in obstore.list(self.backend, prefix) for entry in batch)

    def sizes(self, prefix: str) -> dict[str, tuple[int, float]]:
        """By key, the bytes of every object below `prefix` and when it was written (seconds since 1970)."""
        with self._asking():
            return {
                entry["path"]: (entry["size"], entry["last_modified"].timestamp())
                for batch in obstore.list(self.backend, prefix)
                for entry in batch
            }

    def children(self, prefix: str) -> list[str]:
        """The folders right below `prefix`, by their last name, sorted."""
        with self._asking():
            found = obstore.list_with_delimiter(self.backend, prefix)["common_prefixes"]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def delete(self, *keys: str) -> None:
        """Removes objects, for good; those that are not there are no error."""
        with self._asking():
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self.backend, key)
            if self.root is not None:
                for folder in {disk.nearest(self.root / key) for key in keys}:
                    with contextlib.suppress(FileNotFoundError):  # emptied by another
                        disk.sync(folder)

    @contextlib.contextmanager
    def files(self, keys: Mapping[str, str], digests: Mapping[str, str] | None = None) -> Iterator[dict[str, Path]]:
        """The objects `keys` as local files by the same names, for reading. `digests`: the SHA-256 that each of them
        must have, where it is known. Raises `FileNotFoundError`, and `Problem` for one that is damaged."""
        known = digests or {}
        if self.root is not None:
            paths = {name: self.root / key for name, key in keys.items()}
            for name, path in paths.items():
                if not path.is_file():
                    raise FileNotFoundError(path.name)
                if not self._intact.holds(path, known.get(name)):
                    raise damaged(keys[name])
            yield paths
            return
        with self.folder_for_work() as folder:
            yield {name: self._download(key, folder / name, known.get(name)) for name, key in keys.items()}

    def stream(self, key: str, start: int, stop: int, sha256: str) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive) of the artifact with this SHA-256, in pieces that were verified. Raises
        `FileNotFoundError`, and `Damaged` where it is another one or has changed: then it is set aside, since it can
        be cut again."""
        with self._asking():
            size = obstore.head(self.backend, key)["size"]
        try:
            each = self._digests_of(key, sha256, size)
            if size < stop or len(each) != DIGEST * -(-size // PIECE):
                raise Damaged(key)
            for number in range(start // PIECE, -(-stop // PIECE)):
                first = number * PIECE
                piece = verified(self._piece(key, first), number, each)
                yield piece[max(start - first, 0) : stop - first]
        except Damaged:
            self.drop_artifact(key)
            raise

    def _piece(self, key: str, first: int) -> bytes:
        with self._asking():
            return bytes(obstore.get_range(self.reading, key, start=first, length=PIECE))

    def _digests_of(self, key: str, sha256: str, size: int) -> bytes:
        """The digests of an object's pieces: as they were written beside it, or, where they were not, from the object
        itself, which is read for that once."""
        with contextlib.suppress(KeyError):
            return self._pieces[key, sha256]
        try:
            found = self.read(_pieces_key(key))
        except FileNotFoundError:
            whole, each = digests(self._piece(key, first) for first in range(0, size, PIECE))
            found = bytes.fromhex(whole) + each
            if whole == sha256:
                self.create(_pieces_key(key), found)
        if found[:DIGEST].hex() != sha256:
            raise Damaged(key)
        self._pieces[key, sha256] = found[DIGEST:]
        while len(self._pieces) > KEPT_PIECES:
            with contextlib.suppress(KeyError):
                self._pieces.popitem(last=False)
        return found[DIGEST:]

    def drop_artifact(self, key: str) -> None:
        """Sets a damaged artifact aside."""
        log.error("%s in the store is damaged: it is at %s/%s now, and is made again", key, DAMAGED, key)
        for each in [each for each in list(self._pieces) if each[0] == key]:
            self._pieces.pop(each, None)
        with self._asking(), contextlib.suppress(FileNotFoundError):
            obstore.rename(self.writing, key, f"{DAMAGED}/{key}")
        self.delete(_pieces_key(key))

    @contextlib.contextmanager
    def folder(
        self, prefix: str, names: tuple[str, ...], created: float = 0.0, digests: Mapping[str, str] | None = None
    ) -> Iterator[Path]:
        """A local folder holding the objects `names` of `prefix`, for as long as the context lasts; `created` tells
        them from those that were at the same place before. A few downloaded folders are kept.

        `digests`: the SHA-256 that each of them must have, where it is known: verified once in a process. Raises
        `Problem` for one that is damaged in the store.
        """
        known = digests or {}
        if self.root is not None:
            for name in names:
                if not self._intact.holds(self.root / prefix / name, known.get(name)):
                    raise damaged(f"{prefix}/{name}")
            yield self.root / prefix
            return
        kept = self.copies / f"{prefix.replace('/', '-')}-{created!r}"
        with disk.in_use(kept):
            for name in names:
                copy = kept / name
                if copy.exists() and not self._intact.holds(copy, known.get(name)):
                    log.warning("the local copy of %s/%s is damaged: it is fetched again", prefix, name)
                    copy.unlink(missing_ok=True)
                if not copy.exists():
                    self._download(f"{prefix}/{name}", copy, known.get(name))
            os.utime(kept)
            yield kept
        for old in sorted(self.copies.iterdir(), key=disk.age)[KEPT_FOLDERS:]:
            self._retire(old)

    def _retire(self, old: Path) -> None:
        """Removes a folder that nobody uses. It is out of the way at once; gigabytes may take longer."""
        gone = self.scratch / uuid.uuid4().hex
        try:
            with disk.locked(old, fcntl.LOCK_EX | fcntl.LOCK_NB):
                old.rename(gone)
        except (BlockingIOError, FileNotFoundError):
            return
        threading.Thread(target=shutil.rmtree, args=(gone, True), daemon=True).start()

    @contextlib.contextmanager
    def folder_for_work(self) -> Iterator[Path]:
        """A new empty folder that is removed afterwards.

        It is locked meanwhile: the kernel lets go when the process ends, however it ends (see `sweep`).
        """
        with contextlib.ExitStack() as held:
            with disk.locked(self.scratch, fcntl.LOCK_SH):
                folder = Path(tempfile.mkdtemp(dir=self.scratch))
                held.enter_context(disk.locked(folder, fcntl.LOCK_EX))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Removes the working folders of processes that were killed, in this container or another one."""
        with contextlib.ExitStack() as held:
            dead: list[Path] = []
            # Nobody makes a folder meanwhile; so what is removed is only found here, which takes no time.
            with disk.locked(self.scratch, fcntl.LOCK_EX):
                for folder in self.scratch.iterdir():
                    with contextlib.suppress(BlockingIOError, FileNotFoundError):
                        held.enter_context(disk.locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
                        dead.append(folder)
            for folder in dead:
                shutil.rmtree(folder, ignore_errors=True)

    def tidy(self, prefix: str = "") -> None:
        """Removes what processes that were killed had not finished writing below a key into a folder of this
        machine."""
        if self.root is None:
            return
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(folder, name)
                if PARTIAL.search(name) and time.time() + disk.age(path) > UNFINISHED_SECONDS:
                    path.unlink(missing_ok=True)

    def _download(self, key: str, path: Path, sha256: str | None = None) -> Path:
        """Fetches an object, and verifies it where its SHA-256 is known. Raises `FileNotFoundError` and `Problem`."""
        partial, found = disk.beside(path), hashlib.sha256()
        try:
            with open(partial, "xb") as file:
                for part in self._parts(key):
                    found.update(part)
                    file.write(part)
            if sha256 is not None and found.hexdigest() != sha256:
                raise damaged(key)
            os.replace(partial, path)
            self._intact.add(path, sha256)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _parts(self, key: str) -> Iterator[bytes]:
        """An object's bytes. Raises `FileNotFoundError`."""
        with self._asking():
            size = obstore.head(self.reading, key)["size"]
        for first in range(0, size, PART):
            with self._asking():
                part = obstore.get_range(self.reading, key, start=first, end=min(first + PART, size))
            yield bytes(part)

    def sha256(self, key: str) -> str:
        """The SHA-256 of an object, in hex. Raises `FileNotFoundError`."""
        found = hashlib.sha256()
        for part in self._parts(key):
            found.update(part)
        return found.hexdigest()

    def _place(self, key: str, make: Callable[[Path], None], replace: bool = False) -> None:
        """Has `make` write a file, which is then at `key` whole or not at all, and stays when the power goes. Raises
        `FileExistsError`."""
        assert self.root is not None
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise InvalidPathError(key)
        target = self.root / key
        if target.exists() and not replace:
            raise FileExistsError(key)
        while True:
            partial, made = disk.beside(target), False
            try:
                disk.make(target.parent)
                make(partial)
                made = True
                if replace:
                    os.replace(partial, target)
                else:
                    disk.link(partial, target)
                disk.sync(target.parent)
                return
            except FileNotFoundError:
                if target.parent.is_dir() and not made:
                    raise
                # The folder was empty and has just been cleaned away; or this process stood still, and what it had
                # made was taken for a dead one's (`tidy`).
            finally:
                partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _asking(self, writes: bool = False) -> Iterator[None]:
        """Whatever keeps the store from answering is raised as one `Problem`, and for a moment nothing more is asked
        of a bucket that did not answer. What is written into a bucket that is not there is not "not found"."""
        if not self._reach.may_ask():
            raise unavailable("the store")
        try:
            yield
        except FileNotFoundError as error:
            self._reach.answered()
            if writes:
                raise self._failure(error) from error
            raise
        except (AlreadyExistsError, FileExistsError, InvalidPathError, NotSupportedError):
            self._reach.answered()
            raise
        except (BaseError, OSError) as error:
            if self.root is None:
                self._reach.failed()
            raise self._failure(error) from error
        else:
            self._reach.answered()

    def _failure(self, error: Exception) -> Problem:
        log.error("the store: %s", str(error).split("\n", 1)[0][:500] or type(error).__name__)
        return unavailable("the store")


def damaged(key: str) -> Problem:
    """What is said of an object that is not what was written, and that nothing can make again."""
    log.error("%s in the store is damaged: its SHA-256 is not the one that was written down", key)
    return unavailable("a file in the store, which is damaged,", "Its operator can run `rightrank fsck`.")


def _pieces_key(key: str) -> str:
    return f"{key}.pieces"
