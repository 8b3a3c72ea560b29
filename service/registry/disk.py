"""Files and folders of this machine: there whole or not at all and for good, verified once, locked while in use."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from rightrank.service.registry.pieces import digest


class Intact:
    """Files whose SHA-256 this process has verified, as long as they stay as they were."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, int, int, str]] = {}

    def holds(self, path: Path, sha256: str | None) -> bool:
        """Whether the file has this SHA-256; so has, for all that is known, one that is not there or whose digest was
        never written down."""
        if sha256 is None or not path.exists():
            return True
        now = state(path, sha256)
        if self._seen.get(path) != now:
            if digest(path) != sha256:
                return False
            self._seen[path] = now
        return True

    def add(self, path: Path, sha256: str | None) -> None:
        """Takes note of a file that was verified while it was written."""
        if sha256 is not None:
            self._seen[path] = state(path, sha256)


def state(path: Path, sha256: str) -> tuple[int, int, int, str]:
    about = path.stat()
    return about.st_ino, about.st_mtime_ns, about.st_size, sha256


def write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy(path: Path, target: Path) -> None:
    shutil.copyfile(path, target)
    sync(target)


def link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or a file system without hard links
        copy(path, target)
    else:
        sync(target)


def link(path: Path, target: Path) -> None:
    """Makes the file at `path` appear at `target` as well. Raises `FileExistsError`."""
    try:
        os.link(path, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:  # a file system without hard links
        if target.exists():
            raise FileExistsError(target) from error
        os.replace(path, target)


def sync(path: Path) -> None:
    """Has a file, or what is in a folder, on the disk before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make(folder: Path) -> None:
    """Makes a folder and those above it, so that they stay."""
    if not folder.is_dir():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def nearest(path: Path) -> Path:
    """The folder that `path` was in, or of those above it the first that is still there."""
    return next(folder for folder in path.parents if folder.is_dir())


def beside(path: Path) -> Path:
    """A name for what is not whole yet: processes in containers that share a folder may have the same number."""
    return path.with_name(f"{path.name}#{uuid.uuid4().int}")


def age(folder: Path) -> float:
    """For how long it has not been used; of one that another process has just removed, for ever."""
    try:
        return -folder.stat().st_mtime
    except FileNotFoundError:
        return math.inf


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Makes the folder if need be and keeps it from being removed meanwhile."""
    with contextlib.ExitStack() as held:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                descriptor = held.enter_context(locked(folder, fcntl.LOCK_SH))
                if os.path.samestat(os.fstat(descriptor), folder.stat()):  # else it was moved before it was locked
                    break
        yield


@contextlib.contextmanager
def locked(folder: Path, how: int) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)
