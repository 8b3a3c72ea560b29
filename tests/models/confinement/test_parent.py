from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from rightrank.models.confinement.reach import ROOT

CHILD = """
import os, sys, time
from rightrank.models.confinement import layers, parent
parent.end_with(int(sys.argv[1]))
layers.apply([], [], 60, 1 << 28)
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys
subprocess.run([sys.executable, "-c", {CHILD!r}, str(os.getpid())])
"""


def ended(pid: int) -> bool:
    """Whether a process is gone, or nothing but its status is left."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_ends_when_its_parent_is_killed_with_every_layer_on() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not ended(child)
        parent.kill()
    deadline = time.monotonic() + 20
    while not ended(child):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise AssertionError("It outlives its parent.")
        time.sleep(0.02)


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, "1"], cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")
