"""The processes that read uploads, one for each: copies of one that was started ahead.

Starting Python and importing torch takes far longer than reading a small upload. A process that does both and no more,
the fork server, makes a copy of itself for each upload: it has an empty environment and no descriptor of its parent's
but the one that it is told through, and never sees a byte of anybody's. The copy closes that one, puts its layers of
confinement on before it opens a file, reads this one upload and ends, so no upload meets what another has left.

`multiprocessing` has a fork server too, which keeps its parent's environment, credentials and all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rightrank.models.confinement.reach import ROOT

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-s", "-m", "rightrank.models.checkpoint")
# An exit status as the fork server tells it: of so many bytes, signed, the most significant first.
STATUS_BYTES = 4
# The names of the folders that a process writes to which is told of no other.
FOLDERS = ("HOME", "TMPDIR")
_ANSWER_BYTES = 64 * 1024


class ReaderLost(Exception):
    """The child ended, or could not start or write, for no fault of the upload's: reading it again may well do."""


class ForkServer:
    """Makes the readers. It ends with the thread that starts it, and is of one process group with what it has made.

    It has a scratch folder in `folder` until `end`, since torch makes folders when it is imported. Raises `OSError`
    where it cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        self._told, theirs = socket.socketpair()
        with contextlib.ExitStack() as held:
            held.enter_context(self._told)
            scratch = held.enter_context(_scratch(folder))
            with theirs:
                self._process = subprocess.Popen(
                    (*COMMAND, str(os.getpid()), str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # Where the package lies: `-m` looks in the working directory, and there is no PYTHONPATH.
                    cwd=ROOT,
                    env=_environment(scratch),
                    start_new_session=True,
                )
            self._held = held.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def lives(self) -> bool:
        return self._process.poll() is None

    def read(self, request: int, answer: int, seconds: float) -> int | None:
        """Has a copy read what `request` asks for, and write to `answer`, both descriptors of files; the copy's exit
        status: None where its time was up, that of being killed where the fork server has ended, and with it the copy.
        """
        self._told.settimeout(seconds)
        try:
            socket.send_fds(self._told, [b"\0"], [request, answer])
            status = self._told.recv(STATUS_BYTES)
        except TimeoutError:
            return None
        except OSError:
            status = b""
        return int.from_bytes(status, signed=True) if len(status) == STATUS_BYTES else -signal.SIGKILL

    def kill(self) -> None:
        """Ends it, with the copy that reads and what that may have started where seccomp is missing."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Leaves nothing of it."""
        self.kill()
        self._process.wait()
        self._held.close()


class Readers:
    """The readers of one thread, which reads one upload after the other; their scratch folders are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._server: ForkServer | None = None
        self._reads = False
        self._changing = threading.Lock()

    def make_ready(self) -> None:
        """Starts what makes the readers, if that has not been done. Where it cannot be started, or ends before it is
        wanted, another is when it is."""
        try:
            self._started()
        except OSError as error:
            log.warning("No reader could be started ahead: %s", error)

    def ask(self, request: Mapping[str, Any], seconds: float) -> tuple[int | None, bytes]:
        """Has a reader do what is requested, with a scratch folder of its own, of which nothing is left afterwards.

        Its exit status as `ForkServer.read` gives it, and the first bytes of what it answered. Raises ReaderLost where
        none can be started.
        """
        with contextlib.ExitStack() as held:
            try:
                scratch = held.enter_context(_scratch(self._folder))
                asked, answer = (held.enter_context(tempfile.TemporaryFile(dir=scratch)) for _ in range(2))
                asked.write(json.dumps({**request, "scratch": scratch}).encode())
                asked.seek(0)
                server = self._started()
            except OSError as error:
                raise ReaderLost(f"The reader could not be started: {error.strerror}.") from error
            with self._changing:
                self._reads = True
            try:
                code = server.read(asked.fileno(), answer.fileno(), seconds)
            finally:
                with self._changing:
                    self._reads = False
            if code != 0:
                # All copies of one server have the same addresses; who broke one is not to try them on the next.
                self.renew()
            answer.seek(0)
            return code, answer.read(_ANSWER_BYTES)

    def _started(self) -> ForkServer:
        if self._server is not None and not self._server.lives():
            log.warning("What makes the readers has ended; another is started.")
            self.close()
        if self._server is None:
            self._server = ForkServer(self._folder)
        return self._server

    def kill(self) -> None:
        """Ends the reader that reads now, if any does; may be called from another thread."""
        with self._changing:
            if self._reads and self._server is not None:
                self._server.kill()

    def renew(self) -> None:
        """Ends what makes the readers, with all that they may have left, and starts another."""
        self.close()
        self.make_ready()

    def close(self) -> None:
        """Ends what makes the readers; whoever asks again has another started."""
        server, self._server = self._server, None
        if server is not None:
            server.end()


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="rightrank-", dir=folder)


def _environment(scratch: str) -> dict[str, str]:
    """All of the child's environment. Without a user's name torch asks the system's list of users for one."""
    return {**dict.fromkeys(FOLDERS, scratch), "USER": "reader", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
