"""All layers put on, and which of them can be had on this machine."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import subprocess
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from rightrank.models.confinement import capabilities, kernel, landlock, limits, network, reach, seccomp

log = logging.getLogger(__name__)

LAYERS = ("network", "limits", "capabilities", "landlock", "seccomp")
# What reading strangers' files in earnest takes. Containers may have no network to leave, and seccomp refuses sockets.
REQUIRED = frozenset({"limits", "capabilities", "landlock", "seccomp"})
_NO_NEW_PRIVILEGES, _NOT_DUMPABLE = 38, 4
_PROBE_SECONDS = 60


def apply(
    reads: Iterable[Path], writes: Iterable[Path], seconds: int, memory: int, only: Collection[str] = LAYERS
) -> Mapping[str, bool]:
    """Puts the layers `only` on this process, for good; which of all hold.

    reads, writes: files and folders, and folders, that stay in reach besides Python's own. seconds, memory: as
    `limits.bound` takes them. Each layer that is said to hold was tried after it was put on, or read back. Landlock and
    capabilities bind the thread that asks, so with further threads they are said not to hold.
    """
    machine, threads = platform.machine(), _threads()
    with contextlib.suppress(OSError):
        kernel.prctl(_NO_NEW_PRIVILEGES, 1)
    # In this order: the first gives a process capabilities, the last takes the calls that the others make.
    put: Mapping[str, Callable[[], bool]] = {
        "network": network.leave,
        "limits": lambda: limits.bound(seconds, memory),
        "capabilities": lambda: capabilities.drop() and threads == 1,
        "landlock": lambda: landlock.restrict([*reads, *reach.folders()], writes) and threads == 1,
        "seccomp": lambda: seccomp.restrict(machine),
    }
    held = {}
    for name in LAYERS:
        if name == "capabilities":
            with contextlib.suppress(OSError):
                kernel.prctl(_NOT_DUMPABLE, 0)
        held[name] = name in only and put[name]()
    return held


def missing(held: Mapping[str, bool]) -> list[str]:
    """The required layers that do not hold."""
    return sorted(name for name in REQUIRED if not held.get(name))


@functools.cache
def available() -> Mapping[str, bool]:
    """Which layers hold on this machine, as a short-lived process found that put them on; found out once."""
    command = [sys.executable, "-s", "-m", "rightrank.models.confinement"]
    try:
        done = subprocess.run(
            command, cwd=reach.ROOT, env={"LC_ALL": "C.UTF-8"}, capture_output=True, timeout=_PROBE_SECONDS, check=True
        )
        found = json.loads(done.stdout)
        return types.MappingProxyType({name: found[name] is True for name in LAYERS})
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        log.warning("It could not be found out which layers of confinement there are: %s", error)
        return types.MappingProxyType(dict.fromkeys(LAYERS, False))


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0
