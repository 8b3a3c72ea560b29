"""Whether what is certified is so, and what it costs.

    python -m benchmarks.guarantee [--quick] [--draws 1000] [--results FOLDER]

A small convolutional network is trained on Fashion-MNIST in a few minutes and cut to the row of sizes that the
service tests. Each file is run once over all 10,000 test images, and its share of right answers there is the truth.
From these images evaluation sets are drawn, with replacement, so that the truth of what they are drawn from is known to
the last digit; on each set a size is chosen by two rules:

    certified   the smallest of the row that passes as `min_accuracy=…&confidence=0.95` has it
    measured    the smallest that reaches the target on the set, as `min_accuracy=…` has it

Five targets are what a device may ask for, 1 to 10 points below the original. Five are the hardest that there are: half
an image above the truth of a size of the row, which is then wrong by next to nothing and looks right half of the time.
Written to docs/results: guarantee.csv, and the tables of it in guarantee.md. The network is kept in build/guarantee;
`--quick` takes scikit-learn's digits, few draws, and a temporary folder.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

import rightrank
from benchmarks import programs
from benchmarks.bar import bar
from benchmarks.data import Data, digits, fashion_mnist
from benchmarks.networks import fit
from benchmarks.results import Table, machine, place
from rightrank.models.emit import formats
from rightrank.models.measure.certificate import Counted, at_least, passing
from rightrank.models.plan.planner import Planner

CONFIDENCE = 0.95
POINTS = (1, 2, 3, 5, 10)
SIZES, QUICK_SIZES = (500, 2000), (100, 300)
DRAWS, QUICK_DRAWS = 1000, 100
CALIBRATION = 512


@dataclass(frozen=True)
class File:
    """A size of the row: its share of the parameters, its bytes, and what it has right of all images (N,)."""

    budget: float
    bytes: int
    right: NDArray[np.bool_]

    @property
    def truth(self) -> float:
        return float(self.right.mean())


@dataclass(frozen=True)
class Row:
    """One target on sets of one size. Of `draws` sets: on how many the chosen file is below the target in truth
    (`wrong`), which share of all sets that are thinkable that may be (`bound`, one-sided, 95 %), on how many there was
    none, and the median of the chosen files' bytes, 0 where none was ever chosen. First certified, then as measured.
    `chance` is what the first can come to at most, worked out and not drawn."""

    data: str
    n: int
    asked: str
    target: float
    draws: int
    wrong: int
    bound: float
    none: int
    bytes: int
    measured_wrong: int
    measured_bound: float
    measured_none: int
    measured_bytes: int
    chance: float


def network(channels: int, side: int, classes: int) -> nn.Sequential:
    """Three convolutions, each of which halves the image, and two linear layers."""
    layers: list[nn.Module] = []
    widths = (channels, 16, 32, 64)
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        side = (side + 1) // 2
    hidden = 96
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(64 * side * side, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


def trained(data: Data, epochs: int, kept: Path) -> nn.Module:
    """The network in evaluation mode, from the file `kept`, or trained and put there."""
    torch.manual_seed(0)
    model = network(data.shape[0], data.shape[1], int(data.labels.max()) + 1)
    if not kept.exists():
        steps = len(data.images) // 128 * epochs
        with bar(steps, "steps of training") as advance:
            fit(model, data, 3e-3, epochs, 0, lambda done, total: advance(data.name))
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), kept)
    model.load_state_dict(load_file(kept))
    return model.eval()


def row_of(model: nn.Module, data: Data, folder: Path) -> list[File]:
    """The files of the row, the largest first, each run over all test images from its own bytes."""
    programs.export(model, data.shape, folder / "model.pt2")
    master = rightrank.build(rightrank.read(folder / "model.pt2"), folder / "master", data.images[:CALIBRATION])
    planner = Planner.open(master.folder, formats.latest())
    found = []
    for budget in planner.possible():
        path = rightrank.write(master, planner.plan(budget), folder / "size.pt")
        module = torch.jit.load(path)  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            answers = torch.cat([module(batch).argmax(1) for batch in torch.split(data.test_images, 500)])
        found.append(File(budget, path.stat().st_size, (answers == data.test_labels).numpy()))
    return found


def targets(files: Sequence[File]) -> list[tuple[str, float]]:
    """What is asked for, in words and as a share: see above."""
    half = 0.5 / len(files[0].right)
    wanted = [(f"{points} below the original", files[0].truth - points / 100) for points in POINTS]
    return wanted + [(f"just above that of {file.budget:g}", file.truth + half) for file in files[1:][-len(POINTS) :]]


def certified(values: Sequence[float], n: int, target: float) -> int | None:
    """Which file of the row is chosen by what they have on a set of n images; None where none is."""
    count = passing((Counted(value, n, n, 1) for value in values), target, CONFIDENCE)
    return count - 1 if count else None


def measured(values: Sequence[float], n: int, target: float) -> int | None:
    """The same by what they have alone."""
    return max((index for index, value in enumerate(values) if value >= target), default=None)


def upper(count: int, n: int) -> float:
    """Up to which share (one-sided, 95 %, Clopper and Pearson) what came about `count` times of n may be."""
    low, high = count / n, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - at_least(count + 1, n, middle) > 0.05 else (low, middle)
    return high


def chance(files: Sequence[File], n: int, target: float) -> float:
    """How likely it is at most that a file below the target is certified on a set of n images: the first of them would
    have to pass, whatever those before it do."""
    below = next((file.truth for file in files if file.truth < target), None)
    if below is None:
        return 0.0
    low, high = 0, n + 1  # the fewest right answers that pass
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if certified([middle / n], n, target) is not None else (middle, high)
    return at_least(high, n, below)


def study(name: str, files: Sequence[File], sizes: Sequence[int], draws: int) -> Iterator[Row]:
    """All targets on sets of all sizes. Each set serves for all targets and both rules."""
    right = np.stack([file.right for file in files])
    for n in sizes:
        g = np.random.default_rng(n)
        sets = [right[:, g.integers(right.shape[1], size=n)].mean(1).tolist() for _ in range(draws)]
        for asked, target in targets(files):
            found = []
            for rule in (certified, measured):
                chosen = [index for values in sets if (index := rule(values, n, target)) is not None]
                wrong = sum(files[index].truth < target for index in chosen)
                size = int(statistics.median(files[index].bytes for index in chosen)) if chosen else 0
                found.append((wrong, round(upper(wrong, draws), 4), draws - len(chosen), size))
            most = round(chance(files, n, target), 4)
            yield Row(name, n, asked, round(target, 6), draws, *found[0], *found[1], most)


def show(rows: Sequence[Row]) -> str:
    """For a page: a table for each size of sets."""
    lines: list[str] = []
    for n in dict.fromkeys(row.n for row in rows):
        columns = [f"target, on sets of {n:,}", "certified: wrong", "95 % bound", "worked out", "none", "bytes"]
        columns += ["measured: wrong", "none", "bytes", "fewer by"]
        lines += ["", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
        for row in rows:
            if row.n == n:
                shares = [row.wrong, row.none, row.measured_wrong, row.measured_none]
                wrong, none, theirs, without = (f"{100 * each / row.draws:.1f} %" for each in shares)
                sizes = [f"{each:,}" if each else "–" for each in (row.bytes, row.measured_bytes)]
                saved = f"{1 - row.measured_bytes / row.bytes:.0%}" if row.bytes and row.measured_bytes else "–"
                label = f"{100 * row.target:.2f} %, {row.asked}"
                bound, exact = f"{100 * row.bound:.1f} %", f"{100 * row.chance:.1f} %"
                cells = [label, wrong, bound, exact, none, sizes[0], theirs, without, sizes[1], saved]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines[1:]) + "\n"


def sizes_of(files: Sequence[File]) -> str:
    """The row: what each file has in truth."""
    return ", ".join(f"{file.budget:g}: {100 * file.truth:.2f} % in {file.bytes:,} bytes" for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="digits and few draws; writes no file")
    parser.add_argument("--draws", type=int)
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table goes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    data = digits() if given.quick else replace(fashion_mnist(), augmented=False)
    with tempfile.TemporaryDirectory() as temporary, place(given.quick, given.results) as results:
        folder = Path(temporary)
        kept = (folder if given.quick else Path("build/guarantee")) / "network.safetensors"
        files = row_of(trained(data, 12 if given.quick else 4, kept), data, folder)
        print(machine())
        print(f"{data.name}, {len(data.test_images):,} images: {sizes_of(files)}")
        path = results / "guarantee.csv"
        path.unlink(missing_ok=True)
        table = Table(path, Row)
        sizes, draws = (QUICK_SIZES, QUICK_DRAWS) if given.quick else (SIZES, DRAWS)
        with bar(len(sizes) * len(targets(files)), "targets") as advance:
            for row in study(data.name, files, sizes, given.draws or draws):
                table.add(row)
                advance(row.asked)
        text = show(table.rows)
        path.with_suffix(".md").write_text(text)
        print(text, end="")


if __name__ == "__main__":
    main()
