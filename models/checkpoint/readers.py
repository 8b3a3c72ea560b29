"""The processes that read uploads, one for each. The next can be started ahead.

Starting Python and importing torch takes far longer than reading a small upload. A reader that was started ahead has
done both, and waits: it has an empty environment and no descriptor of its parent's, and has seen no byte of anybody's.
It puts its layers of confinement on when it is told of an upload, whose files are then all that it may open, and whose
limits count from there. It reads that one and ends, so no upload meets what another has left.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rightrank.models.confinement.reach import ROOT

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-s", "-m", "rightrank.models.checkpoint")
_ANSWER_BYTES = 64 * 1024


class ReaderLost(Exception):
    """The child ended, or could not start or write, for no fault of the upload's: reading it again may well do."""


class Reader:
    """One child, and the scratch folder that it has until `end`: made in `folder`.

    It has an empty environment (so no credentials), no descriptor of its parent's, and its own process group, and ends
    with the thread that makes it. Raises `OSError` where it cannot be started.
    """

    def __init__(self, folder: Path) -> None:
        with contextlib.ExitStack() as held:
            scratch = tempfile.TemporaryDirectory(prefix="rightrank-", dir=folder.resolve())
            self.scratch = Path(held.enter_context(scratch))
            self._answer = held.enter_context((self.scratch / "answer").open("w+b"))
            self._process = subprocess.Popen(
                (*COMMAND, str(os.getpid())),
                stdin=subprocess.PIPE,
                stdout=self._answer,
                stderr=subprocess.DEVNULL,
                # Where the package lies: `-m` looks in the working directory, and there is no PYTHONPATH.
                cwd=ROOT,
                env=_environment(self.scratch),
                start_new_session=True,
            )
            self._held = held.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def waits(self) -> bool:
        """Whether it lives and can be asked."""
        return self._process.poll() is None and self.scratch.is_dir()

    def ask(self, request: Mapping[str, Any], seconds: float) -> tuple[int | None, bytes]:
        """Has it do what is requested, which it takes once; its exit status (None: its time was up) and the first
        bytes of what it printed. It has ended then."""
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(json.dumps(request).encode(), seconds)
            code = self._process.returncode
        # Where seccomp is missing it may have left others of its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._answer.seek(0)
        return code, self._answer.read(_ANSWER_BYTES)

    def kill(self) -> None:
        """Ends it, with all of its group; may be called from another thread, and again."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Leaves nothing of it."""
        self.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._held.close()


class Readers:
    """The readers of one thread, which reads one upload after the other; their scratch folders are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spare: Reader | None = None
        self._reading: Reader | None = None

    def make_ready(self) -> None:
        """Starts the next reader, if that has not been done. Where it cannot be started, or ends before it is wanted,
        another is when it is."""
        if self._spare is None:
            try:
                self._spare = Reader(self._folder)
            except OSError as error:
                log.warning("No reader could be started ahead: %s", error)

    @contextlib.contextmanager
    def one(self) -> Iterator[Reader]:
        """A reader that nobody has asked anything yet, and of which nothing is left afterwards. Raises ReaderLost."""
        reader = self._taken()
        self._reading = reader
        try:
            yield reader
        finally:
            self._reading = None
            reader.end()

    def _taken(self) -> Reader:
        spare, self._spare = self._spare, None
        if spare is not None:
            if spare.waits():
                return spare
            log.warning("The reader that was started ahead has ended; another is started.")
            spare.end()
        try:
            return Reader(self._folder)
        except OSError as error:
            raise ReaderLost(f"The reader could not be started: {error.strerror}.") from error

    def kill(self) -> None:
        """Ends the reader that reads now, if any does; may be called from another thread."""
        if (reading := self._reading) is not None:
            reading.kill()

    def close(self) -> None:
        """Ends the reader that was started ahead, if there is one."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()


def _environment(scratch: Path) -> dict[str, str]:
    """All of the child's environment. Without a user's name torch asks the system's list of users for one."""
    folders = {name: str(scratch) for name in ("HOME", "TMPDIR")}
    return {**folders, "USER": "reader", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
