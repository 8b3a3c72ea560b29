from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cifar import BUDGETS, FILES, Row, accuracies, load
from benchmarks.results import RESULTS, Table

ROOT = Path(__file__).parents[2]


def test_a_network_is_published_and_fetched_at_every_size(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.cifar", "--quick", "--efforts", "cut,refit", "--results", tmp_path]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = Table(tmp_path / "cifar.csv", Row).rows
    for effort in ("cut", "refit"):
        mine = [row for row in rows if row.effort == effort]
        assert [row.budget for row in mine] == list(BUDGETS)
        assert all(row.reached <= row.budget for row in mine)
        assert mine[0].accuracy == mine[0].baseline
    assert accuracies(rows) in done.stdout and accuracies(rows) == (tmp_path / "cifar.md").read_text()


def test_a_cell_has_the_accuracy_and_what_was_lost() -> None:
    row = Row("net", "cut", 0.5, 0.49, 100, 1000, 400, "cut", 0.5, 0.4, 0.6, 0.75, 500)
    assert accuracies([row]).splitlines() == ["| **net**, 75.00 % | 0.5 |", "| --- | --- |", "| cut | 50.00 (−25.00) |"]


def test_a_file_of_weights_that_is_another_one_is_not_read(tmp_path: Path) -> None:
    (tmp_path / FILES["VGG-16"][0]).write_bytes(b"anything")
    with pytest.raises(SystemExit, match="another file"):
        load("VGG-16", tmp_path)


def test_the_page_has_the_table_of_what_was_measured() -> None:
    table = accuracies(Table(RESULTS / "cifar.csv", Row).rows)
    assert table == (RESULTS / "cifar.md").read_text()
    assert table in (RESULTS.parent / "cutting.md").read_text()
