"""What a long benchmark has found so far: a CSV file that it adds to, so that it can be stopped and taken up.

table = Table(RESULTS / "x.csv", Row)
if not table.has(network="VGG", seed=0):
    table.add(Row(…))
"""

from __future__ import annotations

import csv
import dataclasses
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESULTS = Path(__file__).parents[1] / "docs" / "results"
R = TypeVar("R", bound="DataclassInstance")
PARSERS: Mapping[str, Any] = {"int": int, "float": float, "str": str, "bool": lambda text: text == "True"}


class Table(Generic[R]):
    """Rows of one dataclass (fields of int, float, str or bool), in a file from the moment they are added."""

    def __init__(self, path: Path, row: type[R]) -> None:
        self.path, self.row = path, row
        self.rows: list[R] = []
        if path.exists():
            self._repair()
            with path.open(newline="") as file:
                self.rows = [self._parse(record) for record in csv.DictReader(file)]

    def has(self, **key: Any) -> bool:
        """Whether there is a row with these values."""
        return any(all(getattr(row, name) == value for name, value in key.items()) for row in self.rows)

    def add(self, row: R) -> None:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", newline="") as file:
            table = csv.DictWriter(file, [field.name for field in dataclasses.fields(self.row)], lineterminator="\n")
            if new:
                table.writeheader()
            table.writerow(dataclasses.asdict(row))

    def _repair(self) -> None:
        """Take off a last line that was only written in part."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            self.path.write_bytes(whole)

    def _parse(self, record: Mapping[str, str]) -> R:
        types = {field.name: str(field.type) for field in dataclasses.fields(self.row)}
        if types.keys() != record.keys():
            sys.exit(f"{self.path} has other columns than this benchmark writes: move it away.")
        return self.row(**{name: PARSERS[types[name]](text) for name, text in record.items()})


@contextmanager
def place(quick: bool, given: Path | None) -> Iterator[Path]:
    """The folder for tables and plots: the one given, or docs/results, or one that a quick run throws away."""
    if given is not None:
        yield given
    elif quick:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield RESULTS


def machine() -> str:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{device}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def markdown(columns: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """A table in Markdown: below the title of each panel its rows, of a label and a cell for each column."""
    lines: list[str] = []
    for title, rows in panels.items():
        lines.append(_line(title, [f"{column:g}" for column in columns]))
        if len(lines) == 1:
            lines.append(_line("---", ["---"] * len(columns)))
        lines += [_line(label, cells) for label, cells in rows.items()]
    return "\n".join(lines) + "\n"


def _line(label: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([label, *cells])} |"


def plot(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, ...]]]],
    across: str,
    up: str,
    logarithmic: bool = False,
) -> None:
    """Lines as an SVG: for each panel (its title) and line (its label) the points (x, y), or with an interval
    (x, y, low, high)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rightrank"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.6 * len(panels), 4), squeeze=False, layout="constrained")
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for label, points in lines.items():
            x, y, *ends = zip(*sorted(points), strict=True)
            line = axis.plot(x, y, marker="o", markersize=3, linewidth=1.2, label=label)
            if ends:
                axis.vlines(x, *ends, colors=line[0].get_color(), linewidth=1)
        axis.set(title=title, xlabel=across, ylabel=up)
        axis.grid(alpha=0.3)
        if logarithmic:
            axis.set_xscale("log")
    axes[0][-1].legend(fontsize="small", loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
