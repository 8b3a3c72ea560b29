"""What a publisher's upload costs: core seconds of each kind of work, and as multiples of one forward pass.

    python -m benchmarks.cost [--quick] [--steps N] [--device cuda] [--results FOLDER]

ResNet-18 with random weights and 320 random calibration inputs (the fewest that tuning takes), on one thread.
Times are the process's CPU time, so that what else the machine does in these minutes hardly counts; waiting for
the disk is left out. On a GPU, `--device cuda`, only what can be done there is timed, by the clock: a forward pass,
tuning but for its comparisons, and polishing.

* forward      the network once over all calibration inputs, without gradients: the unit of the rest
* statistics   passes over the inputs in `assemble.build` (see `factor.gathering`)
* ranges       what values reach at several sizes, and which layers can compute in eight bits; writing, too
* decompose    the rest of `assemble.build`: reading, factors, corrections, importance
* choice       what trying two criteria adds, where none is given: more passes back, and `assemble.trial`
* refit        `choose.improve` for the plan at 0.3 of the parameters
* tune         `tune.tune`: some steps, the statistics of the original, and five sizes, evenly spaced between the
               smallest and the whole as all of them are, are timed; the whole, with its 600 steps and all 96 sizes,
               of which 24 are compared with the cut, is worked out from those
* polish       `polish.polish` of the plan at 0.3: some steps are timed; the whole, 300 steps at each of two
               rates, is worked out from those

The rows are kept in cost.csv in docs/results; with --quick, which takes a narrow network and 64×64, in a
temporary folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import masters, programs, results
from benchmarks.bar import Advance, bar
from rightrank.models.factor.gathering import BATCH
from rightrank.models.improve import polish, tune
from rightrank.models.improve.choose import improve
from rightrank.models.master.master import Master
from rightrank.models.master.variant import variant
from rightrank.models.plan.planner import Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent

INPUTS = 320
BUDGET = 0.3
# Of the sizes that tuning settles so many are timed: the first and the last compared with the cut, the others not.
SIZES = tune.EACH + 1
FULL: dict[str, Any] = {}
QUICK: dict[str, Any] = {"width": 8, "image_size": 64, "num_classes": 10}
PHASES = 6  # master, forward, choice, refit, tune, polish
LAST = f"polish, {polish.STEPS} steps at each rate"


@dataclass(frozen=True)
class Row:
    """One kind of work on one network and device: its seconds (core seconds of a "cpu"), and those divided by a
    forward pass's. `measured`: timed as it is, or worked out from parts that were."""

    device: str
    network: str
    inputs: int
    work: str
    seconds: float
    forwards: float
    measured: bool


class Clock:
    """A progress callback that notes when every stage of every phase began."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.now = now
        self.times: dict[tuple[str, int], float] = {}
        self.total: dict[str, int] = {}

    def __call__(self, phase: str, completed: int, total: int, unit: str) -> None:
        self.times.setdefault((phase, completed), self.now())
        self.total[phase] = total

    def between(self, start: tuple[str, int], end: tuple[str, int]) -> float:
        return self.times[end] - self.times[start]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description="What an upload's work costs.")
    parser.add_argument("--quick", action="store_true", help="a narrow network on small images")
    parser.add_argument("--steps", type=int, default=3, help="of the tuning, besides a first one that is not counted")
    parser.add_argument("--device", default="cpu", help="where tuning and polishing are timed")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table goes")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    device = given.device if given.device == "cpu" else torch.cuda.get_device_name(given.device)
    name, arguments = ("ResNet-18, 64×64, width 8", QUICK) if given.quick else ("ResNet-18, 224×224", FULL)
    with results.place(given.quick, given.results) as folder:
        table = results.Table(folder / "cost.csv", Row)
        if not table.has(device=device, network=name, work=LAST):
            with bar(PHASES if given.device == "cpu" else PHASES - 2, "kinds of work") as advance:
                measured, worked_out = measure(arguments, given.steps, given.device, advance)
            for works in (measured, worked_out):
                for work, taken in works.items():
                    if not table.has(device=device, network=name, work=work):
                        sizes = round(taken, 3), round(taken / measured["forward"], 3)
                        table.add(Row(device, name, INPUTS, work, *sizes, works is measured))
        show([row for row in table.rows if (row.device, row.network) == (device, name)])


def measure(
    arguments: dict[str, Any], steps: int, device: str, advance: Advance
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by kind of work: measured, and worked out from those."""
    with tempfile.TemporaryDirectory() as temporary:
        source, out = Path(temporary, "source"), Path(temporary, "master")
        programs.prepare("resnet18", arguments, source)
        inputs = torch.randn(INPUTS, *programs.input_shape("resnet18", arguments))
        save_file({"inputs": inputs}, source / "calibration.safetensors")
        build = Clock()
        built = seconds(lambda: masters.make(source, out, criterion="logit", keep=INPUTS, mixed=False, progress=build))
        build("end", 0, 0, "")
        gathered = build.between(("calibrate", 0), ("calibrate", INPUTS))
        ranges = build.between(("decompose", build.total["decompose"]), ("end", 0))
        advance("statistics, decomposition")
        forward = pass_over(out, inputs, device)
        advance("forward")
        measured = {"forward": forward}
        ranks = Planner.open(out).plan(max_params=int(BUDGET * Planner.open(out).template.params)).ranks
        if device == "cpu":
            chosen = seconds(lambda: masters.make(source, Path(temporary, "chosen"), mixed=False))
            advance("choice")
            refit = seconds(lambda: improve(out, ranks, Path(temporary, "refit"), silent))
            advance("refit")
            measured |= {
                "statistics": gathered,
                "decompose": built - gathered - ranges,
                "ranges": ranges,
                "choice": chosen - built,
                "refit": refit,
            }
        one = polishing(out, ranks, inputs, steps, device)
        advance("polish")
        step, original, compared, size = tuning(out, inputs, steps, device)
        advance("tune")
    comparisons = math.ceil(tune.KNOTS / tune.EACH)
    whole = tune.STEPS * step + original + comparisons * compared + (tune.KNOTS - comparisons) * size
    measured |= {
        "tune, a step": step,
        "tune, statistics of the original": original,
        "tune, one size": size,
        "tune, one size compared": compared,
        "polish, a step": one,
    }
    worked_out = {
        f"tune, {tune.STEPS} steps": tune.STEPS * step,
        f"tune, {tune.STEPS} steps and all sizes": whole,
        LAST: len(polish.DIVISORS) * polish.STEPS * one,
    }
    return measured, worked_out


