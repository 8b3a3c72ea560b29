"""Processes under /proc: those below one, what they are, what they take."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = "CHAOS_RUN"
"""The environment variable that every process of a run has, so that a guard finds those that lost their parent."""
SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """One that runs; one that has ended and that nobody has collected is not among them."""

    pid: int
    parent: int
    command: tuple[str, ...]
    started: str
    resident: int

    @property
    def role(self) -> str:
        """`serve`, `api`, `worker`, `valkey`, `redis`, `s3`; "" for what only its parent tells."""
        words = self.command
        if "rightrank.service" in words:
            return words[words.index("rightrank.service") + 1]
        program = words[0].split(" ")[0].rsplit("/", 1)[-1] if words else ""
        return {"valkey-server": "valkey", "redis-server": "redis", "weed": "s3"}.get(program, "")


def below(root: int) -> dict[int, Process]:
    """Every process that descends from `root`, by its id, parents before their children."""
    every = {process.pid: process for process in map(look, _ids()) if process is not None}
    children: dict[int, list[Process]] = {}
    for process in every.values():
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    queue = list(children.get(root, []))
    while queue:
        process = queue.pop(0)
        found[process.pid] = process
        queue += children.get(process.pid, [])
    return found


def look(pid: int) -> Process | None:
    """The process of this id, or None where none runs."""
    folder = Path(f"/proc/{pid}")
    try:
        fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), tuple(words), fields[19], int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


def readers(processes: Mapping[int, Process]) -> list[Process]:
    """Those that read an upload, or wait for one: whatever a worker has started."""
    workers = {process.pid for process in processes.values() if process.role == "worker"}
    found: dict[int, Process] = {}
    for process in processes.values():
        if process.parent in workers or process.parent in found:
            found[process.pid] = process
    return list(found.values())


def roles(processes: Mapping[int, Process]) -> dict[str, list[Process]]:
    """The processes by role; `reader` and `other` for what has none of its own."""
    reading = {process.pid for process in readers(processes)}
    found: dict[str, list[Process]] = {}
    for process in processes.values():
        role = "reader" if process.pid in reading else process.role or "other"
        found.setdefault(role, []).append(process)
    return found


def send(process: Process, number: int) -> bool:
    """A signal, unless that process has ended and its number belongs to another; whether it was sent."""
    now = look(process.pid)
    if now is None or now.started != process.started:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
        return True
    return False


def end(processes: Iterable[Process]) -> None:
    """Kills them, frozen ones too."""
    for process in processes:
        send(process, signal.SIGKILL)


class Reaper:
    """Makes this process the parent of what its children leave behind, and collects those when they end."""

    def __init__(self) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "this process cannot take in its children's orphans")
        self.lock = threading.Lock()
        self.own: set[int] = set()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        while True:
            with self.lock:
                for pid in _ids():
                    if pid not in self.own and _orphaned(pid):
                        with contextlib.suppress(ChildProcessError):
                            os.waitpid(pid, os.WNOHANG)
            time.sleep(0.2)


def _orphaned(pid: int) -> bool:
    """Whether it has ended and waits for this process to collect it."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0] == "Z" and int(fields[1]) == os.getpid()
    return False


def _ids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
