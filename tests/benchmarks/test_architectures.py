from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.architectures import ALL, BUDGETS, PRECISIONS, Row, report
from benchmarks.results import RESULTS, Table

ROOT = Path(__file__).parents[2]


def test_an_architecture_goes_the_whole_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.architectures", "--quick", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = Table(tmp_path / "architectures.csv", Row).rows
    assert [(row.budget, row.precision) for row in rows] == [(b, p) for b in BUDGETS for p in PRECISIONS]
    assert all(row.error < (1e-5 if row.precision == "float32" else 0.2) and not row.refused for row in rows)
    assert report(rows) in done.stdout


def test_the_page_has_every_architecture() -> None:
    rows = Table(RESULTS / "architectures.csv", Row).rows
    assert {row.architecture for row in rows} == {*ALL}
    table = "".join(line for line in report(rows).splitlines(keepends=True) if line.startswith("|"))
    assert table in (RESULTS / "architectures.md").read_text()
