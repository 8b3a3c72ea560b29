"""The tasks' benchmark at its smallest, and that the README shows what it runs."""

from __future__ import annotations

import ast
import inspect
import math
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from benchmarks.results import RESULTS, Table
from benchmarks.tasks import evaluation, plain
from benchmarks.tasks.__main__ import BUDGETS, EFFORTS, Row, report
from benchmarks.tasks.kinds import TASKS

ROOT = Path(__file__).parents[2]


def quick(folder: Path, *arguments: str) -> tuple[str, list[Row]]:
    """What a quick run prints, and its rows."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tasks", "--quick", "--results", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, Table(folder / "tasks.csv", Row).rows


def test_files_are_measured_as_a_plain_script_does_and_once(tmp_path: Path) -> None:
    tasks = ("text classifier", "U-Net", "one logit", "decoder")
    given = ("--tasks", ",".join(tasks), "--efforts", "cut", "--budgets", "1,0.7")
    printed, rows = quick(tmp_path, *given)
    assert [(row.task, row.metric, row.budget) for row in rows] == [
        (task, metric, budget) for task in tasks for metric in TASKS[task].metrics for budget in (1, 0.7)
    ]
    assert all(row.equal for row in rows)
    for whole, cut in zip(rows[::2], rows[1::2], strict=True):
        assert whole.method == "original" and cut.params < whole.params
    assert report(rows) in printed and report(rows) == (tmp_path / "tasks.md").read_text()
    before = (tmp_path / "tasks.csv").read_text()
    assert report(quick(tmp_path, *given)[1]) == report(rows) and (tmp_path / "tasks.csv").read_text() == before


def test_the_plain_script_needs_nothing_of_this_project(tmp_path: Path) -> None:
    lines = "import sys; sys.path[:0] = sys.argv[1:]; import plain; print(*sys.modules)"
    command = [sys.executable, "-I", "-c", lines, str(Path(plain.__file__).parent)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"rightrank", "benchmarks"} & {name.partition(".")[0] for name in done.stdout.split()}
    nodes = list(ast.walk(ast.parse(Path(plain.__file__).read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in found} - sys.stdlib_module_names
    assert packages == {"numpy", "torch", "safetensors", "sklearn"}


def test_the_readme_shows_how_the_data_are_written() -> None:
    section = (ROOT / "README.md").read_text().partition("## Data for your task\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    shown = [part.partition("\n")[2].strip() for part in block.split("\n# ")[1:]]
    functions = inspect.getmembers(evaluation, inspect.isfunction)
    writers = [each for _, each in functions if each.__module__ == evaluation.__name__]
    run = {_body(each).replace(": dict[str, Any]", "") for each in writers}
    assert {*shown} == run and len(shown) == len(writers) == len(TASKS)


def _body(function: object) -> str:
    """A function's lines below its heading."""
    source = inspect.getsource(function)  # type: ignore[arg-type]
    return textwrap.dedent(source.partition(") -> None:\n")[2]).strip()


@pytest.mark.parametrize("equal", [True, False])
def test_a_row_says_what_a_plain_script_found(equal: bool) -> None:
    facts = ("cut", 10, 99, 7, 0.25, math.nan, math.nan, "0.1 (class 3)", "1 of 7", 0.125)
    cells = report([Row("tagger", "f1", "cut", 0.5, *facts, equal)]).splitlines()[-1].strip("| ").split(" | ")
    assert cells[:6] == ["tagger", "f1", "cut", "0.5", "cut", "0.25"]
    assert cells[6:] == ["", "0.1 (class 3)", "1 of 7", "equal" if equal else "0.125"]


def test_the_page_has_the_table_of_what_was_measured() -> None:
    table = report(Table(RESULTS / "tasks.csv", Row).rows)
    assert table == (RESULTS / "tasks.md").read_text()
    assert table in (RESULTS.parent / "tasks.md").read_text()


def test_what_is_kept_was_measured_of_every_task_and_is_the_plain_scripts() -> None:
    rows = Table(RESULTS / "tasks.csv", Row).rows
    asked = {(t, m, e, b) for t in TASKS for m in TASKS[t].metrics for e in EFFORTS for b in BUDGETS}
    assert {(row.task, row.metric, row.effort, row.budget) for row in rows} == asked and len(rows) == len(asked)
    assert all(row.equal for row in rows)
