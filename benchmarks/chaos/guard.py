"""Ends what a run has left, should the run itself be killed: python -m benchmarks.chaos.guard MARK

It waits for the end of its standard input, which comes however the other process ends, and then kills every
process whose environment has the mark.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from benchmarks.chaos.family import MARK

# Killed ones may just have started others.
QUIET = 3


def marked(mark: str) -> list[int]:
    """The processes that have the mark, this one left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return [pid for pid in found if pid != os.getpid()]


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    quiet = 0
    while quiet < QUIET:
        found = marked(sys.argv[1])
        quiet = 0 if found else quiet + 1
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
