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
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, from_url

from service.settings import Settings

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
        try:
            obstore.head(self.backend, key)
        except FileNotFoundError:
            return False
        return True

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

    def folder(self, prefix: str, names: tuple[str, ...]) -> Path:
        """A local folder holding the objects `names` of `prefix`; a few downloaded ones are kept."""
        if self.root is not None:
            return self.root / prefix
        kept = self.copies / prefix.replace("/", "-")
        kept.mkdir(parents=True, exist_ok=True)
        for name in names:
            if not (kept / name).exists():
                self._download(f"{prefix}/{name}", kept / name)
        os.utime(kept)
        for old in sorted(self.copies.iterdir(), key=lambda path: path.stat().st_mtime)[:-KEPT_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)
        return kept

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
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        with open(partial, "wb") as file:
            for chunk in obstore.get(self.backend, key).stream():
                file.write(chunk)
        os.replace(partial, path)
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
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        shutil.copyfile(path, partial)
        os.replace(partial, target)


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
