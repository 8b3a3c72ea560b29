"""Every figure that the README quotes, in one run.

    python -m benchmarks [--quick] [--json FILE]

Prints a table with what was measured beside what is aimed at. Nothing is asserted: a busy machine bends times,
and a figure that misses its aim is for people to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import cutting, serving


@dataclass(frozen=True)
class Figure:
    """A line of the table: what it is called, where its value is in the results, what is aimed at."""

    title: str
    key: str
    aim: str


FIGURES = (
    Figure("cut / copy and hash", "cut / copy and hash", "at most 2"),
    Figure("afresh / cut", "afresh / cut", "at least 50"),
    Figure("decompose / LAPACK SVD", "decompose / LAPACK SVD", "at most 1.5"),
    Figure("plan, ms", "plan, ms", ""),
    Figure("cut, ms", "cut, ms", ""),
    Figure("warm GET / nginx", "GET / nginx", ""),
    Figure("warm GET, per s", "GET, per s", ""),
    Figure("304 / bare Starlette", "304 / Starlette", ""),
    Figure("304, per s", "304, per s", ""),
    Figure("upload memory, MB", "upload memory, MB", "at most 100"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Every figure that the README quotes.")
    parser.add_argument("--quick", action="store_true", help="small networks and few repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw results there")
    options = parser.parse_args()
    name, arguments = ("resnet18", {"width": 16}) if options.quick else ("resnet18", {})
    results = {
        "machine": machine(),
        "cutting": cutting.measure(name, arguments, repeats=3 if options.quick else 15),
        "serving": serving.measure(serving.QUICK if options.quick else serving.FULL),
    }
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print("\n".join(report(results, options.quick)), flush=True)
    serving.complain(results["serving"])


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def report(results: Mapping[str, Any], quick: bool) -> list[str]:
    """The table with what it was measured on."""
    on, cut, served = results["machine"], results["cutting"], results["serving"]
    return [
        f"{on['cores']} cores ({on['machine']}, {on['system']}), {on['threads']} threads for torch; "
        f"Python {on['python']}, torch {on['torch']}{'; quick: not for quoting' if quick else ''}",
        f"cut: {cut['architecture']}, {cut['parameters']:,} parameters, to {cut['artifact_bytes']:,} bytes; "
        f"served: {served['served_bytes']:,} bytes by {served['load generator']}; "
        f"uploaded: {served['upload_bytes']:,} bytes",
        "",
        *table(["figure", "measured", "aim"], [row(figure, {**cut, **served}) for figure in FIGURES]),
    ]


def row(figure: Figure, found: Mapping[str, Any]) -> list[str]:
    value = found[figure.key]
    return [figure.title, "not measured" if value is None else f"{value:,}", figure.aim]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, the second to the right."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    ruler = ["-" * width for width in widths]
    lines = (head, ruler, *rows)
    return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}".rstrip() for a, b, c in lines]


if __name__ == "__main__":
    main()
