from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from rightrank.models.confinement.reach import ROOT


def bounded(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` with a second and 64 MiB, as what follows `bound`."""
    script = f"from rightrank.models.confinement.limits import bound\nassert bound(1, 64 << 20)\n{code}"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


def test_no_more_memory_is_had_than_was_given() -> None:
    assert "MemoryError" in bounded("bytearray(1 << 30)").stderr


def test_a_process_is_stopped_when_its_processor_time_is_used_up() -> None:
    assert bounded("while True: pass").returncode == -signal.SIGXCPU


def test_no_larger_file_is_written(tmp_path: Path) -> None:
    done = bounded(f"f = open({str(tmp_path / 'x')!r}, 'wb')\nf.truncate(1 << 30)")
    assert done.returncode != 0
    assert os.path.getsize(tmp_path / "x") == 0


def test_no_more_files_are_open_at_a_time() -> None:
    assert "Too many open files" in bounded("kept = [open('/dev/null') for _ in range(300)]").stderr


def test_a_stricter_limit_of_the_operators_stays() -> None:
    code = """
import resource
from rightrank.models.confinement.limits import bound
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 64))
print(bound(1, 64 << 20), resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True (64, 64)\n"
