from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cifar import BUDGETS, FILES, load

ROOT = Path(__file__).parents[2]


def test_a_network_is_published_and_fetched_at_every_size() -> None:
    command = [sys.executable, "-m", "benchmarks.cifar", "--quick", "--efforts", "cut,refit"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for effort in ("cut", "refit"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{effort} ")]
        shares = [float(part.split(")")[0]) for part in line.split("(")[1:]]
        assert len(shares) == len(BUDGETS) and shares[0] == 1
        assert shares == sorted(shares, reverse=True)


def test_a_file_of_weights_that_is_another_one_is_not_read(tmp_path: Path) -> None:
    (tmp_path / FILES["VGG-16"][0]).write_bytes(b"anything")
    with pytest.raises(SystemExit, match="another file"):
        load("VGG-16", tmp_path)
