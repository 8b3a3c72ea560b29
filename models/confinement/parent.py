"""A process that does not outlive the one that it works for."""

from __future__ import annotations

import contextlib
import os
import signal

from rightrank.models.confinement import kernel

_DIE_WITH_PARENT = 1


def end_with(pid: int) -> None:
    """Has the kernel kill this process when its parent, the process `pid`, ends; ends it now where that is gone."""
    with contextlib.suppress(OSError):
        kernel.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != pid:
        os._exit(1)
