"""What the reading child gives up before it opens a file. Nothing here can be taken back by the process."""

from __future__ import annotations

import ctypes
import resource
import signal
from pathlib import Path

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_DIE_WITH_PARENT, _NOT_DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_OPEN_FILES = 256


def confine(seconds: int, memory: int) -> None:
    """Bound everything that reading a file needs, and drop what it does not.

    seconds: processor time, from now. memory: bytes on top of the address space that is already taken, which is
    mostly torch's libraries; also the largest file that may be written.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    # Best effort: not every kernel lets an ordinary user have a network of its own, which has no devices.
    libc.unshare(_NEW_USER | _NEW_NETWORK)
    libc.prctl(_NOT_DUMPABLE, 0, 0, 0, 0)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # SIGXCPU at the limit tells the parent why; SIGKILL a little later would not.
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds, grace=5)
    _limit(resource.RLIMIT_FSIZE, memory)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_AS, _address_space() + memory)
    # No further process or thread.
    _limit(resource.RLIMIT_NPROC, 0)


def _limit(kind: int, most: int, grace: int = 0) -> None:
    """Sets the limit, or keeps a stricter one that the operator has set."""
    _, hard = resource.getrlimit(kind)
    bound = most + grace if hard == resource.RLIM_INFINITY else min(most + grace, hard)
    resource.setrlimit(kind, (min(most, bound), bound))


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
