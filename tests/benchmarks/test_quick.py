"""The benchmarks as a reader would run them, at their smallest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import FIGURES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a quick run prints, and the results that it writes."""
    file = tmp_path_factory.mktemp("benchmarks") / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_the_table_has_a_row_for_every_figure(run: tuple[str, dict[str, Any]]) -> None:
    lines = run[0].splitlines()
    for figure in FIGURES:
        assert [line for line in lines if line.startswith(f"{figure.title}  ") and line.endswith(figure.aim)]


def test_the_table_says_what_it_was_measured_on(run: tuple[str, dict[str, Any]]) -> None:
    printed, results = run
    for name in ("cores", "python", "torch"):
        assert str(results["machine"][name]) in printed.splitlines()[0]


def test_a_figure_is_a_positive_number_or_has_a_reason_why_it_is_missing(run: tuple[str, dict[str, Any]]) -> None:
    results = {**run[1]["cutting"], **run[1]["serving"]}
    for figure in FIGURES:
        value = results[figure.key]
        explained = any(figure.key in (name, f"{name}, per s") for name in results["not measured"])
        assert explained if value is None else value >= 0


def test_an_upload_takes_no_more_memory_than_is_promised(run: tuple[str, dict[str, Any]]) -> None:
    serving = run[1]["serving"]
    if serving["upload memory, MB"] is not None:
        assert serving["upload memory, MB"] <= 100


def test_a_cut_is_a_smaller_file_than_the_parameters_it_came_from(run: tuple[str, dict[str, Any]]) -> None:
    cutting = run[1]["cutting"]
    assert 0 < cutting["artifact_bytes"] < 4 * cutting["parameters"]
