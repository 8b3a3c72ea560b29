"""Accuracy lost against the bytes of a file as it is sent: ours at parts of the float32 file, and rivals at their own.

    python -m benchmarks.bytes [--quick] [--networks ResNet-56,ViT] [--seeds 0,1,2] [--methods "auto refit,nncodec"]
                               [--results FOLDER]

The networks of `benchmarks.compression` (their seeds) and of `benchmarks.cifar`, on the whole test set, and
EfficientNet-Lite0, of which 150 photographs are for calibration and which is to answer 350 others as the original
does. Nobody sees a label. The methods:

    float32, … cut, refit   ours, in each precision that there is (see `ours`); in float32 at a part of the original's
                            parameters, in others of its file's bytes. `auto refit` also at the bytes of the next two
    auto polish             its levels trained, each size on its own
    onnx int8, int4 cut …   the same as ONNX files, run by onnxruntime
    int8, int4 rounded      the whole network, batch norms folded, a step for each output channel (see `quantise`);
                            bytes without code and names, `raw` and `deflated` (see `blob`)
    int8, int4 fed back     the same with error feedback (GPTQ, arXiv:2210.17323), with our calibration inputs
    onnxruntime int8        static int8 of each output channel in its own runtime, calibrated with the same inputs
    nncodec                 MPEG's neural network coding (ISO/IEC 15938-17), at several steps

It goes on where it was stopped: docs/results/bytes.csv grows row by row (bytes.md and bytes.svg are made of it), what
is made on the way lies in build/bytes. `--quick` takes scikit-learn's digits, a small network and few steps, in a
temporary folder, without what needs an environment of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.bytes.lost import lost
from benchmarks.bytes.methods import METHODS, ORDER, RIVALS
from benchmarks.bytes.quantise import MOST
from benchmarks.bytes.report import Row, draw, page
from benchmarks.bytes.study import Study
from benchmarks.bytes.subjects import OURS, SUBJECTS, Make, Subject, quick
from benchmarks.compression import progress
from benchmarks.results import Table, machine, place
from rightrank.models.improve import polish
from rightrank.models.improve.distill import Recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="digits, a small network, few steps; writes no file")
    parser.add_argument("--networks", default=",".join(SUBJECTS))
    parser.add_argument("--seeds", default="0,1,2", help="of the networks that are trained here")
    parser.add_argument("--methods", help=f"default: {', '.join(METHODS)}; with --quick those without an environment")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables and the plot go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    names = [name for name, method in METHODS.items() if not given.quick or method.needs is None]
    if given.methods:
        names = [name for name in METHODS if name in {each.strip() for each in given.methods.split(",")}]
    for name in names:
        python = METHODS[name].needs
        if python is not None and not python.exists():
            parser.error(f"{python} is missing: `make {python.parents[1]}`, or name --methods without {name}")
    with tempfile.TemporaryDirectory() as temporary, place(given.quick, given.results) as folder:
        table = Table(folder / "bytes.csv", Row)
        if given.quick:
            few = dataclasses.replace(polish.RECIPE, steps=10, batch=32)
            run(table, {"ResNet-14": partial(quick, Path(temporary))}, [0], names, few, Path(temporary))
        else:
            networks = {name: SUBJECTS[name] for name in given.networks.split(",")}
            run(table, networks, [int(s) for s in given.seeds.split(",")], names, polish.RECIPE, Path("build/bytes"))
        report(table)


def run(
    table: Table[Row],
    networks: Mapping[str, Make],
    seeds: Sequence[int],
    methods: Sequence[str],
    training: Recipe,
    folder: Path,
) -> None:
    """Add every row that is not there yet."""
    wanted = [(name, seed) for name in networks for seed in seeds if name in OURS or seed == seeds[0]]
    with progress() as bars:
        whole, task = bars.add_task("all", total=len(wanted) * len(methods)), bars.add_task("", total=1)
        for name, seed in wanted:

            def tell(phase: str, completed: int, total: int, unit: str, title: str = f"{name}, seed {seed}") -> None:
                bars.update(task, completed=completed, total=total, description=f"{title}: {phase}")

            def learn(done: int, total: int) -> None:
                tell("training", done, total, "steps")

            subject = networks[name](seed, learn)
            place_of = folder / subject.title
            place_of.mkdir(parents=True, exist_ok=True)
            study = Study(subject, place_of, training, partial(rivals, table, subject), tell)
            for method in methods:
                add(table, study, method)
                bars.advance(whole)


def add(table: Table[Row], study: Study, method: str) -> None:
    """Measure the method at every size; the rows that are there already are not done again."""
    subject = study.subject
    place_of = (subject.data, subject.network, subject.seed, method)
    for size in METHODS[method].sizes(study):
        if table.has(data=subject.data, network=subject.network, seed=subject.seed, method=method, size=size):
            continue
        found = METHODS[method].make(study, size)
        targets = study.original if subject.targets is None else subject.targets
        accuracy, baseline = (float((each == targets).double().mean()) for each in (found.answers, study.original))
        ends = lost(found.answers, study.original, targets)
        shares = (accuracy, baseline, round(ends.low, 4), round(ends.high, 4))
        table.add(Row(*place_of, size, found.bytes, found.params, *shares, len(targets), found.won))


def rivals(table: Table[Row], subject: Subject) -> dict[str, int]:
    """The bytes of a network's int8 and int4 files that are there: of each width and kind those of the smallest."""
    found: dict[str, int] = {}
    for row in table.rows:
        width = row.method.split()[0]
        if (row.network, row.seed) == (subject.network, subject.seed) and width in MOST and row.method in RIVALS:
            name = f"{width}, {row.size}"
            found[name] = min(row.bytes, found.get(name, row.bytes))
    return found


def report(table: Table[Row]) -> None:
    """Print the page of the rows, and put it and a plot beside them."""
    text = page(table.rows, ORDER)
    print(f"{machine()}\n\n{text}")
    table.path.with_suffix(".md").write_text(text)
    draw(table.rows, table.path.with_suffix(".svg"), ORDER)


if __name__ == "__main__":
    main()
