"""The scripts of docs/publish.md, run as they are printed there, each on a network that is trained for it.

    python -m benchmarks.kinds [--quick] [--kinds "timm;Lightning"] [--results FOLDER]

Each is run as a process of its own, in a folder that has what it opens, against a service that runs meanwhile; then the
original and two sizes are fetched. A row has the script's lines, the seconds until it had ended (the model is published
then), and the measure of each file by its headers. The rows are kept in docs/results/kinds.csv, and the table in
docs/publish.md is made of them; with --quick, which trains next to nothing and takes the networks that need no package
of others, both go to a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import processes, vision
from benchmarks.bar import bar
from benchmarks.kinds.prepare import MINE, OWN, PREPARE
from benchmarks.results import Table, machine, place
from rightrank.service.client.http import Client

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "publish.md"
BUDGETS = (1.0, 0.5, 0.3)
QUICK_SHARE = 0.02


@dataclass(frozen=True)
class Row:
    kind: str
    lines: int
    seconds: float
    metric: str
    original: float
    at_half: float
    at_three_tenths: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="networks that are trained for moments; writes no file")
    parser.add_argument("--kinds", help="headings of docs/publish.md, separated by semicolons")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table goes")
    given = parser.parse_args()
    kinds = given.kinds.split(";") if given.kinds else list(OWN if given.quick else PREPARE)
    torch.set_num_threads(1)
    vision.declare()
    with tempfile.TemporaryDirectory() as temporary, place(given.quick, given.results) as folder:
        table = Table(folder / "kinds.csv", Row)
        with processes.rightrank(Path(temporary, "data")) as (client, _), bar(len(kinds), "kinds") as advance:
            for number, kind in enumerate(kinds):
                if not table.has(kind=kind):
                    place_of_one = Path(temporary, str(number))
                    place_of_one.mkdir()
                    table.add(run(client, kind, place_of_one, QUICK_SHARE if given.quick else 1.0))
                advance(kind)
        page = filled(PAGE.read_text(), table.rows)
        if folder == ROOT / "docs" / "results":
            PAGE.write_text(page)
        (folder / "kinds.md").write_text(f"{lines_of(table.rows)}\n{machine()}\n")
        print(lines_of(table.rows))


def run(client: Client, kind: str, folder: Path, share: float) -> Row:
    """One network trained, published by its script, and fetched."""
    torch.manual_seed(0)
    (folder / "mine.py").write_text(MINE)
    PREPARE[kind](folder, share)
    code = script(kind)
    # Before torchvision is imported, as it has to be where it was built for another torch.
    (folder / "run.py").write_text(f"from benchmarks import vision\n\nvision.declare()\n{code}")
    environment = {
        **os.environ,
        "RIGHTRANK_URL": client.url,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "run.py"], cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{kind}: {done.stderr}")
    (name,) = re.findall(r'\bname"?[=:] ?"([^"]+)"', code)
    files = [client.pull(name, {"budget": budget}, folder / "file.pt") for budget in BUDGETS]
    values = [float(headers["rightrank-accuracy"]) for headers in files]
    # Lines with code on them.
    written = sum(bool(line.strip()) for line in code.splitlines())
    return Row(kind, written, round(seconds, 1), files[0]["rightrank-metric"], *values)


def script(kind: str) -> str:
    """What docs/publish.md prints below a heading."""
    section = PAGE.read_text().partition(f"\n### {kind}\n")[2].partition("\n#")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(block)


def lines_of(rows: list[Row]) -> str:
    """The table."""
    head = "| | lines | seconds | measure | original | at 0.5 | at 0.3 |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(
        f"| {row.kind} | {row.lines} | {row.seconds:.0f} | {row.metric} | {row.original:.3f} | {row.at_half:.3f} "
        f"| {row.at_three_tenths:.3f} |\n"
        for row in rows
    )


def filled(page: str, rows: list[Row]) -> str:
    """The page with this table in its place."""
    return re.sub(
        r"(<!-- kinds -->\n).*?(<!-- /kinds -->)", lambda m: m[1] + lines_of(rows) + m[2], page, flags=re.DOTALL
    )


if __name__ == "__main__":
    main()