def pass_over(folder: Path, inputs: Tensor, device: str) -> float:
    """Seconds of the original over all inputs, in batches as the statistics are taken in; the better of two."""
    program = Master.open(folder).program()
    program = program.with_tensors({name: tensor.to(device) for name, tensor in program.tensors.items()})

    @torch.no_grad()
    def run() -> None:
        for images in torch.split(inputs, BATCH):
            program.run([images.to(device)])[0].cpu()

    return min(seconds(run, timer(device)) for _ in range(2))


def tuning(folder: Path, inputs: Tensor, steps: int, device: str) -> tuple[float, float, float, float]:
    """Seconds of a step (the median), of the original's statistics, of settling a size that is compared with the
    cut, and one that is not: the means over `SIZES`, from the smallest up, as larger ones take longer."""
    clock = Clock(timer(device))
    recipe = dataclasses.replace(tune.RECIPE, steps=steps + 1)
    tune.tune(folder, Samples.of(inputs), recipe, state=folder / "tuning", progress=clock, sizes=SIZES, device=device)
    each = [clock.between(("tune", number), ("tune", number + 1)) for number in range(1, steps + 1)]
    original = clock.between(("tune", steps + 1), ("settle", 0))
    settled: dict[bool, list[float]] = {True: [], False: []}
    for number in range(clock.total["settle"]):
        settled[number % tune.EACH == 0].append(clock.between(("settle", number), ("settle", number + 1)))
    return statistics.median(each), original, statistics.mean(settled[True]), statistics.mean(settled[False])


def polishing(folder: Path, ranks: Sequence[int], inputs: Tensor, steps: int, device: str) -> float:
    """Seconds of a step (the median)."""
    master, clock = Master.open(folder), Clock(timer(device))
    template, stored = master.template, master.tensors()
    original = master.program(stored)
    recipe = dataclasses.replace(polish.RECIPE, steps=steps + 1)
    start = variant(template, stored, ranks)
    polish.polish(template, original, ranks, start, Samples.of(inputs), recipe, clock, device=device)
    each = [clock.between(("polish", number), ("polish", number + 1)) for number in range(1, steps + 1)]
    return statistics.median(each)


def timer(device: str) -> Callable[[], float]:
    """The clock for work on a device."""
    return time.process_time if device == "cpu" else time.perf_counter


def seconds(function: Callable[[], object], now: Callable[[], float] = time.process_time) -> float:
    start = now()
    function()
    return now() - start


def show(rows: list[Row]) -> None:
    print(f"{results.machine()}. " + ("One thread, CPU time." if rows[0].device == "cpu" else "By the clock."))
    print(f"{rows[0].network}, random weights, {rows[0].inputs} random calibration inputs")
    print(f"{'work':<36}{'seconds':>11}{'forward passes':>16}")
    for row in rows:
        print(f"{row.work:<36}{row.seconds:>11.2f}{row.forwards:>16.2f}{'' if row.measured else '  worked out'}")


if __name__ == "__main__":
    main()
