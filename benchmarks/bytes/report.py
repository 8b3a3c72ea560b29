"""The page and the plot of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bytes.lost import Lost, mean
from benchmarks.bytes.ours import WHOLE
from benchmarks.bytes.subjects import OURS
from benchmarks.results import markdown, plot

ORIGINAL = ("float32 cut", WHOLE)
MEAN = "mean of " + ", ".join(OURS)
# What loses more points is in the table, and not in the plot.
DRAWN = 20.0


@dataclass(frozen=True)
class Row:
    """One file: its bytes as sent, its accuracy on `n` samples beside the original's, and between which points lost the
    difference is (95 %). Where there are no labels, accuracy is how often the original's answer is given.

    `size` is what was asked for, or what the method was told; `params` counts all numbers; `won` is the correction that
    was chosen, where there was a choice.
    """

    data: str
    network: str
    seed: int
    method: str
    size: str
    bytes: int
    params: int
    accuracy: float
    baseline: float
    low: float
    high: float
    n: int
    won: str

    @property
    def lost(self) -> Lost:
        return Lost(100 * (self.baseline - self.accuracy), self.low, self.high)


@dataclass(frozen=True)
class File:
    """The same file of a network's several seeds."""

    method: str
    size: str
    bytes: float
    lost: Lost


def files(rows: Sequence[Row], network: str) -> list[File]:
    """Of one network, the largest first."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.network == network:
            grouped.setdefault((row.method, row.size), []).append(row)
    found = [
        File(*key, sum(row.bytes for row in several) / len(several), mean([row.lost for row in several]))
        for key, several in grouped.items()
    ]
    return sorted(found, key=lambda file: (-file.bytes, file.method))


def page(rows: Sequence[Row], order: Sequence[str]) -> str:
    """Points lost at parts of the original's file, and then every file; methods in their `order`."""
    return f"{parts(rows, order)}\n{whole(rows)}"


def parts(rows: Sequence[Row], order: Sequence[str]) -> str:
    """Points lost where a part of the original's file was asked for: each network, and the mean of those that were
    trained here."""
    asked = sorted({row.size for row in rows if row.size.startswith("1/")}, key=lambda size: int(size[2:]))
    panels: dict[str, dict[str, Mapping[str, Lost]]] = {}
    for network in dict.fromkeys(row.network for row in rows):
        found = [file for file in files(rows, network) if file.size in asked]
        panels[network] = {
            method: {file.size: file.lost for file in found if file.method == method}
            for method in sorted({file.method for file in found}, key=order.index)
        }
    if all(panels.get(network) for network in OURS):
        several = [panels[network] for network in OURS]
        panels[MEAN] = {
            method: {
                size: mean([panel[method][size] for panel in several])
                for size in asked
                if all(size in panel.get(method, {}) for panel in several)
            }
            for method in several[0]
        }
    cells = {
        f"**{title}**": {
            method: [f"{found[size].points:.2f}" if size in found else "" for size in asked]
            for method, found in panel.items()
        }
        for title, panel in panels.items()
        if panel
    }
    return markdown([1 / int(size[2:]) for size in asked], cells) if cells else ""


def whole(rows: Sequence[Row]) -> str:
    """Every file, by bytes. A share is of the original's file in float32, where that was measured."""
    lines = ["| file | kB | share | points lost | 95 % |", "| --- | ---: | ---: | ---: | --- |"]
    for network in dict.fromkeys(row.network for row in rows):
        found = files(rows, network)
        original = next((file.bytes for file in found if (file.method, file.size) == ORIGINAL), None)
        mine = {row.seed: row for row in rows if row.network == network}
        accuracies = ", ".join(f"{100 * row.baseline:.2f}" for _, row in sorted(mine.items()))
        lines.append(f"| **{network}**, {next(iter(mine.values())).data}, {accuracies} % | | | | |")
        for file in found:
            share = "" if original is None else f"{file.bytes / original:.4f}"
            title = f"{file.method}, {file.size}" if file.size else file.method
            interval = f"{file.lost.low:.2f} to {file.lost.high:.2f}"
            lines.append(f"| {title} | {file.bytes / 1000:.1f} | {share} | {file.lost.points:.2f} | {interval} |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path, order: Sequence[str]) -> None:
    """Points lost against kB, for each network a panel and for each method a line."""
    panels: dict[str, Mapping[str, list[tuple[float, ...]]]] = {}
    for network in dict.fromkeys(row.network for row in rows):
        drawn = [file for file in files(rows, network) if file.lost.points <= DRAWN]
        panels[network] = {
            method: [
                (file.bytes / 1000, file.lost.points, file.lost.low, file.lost.high)
                for file in drawn
                if file.method == method
            ]
            for method in sorted({file.method for file in drawn}, key=order.index)
        }
    plot(path, panels, "kB as sent", "points lost", logarithmic=True)
