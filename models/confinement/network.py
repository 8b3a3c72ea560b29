"""A network of its own, which has no devices. Best effort: not every kernel or container lets a process have one."""

from __future__ import annotations

import os
from pathlib import Path

from rightrank.models.confinement import kernel

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_MINE = Path("/proc/self/ns/net")


def leave() -> bool:
    """Leaves the network; whether that holds. With it goes the user namespace, without which only root could."""
    try:
        before = os.readlink(_MINE)
        kernel.unshare(_NEW_USER | _NEW_NETWORK)
        return os.readlink(_MINE) != before
    except OSError:
        return False
