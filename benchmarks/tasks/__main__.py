"""Networks for eight kinds of task, through the running service: published, fetched at each size, and measured.

    python -m benchmarks.tasks [--quick] [--tasks tagger,U-Net] [--efforts cut,refit] [--budgets 1,.5]
                               [--results FOLDER]

Each network is trained here in about a minute, on data that are inside packages which are installed anyway: the texts
of Python's standard library and of other packages, and what scikit-learn has of digits and tables. It is published once
for each metric and effort, with evaluation data as `evaluation.py` writes them and calibration inputs, and fetched at
every budget. Of each file the figure that the service gives (`RightRank-Accuracy`) is held against what `plain.py`
finds with torch and scikit-learn alone, in the same file and data: they are `equal` where they differ by no more than
1e-12 of themselves, as sums in another order may, counts by nothing. Goes on where it was stopped:
docs/results/tasks.csv, of which tasks.md is made. Trained networks are kept in build/tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks import processes
from benchmarks.bar import Advance, bar
from benchmarks.results import Table, machine, place
from benchmarks.tasks import plain
from benchmarks.tasks.kinds import FULL, QUICK, TASKS, Made, Scale, train
from rightrank.service.client.http import Client, Problem

BUDGETS = (1.0, 0.5, 0.3, 0.2)
EFFORTS = ("cut", "refit")
# Sums of doubles in another order may differ by so much of themselves; shares of things that are counted by nothing.
ROUNDING = 1e-12
COUNTED = ("top1", "accuracy", "overlap")


@dataclass(frozen=True)
class Row:
    """One file as the service gave it. `low` and `high` are NaN where there is no interval; `worst` and `changed` are
    empty where a metric has none; `plain` is the plain script's figure."""

    task: str
    metric: str
    effort: str
    budget: float
    method: str
    params: int
    bytes: int
    n: int
    value: float
    low: float
    high: float
    worst: str
    changed: str
    plain: float
    equal: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="networks that are trained for seconds; writes no file")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--efforts", default=",".join(EFFORTS))
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables go")
    given = parser.parse_args()
    tasks, efforts = given.tasks.split(","), given.efforts.split(",")
    budgets = [float(budget) for budget in given.budgets.split(",")]
    # In the last digits of an output there is how many threads made it.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, place(given.quick, given.results) as folder:
        table = Table(folder / "tasks.csv", Row)
        kept = Path(temporary) if given.quick else Path("build/tasks")
        run(table, tasks, efforts, budgets, QUICK if given.quick else FULL, kept, Path(temporary))
        page = report(table.rows)
        print(f"{machine()}\n\n{page}")
        table.path.with_suffix(".md").write_text(page)
    if not all(row.equal for row in table.rows):
        sys.exit("Not every figure is the plain script's.")


def run(
    table: Table[Row],
    tasks: Sequence[str],
    efforts: Sequence[str],
    budgets: Sequence[float],
    scale: Scale,
    kept: Path,
    folder: Path,
) -> None:
    """Add every row that is not there yet, from a service over a new folder."""
    wanted = [(task, metric, effort) for task in tasks for metric in TASKS[task].metrics for effort in efforts]
    missing = {
        (*each, budget)
        for each in wanted
        for budget in budgets
        if not table.has(task=each[0], metric=each[1], effort=each[2], budget=budget)
    }
    if not missing:
        return
    todo = dict.fromkeys(task for task, *_ in wanted if any(task == each[0] for each in missing))
    with bar(len(todo) + len(missing), "steps") as advance, processes.rightrank(folder / "data") as (client, _):
        for task in todo:
            advance(f"{task}: training")
            place_of = folder / "uploads" / _file_name(task)
            prepare(task, scale, kept, place_of)
            for metric, effort in [each[1:] for each in wanted if each[0] == task]:
                sizes = [budget for budget in budgets if (task, metric, effort, budget) in missing]
                if sizes:
                    publish(table, client, task, metric, effort, sizes, place_of, advance)


