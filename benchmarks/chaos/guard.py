"""Ends what a run has left, should the run itself be killed: python -m benchmarks.chaos.guard PROCESS MARK

It waits for the end of its standard input, which comes however the process that started it ends, and then kills
everything that it has seen below PROCESS, and every process whose environment has the mark. Either alone is not enough:
one that was started just now has not been seen, and Valkey writes its title where its environment was.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

from benchmarks.chaos import family
from benchmarks.chaos.family import MARK, Process

LOOK_SECONDS = 0.5
# Killed ones may just have started others.
QUIET = 3


def marked(mark: str) -> list[Process]:
    """The processes that have the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(family.look(int(folder.name)))
    return [process for process in found if process is not None and process.pid != os.getpid()]


def watch(root: int) -> list[Process]:
    """Everything seen below `root` until the standard input ends."""
    seen: dict[tuple[int, str], Process] = {}
    while True:
        for process in family.below(root).values():
            if process.pid != os.getpid():
                seen[process.pid, process.started] = process
        if select.select([sys.stdin], [], [], LOOK_SECONDS)[0] and not os.read(sys.stdin.fileno(), 1):
            return list(seen.values())


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    root, mark = int(sys.argv[1]), sys.argv[2]
    seen = watch(root)
    quiet = 0
    while quiet < QUIET:
        found = [process for process in (*seen, *marked(mark)) if family.send(process, signal.SIGKILL)]
        quiet = 0 if found else quiet + 1
        time.sleep(0.1)


if __name__ == "__main__":
    main()
