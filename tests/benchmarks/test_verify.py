"""`make verify`, at two sizes: what the README says that it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.verify import broken_promises

ROOT = Path(__file__).parents[2]


def test_a_running_service_keeps_what_its_headers_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.verify", "--budgets", "1,0.3"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RIGHTRANK_WORKERS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()[-3:]
    assert all(row.endswith("nothing") for row in rows), rows
    # As the README prints the first two.
    for row in rows[:2]:
        asked, params, _, size, *_ = row.split()
        assert f"| `{asked}` | {int(params):,} | {int(size):,} B |" in (ROOT / "README.md").read_text()


def test_what_a_header_says_and_the_file_does_not_show_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 50)
    headers = {
        "rightrank-budget": "0.5",
        "rightrank-params": "70",
        "rightrank-accuracy": "0.9",
        "content-length": "51",
        "etag": '"other"',
    }
    assert broken_promises(headers, file, 60, 9, 0.8, "budget=0.4", 100) == [
        "more than asked",
        "parameters differ from the header",
        "size differs from the header",
        "digest differs from the ETag",
        "accuracy differs from the header",
    ]
    assert "parameters differ from the header" not in broken_promises(headers, file, 60, 10, 0.8, "max_bytes=50", 100)
    assert "parameters differ from the header" in broken_promises(headers, file, 71, 10, 0.8, "max_bytes=50", 100)
