"""The object store: everything that must survive, under names that are written once.

checkpoints/<sha256>                    what was uploaded
models/<id>/upload.json                 the intent: written first
models/<id>/{master.safetensors,template.json,plans.npz,evaluation.safetensors}
models/<id>/measurements/<plan>.json
models/<id>/manifest.json               its presence is the model's: written last
names/<name>/<version>.json
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, from_url

from rightrank.service.settings import Settings

KEPT_FOLDERS = 8
PIECE = 1024 * 1024


class Store:
    """Create-only objects by key. A folder where it is local; elsewhere a bucket, with copies fetched as needed."""

    def __init__(self, settings: Settings) -> None:
        self.root = settings.store_folder
        self.copies = settings.data.absolute() / "copies"
        self.scratch = settings.scratch
        self.scratch.mkdir(parents=True, exist_ok=True)
        if self.root is not None:
            self.root.mkdir(parents=True, exist_ok=True)
            self.backend: Any = LocalStore(self.root, automatic_cleanup=True)
        else:
            assert settings.store_url is not None
            self.backend = from_url(settings.store_url)

    def exists(self, key: str) -> bool:
        return self.tag(key) is not None

    def tag(self, key: str) -> str | None:
        """What tells the object from another one that was at `key` before it; None where there is none."""
        try:
            about = obstore.head(self.backend, key)
        except FileNotFoundError:
            return None
        return f"{about['e_tag']} {about['last_modified'].isoformat()}"

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises `FileNotFoundError`."""
        return bytes(obstore.get(self.backend, key).bytes())

    def read_json(self, key: str) -> dict[str, Any] | None:
        """The JSON object at `key`, or None where there is none. A number that is not finite, for which JSON has
        no word, is null."""
        try:
            data: dict[str, Any] = json.loads(self.read(key), parse_constant=lambda _: None)
        except FileNotFoundError:
            return None
        return data

    def create_json(self, key: str, data: dict[str, Any]) -> bool:
        """Writes `data` unless the key exists already; whether it was written."""
        return self.create(key, json.dumps(data, sort_keys=True, separators=(",", ":")).encode())

    def create(self, key: str, data: bytes) -> bool:
        """Writes `data` unless the key exists already; whether it was written."""
        try:
            obstore.put(self.backend, key, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def replace_json(self, key: str, data: dict[str, Any]) -> None:
        """Writes `data` in place of what is there."""
        obstore.put(self.backend, key, json.dumps(data, sort_keys=True, separators=(",", ":")).encode())

    def create_file(self, key: str, path: Path) -> None:
        """Puts the file at `path` under `key`, unless the key exists; the file may be moved rather than copied."""
        if self.root is None:
            if not self.exists(key):
                obstore.put(self.backend, key, path)
            return
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            _link(path, self.root / key)

    def replace_file(self, key: str, path: Path) -> None:
        """Puts a copy of the file at `path` under `key`, in place of what is there: for work under way."""
        obstore.put(self.backend, key, path)

    def keys(self, prefix: str) -> list[str]:
        """Every key below `prefix`, sorted."""
        found = (entry["path"] for batch in obstore.list(self.backend, prefix) for entry in batch)
        return sorted(key for key in found if ".partial-" not in key)

    def children(self, prefix: str) -> list[str]:
        """The folders right below `prefix`, by their last name, sorted."""
        found = obstore.list_with_delimiter(self.backend, prefix)["common_prefixes"]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def delete(self, *keys: str) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self.backend, key)

    @contextlib.contextmanager
    def files(self, keys: Mapping[str, str]) -> Iterator[dict[str, Path]]:
        """The objects `keys` as local files by the same names, for reading. Raises `FileNotFoundError`."""
        if self.root is not None:
            paths = {name: self.root / key for name, key in keys.items()}
            for path in paths.values():
                if not path.is_file():
                    raise FileNotFoundError(path.name)
            yield paths
            return
        with self.folder_for_work() as folder:
            yield {name: self._download(key, folder / name) for name, key in keys.items()}

    def stream(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes `start` to `stop` (exclusive) of an object, in pieces."""
        for first in range(start, stop, PIECE):
            yield bytes(obstore.get_range(self.backend, key, start=first, end=min(first + PIECE, stop)))

    @contextlib.contextmanager
    def folder(self, prefix: str, names: tuple[str, ...], created: float = 0.0) -> Iterator[Path]:
        """A local folder holding the objects `names` of `prefix`, for as long as the context lasts; `created` tells
        them from those that were at the same place before. A few downloaded folders are kept."""
        if self.root is not None:
            yield self.root / prefix
            return
        kept = self.copies / f"{prefix.replace('/', '-')}-{created!r}"
        with _in_use(kept):
            for name in names:
                if not (kept / name).exists():
                    self._download(f"{prefix}/{name}", kept / name)
            os.utime(kept)
            yield kept
        for old in sorted(self.copies.iterdir(), key=_age)[KEPT_FOLDERS:]:
            with (
                contextlib.suppress(BlockingIOError, FileNotFoundError),
                _locked(old, fcntl.LOCK_EX | fcntl.LOCK_NB),
            ):
                shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def folder_for_work(self) -> Iterator[Path]:
        """A new empty folder that is removed afterwards.

        It is locked meanwhile: the kernel lets go when the process ends, however it ends (see `sweep`).
        """
        with contextlib.ExitStack() as held:
            with _locked(self.scratch, fcntl.LOCK_SH):
                folder = Path(tempfile.mkdtemp(dir=self.scratch))
                held.enter_context(_locked(folder, fcntl.LOCK_EX))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Removes the working folders of processes that were killed, in this container or another one."""
        with _locked(self.scratch, fcntl.LOCK_EX):
            for folder in self.scratch.iterdir():
                with (
                    contextlib.suppress(BlockingIOError, FileNotFoundError),
                    _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB),
                ):
                    shutil.rmtree(folder, ignore_errors=True)

    def _download(self, key: str, path: Path) -> Path:
        partial = _beside(path)
        try:
            with open(partial, "xb") as file:
                for chunk in obstore.get(self.backend, key).stream():
                    file.write(chunk)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return path


def _link(path: Path, target: Path) -> None:
    """Makes `target` appear whole or not at all. Raises `FileExistsError` where it is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileExistsError:
        raise
    except FileNotFoundError:  # the folder was empty and has just been cleaned away
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    except OSError:  # another disk, or a file system without hard links
        partial = _beside(target)
        shutil.copyfile(path, partial)
        os.replace(partial, target)


def _beside(path: Path) -> Path:
    """A name for what is not whole yet: processes in containers that share a folder may have the same number."""
    return path.with_name(f"{path.name}.partial-{uuid.uuid4().hex}")


def _age(folder: Path) -> float:
    """For how long it has not been used; of one that another process has just removed, for ever."""
    try:
        return -folder.stat().st_mtime
    except FileNotFoundError:
        return math.inf


@contextlib.contextmanager
def _in_use(folder: Path) -> Iterator[None]:
    """Makes the folder if need be and keeps it from being removed meanwhile."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), _locked(folder, fcntl.LOCK_SH) as descriptor:
            if os.fstat(descriptor).st_nlink:  # else it was removed before the lock was there
                yield
                return


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)
