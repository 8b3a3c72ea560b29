"""The scripts of docs/publish.md: those that need nothing of others are run, all of them are short."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kinds.__main__ import PAGE, filled, lines_of, script
from benchmarks.kinds.prepare import OWN, PREPARE

ROOT = Path(__file__).parents[2]


def test_every_script_of_the_page_is_one_of_those_that_are_run() -> None:
    assert re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE) == list(PREPARE)
    assert PAGE.read_text().count("```python") == len(PREPARE)


@pytest.mark.parametrize("kind", PREPARE)
def test_a_network_is_published_in_ten_lines_and_one_call(kind: str) -> None:
    code = script(kind)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 10 and code.count("rightrank.push(") == 1


def test_scripts_run_as_they_are_printed(tmp_path: Path) -> None:
    chosen = OWN[-1:]
    before = PAGE.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kinds", "--quick", "--kinds", ";".join(chosen), "--results", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "kinds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == list(chosen) and rows[-1]["metric"] == "auc"
    assert all(0 <= float(row[size]) <= 1 for row in rows for size in ("original", "at_half", "at_three_tenths"))
    assert PAGE.read_text() == before


def test_the_page_has_the_table_that_was_measured() -> None:
    from benchmarks.kinds.__main__ import Row
    from benchmarks.results import RESULTS, Table

    rows = Table(RESULTS / "kinds.csv", Row).rows
    assert [row.kind for row in rows] == list(PREPARE)
    assert PAGE.read_text() == filled(PAGE.read_text(), rows) and lines_of(rows) in PAGE.read_text()
