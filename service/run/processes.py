"""Processes that are kept alive: started, replaced when they die, stopped in order."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

PARENT = "RIGHTRANK_PARENT"
"""The environment variable that tells a child whose death is its own."""
FIRST, LONGEST = 0.2, 10.0
"""Seconds before a process that died is started again: at first, and at most."""
STEADY = 30.0
"""Seconds after which a process counts as having started well."""
LATE = 15.0
"""Seconds after which a service that is not ready says so."""
GRACE = 8.0
"""Seconds that a process may take to stop before it is killed. A job that was cut short is resumed."""
TICK = 0.1

WORKERS = 2
"""How many workers a service has that says nothing else."""

Say = Callable[[str], None]


class StartError(Exception):
    """Why the service cannot start, for people."""


@dataclass
class Child:
    """A process to be kept alive."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    descriptors: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0

    def start(self, now: float) -> None:
        self.started = now
        # A child keeps SIGHUP back, which would end it, until it knows what to do at one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                pass_fds=self.descriptors,
                # Ctrl-C reaches the whole foreground group; who stops first is decided here.
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def hang_up(self) -> None:
        """Sends it SIGHUP: what it has read it is to read again."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGHUP)

    def tend(self, now: float) -> str | None:
        """Starts the process if it is due; if it has died, makes it due again and says how it ended."""
        if self.process is None:
            if now >= self.due:
                self.start(now)
            return None
        if (status := self.process.poll()) is None:
            return None
        loss = f"{self.name} (process {self.process.pid}) {ending(status)}"
        self.failures = 1 if now - self.started > STEADY else self.failures + 1
        self.process, self.due = None, now + back_off(self.failures)
        return loss

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


def back_off(failures: int) -> float:
    """Seconds to wait after that many deaths in a row."""
    return min(FIRST * 2.0 ** min(failures - 1, 20), LONGEST)


def ending(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


def stop(children: Sequence[Child], hurry: Callable[[], bool], grace: float = GRACE) -> None:
    """Asks all of them to end, and kills what has not after `grace` seconds or once `hurry` says so."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + grace
    while any(process.poll() is None for process in running):
        if hurry() or time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(TICK / 4)


def has_terminal() -> bool:
    """Whether this process belongs to a terminal that is there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


@dataclass
class Supervisor:
    """Keeps `api` and `workers` running until `end` is set."""

    api: Child
    workers: Sequence[Child]
    say: Say
    end: threading.Event = field(default_factory=threading.Event)
    # Not Events: a signal may interrupt the very code that holds an Event's lock.
    asked: list[int] = field(default_factory=list)
    hung_up: list[int] = field(default_factory=list)
    terminal: bool = field(default_factory=has_terminal)

    def run(self, ready: Callable[[], bool], then: Callable[[], None]) -> None:
        """Starts everything, calls `then` once `ready`, and returns after the end, with nothing running.

        StartError if the API ends before it was ever ready: what is wrong then does not mend itself.
        """
        greeted = False
        late = time.monotonic() + LATE
        try:
            while not self.asked and not self.end.is_set():
                for child in (*self.workers, self.api):
                    if loss := child.tend(time.monotonic()):
                        if child is self.api and not greeted:
                            raise StartError(f"{loss} before it was ready.")
                        self.say(f"{loss}; starting another in {back_off(child.failures):g} s")
                if self.hung_up:
                    self.hung_up.clear()
                    self.api.hang_up()
                if not greeted and ready():
                    greeted = True
                    then()
                if not greeted and time.monotonic() > late:
                    late = math.inf
                    self.say(
                        "Still not ready: the cache (RIGHTRANK_REDIS_URL) or the store (RIGHTRANK_STORE_URL)"
                        " does not answer."
                    )
                time.sleep(TICK)
        finally:
            self.end.set()
            stop([self.api], self.in_a_hurry)
            stop(self.workers, self.in_a_hurry)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """The first signal ends in order, a second one at once. SIGHUP has the API read its keys again, unless it says
        that the terminal has gone that the service was started on."""
        if number == signal.SIGHUP and not (self.terminal and not has_terminal()):
            self.hung_up.append(number)
        else:
            self.asked.append(number)

    def in_a_hurry(self) -> bool:
        return len(self.asked) > 1


@contextlib.contextmanager
def signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP go to `handler` meanwhile, but for those that are ignored, as under nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, handler)) for number in heeded]
    try:
        yield
    finally:
        for number, former in before:
            signal.signal(number, former)


def module(*arguments: str) -> list[str]:
    """The command line that runs a command of this package."""
    return [sys.executable, "-m", "rightrank.service", *arguments]


def die_with_parent() -> None:
    """Ties this process to the one that started it as a child, so that no worker is left behind.

    The kernel sends the signal (Linux); elsewhere a child ends with its parent only when that one ends well.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != int(parent):  # It died before the line above.
        os._exit(1)


def threads(workers: int) -> str:
    """How many each worker may compute with: its share of the processors, unless the operator has decided."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // max(1, workers)))


def compute_as_a_worker() -> None:
    """Has torch, which is not imported yet, compute with as many threads as a worker of a service on this machine:
    with another number sums come out in another order, and files with other bytes."""
    if "torch" not in sys.modules:
        workers = os.environ.get("RIGHTRANK_WORKERS", "")
        os.environ["OMP_NUM_THREADS"] = threads(int(workers) if workers.isdecimal() else WORKERS)
