from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.aimet import target_of
from benchmarks.compression import BUDGETS, Row, Table, cell, draw, losses
from benchmarks.results import RESULTS

ROOT = Path(__file__).parents[2]
METHODS = ("cut", "refit", "tune", "whitened + bn")


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, "-m", "benchmarks.compression", "--quick", "--threads", "1"]
    done = subprocess.run(
        [*command, "--methods", ",".join(METHODS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_method_has_a_figure_at_every_budget(printed: str) -> None:
    for method in METHODS:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"| {method} |")]
        assert len([cell for cell in line.split("|")[2:-1] if float(cell) < 100]) == len(BUDGETS)


def test_a_refit_loses_less_than_a_cut_of_the_same_size(printed: str) -> None:
    lost = {
        method: float(next(line for line in printed.splitlines() if line.startswith(f"| {method} |")).split()[-2])
        for method in ("cut", "refit")
    }
    assert lost["refit"] < lost["cut"]


def row(seed: int, accuracy: float) -> Row:
    return Row("digits", "net", seed, "cut", 0.5, 0.49, 100, 1000, accuracy, 0.9, 500, "")


def test_what_is_lost_is_averaged_over_seeds(tmp_path: Path) -> None:
    rows = [row(0, 0.88), row(1, 0.86)]
    assert losses(rows).splitlines() == ["| **net**, 90.00, 90.00 % | 0.5 |", "| --- | --- |", "| cut | 3.00 ±1.00 |"]
    draw(rows, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("</svg>") == 1
    assert cell([]) == ""


def test_all_rows_of_a_network_are_compared_with_the_same_original() -> None:
    rows = Table(RESULTS / "compression.csv", Row).rows
    assert len({(row.network, row.seed, row.baseline) for row in rows}) == len({(r.network, r.seed) for r in rows})


def test_the_page_has_the_table_of_what_was_measured() -> None:
    assert losses(Table(RESULTS / "compression.csv", Row).rows) == (RESULTS / "compression.md").read_text()
    page = (RESULTS.parent / "cutting.md").read_text()
    rows = page[page.index("| **ResNet-14**") : page.index("](results/compression.svg)")].splitlines()
    assert {line for line in rows if line.startswith("|")} <= {*(RESULTS / "compression.md").read_text().splitlines()}


def test_aimet_is_given_what_makes_the_whole_network_as_large_as_asked() -> None:
    assert target_of(0.3, params=1000, counted=900) * 900 + 100 == pytest.approx(300)
    assert target_of(0.05, params=1000, counted=900) == 0.01


def test_rows_are_found_again(tmp_path: Path) -> None:
    Table(tmp_path / "a.csv", Row).add(row(3, 0.5))
    again = Table(tmp_path / "a.csv", Row)
    assert again.rows == [row(3, 0.5)] and again.has(seed=3, budget=0.5) and not again.has(seed=4)