def prepare(task: str, scale: Scale, kept: Path, folder: Path) -> None:
    """Put the trained network as `model.pt2`, `eval.npz` or `eval.safetensors`, and `calibration.safetensors` into a
    folder."""
    torch.manual_seed(0)
    made = TASKS[task].make(scale)
    weights = kept / f"{_file_name(task)}.safetensors"
    if not weights.exists():
        train(made, scale.training)
        weights.parent.mkdir(parents=True, exist_ok=True)
        save_file(made.model.state_dict(), weights)
    made.model.load_state_dict(load_file(weights))
    made.model.eval()
    folder.mkdir(parents=True)
    export(made, folder / "model.pt2")
    with contextlib.chdir(folder):
        made.write()
    calibration = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in made.calibration.items()}
    save_file(calibration, folder / "calibration.safetensors")


def export(made: Made, path: Path) -> None:
    program = torch.export.export(made.model, made.example, dynamic_shapes=made.free)
    torch.export.save(program, path)


def publish(
    table: Table[Row],
    client: Client,
    task: str,
    metric: str,
    effort: str,
    budgets: Sequence[float],
    folder: Path,
    advance: Advance,
) -> None:
    """Publish the network, and add a row for each size that is fetched of it."""
    (evaluation,) = folder.glob("eval.*")
    name = f"{_file_name(task)}-{metric}-{effort}"
    answer = client.push(
        folder / "model.pt2",
        name=name,
        evaluation=evaluation,
        calibration=folder / "calibration.safetensors",
        # No size is made ahead: they are asked for one by one.
        options={"metric": metric, "effort": effort, "budgets": []},
    )
    client.wait(str(answer["operation"]))
    original = folder / "original.pt"
    client.pull(name, {"budget": 1}, original)
    for budget in budgets:
        advance(f"{task}: {metric}, {effort}, {budget:g}")
        file = folder / "fetched.pt"
        table.add(fetch(client, name, task, metric, effort, budget, file, evaluation, original))


def fetch(
    client: Client,
    name: str,
    task: str,
    metric: str,
    effort: str,
    budget: float,
    file: Path,
    evaluation: Path,
    original: Path,
) -> Row:
    """Pull one size, or the smallest there is where it is larger, and measure it again."""
    try:
        headers = client.pull(name, {"budget": budget}, file)
    except Problem as problem:
        if problem.kind != "budget-unreachable":
            raise
        headers = client.pull(name, {"budget": problem.document["nearest"]}, file)
    facts = {key.removeprefix("rightrank-"): value for key, value in headers.items()}
    (point,) = (point for point in client.curve(name) if point["plan"] == facts["plan"])
    low, high = map(float, facts["accuracy-interval"].split(",")) if "accuracy-interval" in facts else (math.nan,) * 2
    worst, changed = point["worst"], point["changed"]
    value = float(facts["accuracy"])
    found = plain.figure(metric, file, evaluation, original, TASKS[task].inputs)
    return Row(
        task,
        metric,
        effort,
        budget,
        method=facts["method"],
        params=int(facts["params"]),
        bytes=file.stat().st_size,
        n=int(facts["accuracy-samples"]),
        value=value,
        low=low,
        high=high,
        worst=f"{worst['value']:.4g} (class {worst['index']})" if worst else "",
        changed=f"{changed['differ']} of {changed['answers']}" if changed else "",
        plain=found,
        equal=math.isclose(value, found, rel_tol=0.0 if metric in COUNTED else ROUNDING),
    )


def report(rows: Sequence[Row]) -> str:
    """The table of all rows in Markdown."""
    lines = [
        "| task | metric | effort | budget | method | value | interval (95 %) | worst class | changed | plain script |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (list(TASKS).index(row.task), row.metric, row.effort, -row.budget)):
        interval = "" if math.isnan(row.low) else f"{row.low:.4g} to {row.high:.4g}"
        equal = "equal" if row.equal else f"{row.plain!r}"
        cells = [
            *(row.task, row.metric, row.effort, f"{row.budget:g}", row.method),
            *(f"{row.value:.4g}", interval, row.worst, row.changed, equal),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _file_name(task: str) -> str:
    return task.lower().replace(" ", "-")


if __name__ == "__main__":
    main()
