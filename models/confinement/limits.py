"""Bounds on what the process may use."""

from __future__ import annotations

import resource
from pathlib import Path

_OPEN_FILES = 256


def bound(seconds: int, memory: int) -> bool:
    """Sets all bounds; whether they hold.

    seconds: processor time, from now. memory: bytes on top of the address space that is already taken, which is
    mostly libraries; also the largest file that may be written. No core, no further process or thread (of an ordinary
    user: root is never refused one by a limit), no more than 256 open files.
    """
    try:
        used = resource.getrusage(resource.RUSAGE_SELF)
        # SIGXCPU at the limit tells the parent why; SIGKILL a little later would not.
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds, grace=5)
        _limit(resource.RLIMIT_FSIZE, memory)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
        _limit(resource.RLIMIT_AS, _address_space() + memory)
        _limit(resource.RLIMIT_NPROC, 0)
    except (OSError, ValueError):
        return False
    return True


def _limit(kind: int, most: int, grace: int = 0) -> None:
    """Sets the limit, or keeps a stricter one that the operator has set. Raises `OSError` where it does not hold."""
    _, hard = resource.getrlimit(kind)
    bound = most + grace if hard == resource.RLIM_INFINITY else min(most + grace, hard)
    wanted = (min(most, bound), bound)
    resource.setrlimit(kind, wanted)
    if resource.getrlimit(kind) != wanted:
        raise OSError("A limit was not kept.")


def _address_space() -> int:
    """Bytes. Raises `OSError` where there is no /proc."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
