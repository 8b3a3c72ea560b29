"""Whether a smaller model is a faster one: original and cuts on one core, a batch of one.

    python -m benchmarks.latency [--quick] [--results FOLDER]

Each network is built with random weights, which take as long to multiply as trained ones do, and cut at
budgets by parameters without calibration data. (Trained weights would put the ranks elsewhere, so MACs at the
same budget differ.) What is timed are the files that a device would get, loaded with `torch.jit.load`:

* ms         as loaded: CPU time of the one thread, so that what else the machine does hardly counts; the median
             of rounds in which all sizes of a network take turns, so that drift hits all alike
* frozen ms  the same after `torch.jit.optimize_for_inference(torch.jit.freeze(model))`
* faster     the original's time divided by this one's, from the same rounds
* memory     the file's tensors, and the most that torch's allocator held at once during one call, input and
             output included. What the kernels allocate past torch, such as reordered weights, is not counted.

The table is kept in latency.csv, a plot beside it, in docs/results; with --quick in a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Without this the profiler that counts memory writes lines of its own. It is read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from torch import Tensor

from benchmarks import masters, programs, results
from benchmarks.bar import Advance, bar
from rightrank.models.emit import formats
from rightrank.models.plan.planner import Plan, Planner

BUDGETS = (1.0, 0.5, 0.3, 0.2, 0.1)
# A difference that a repeated measurement may well show on its own.
NOISE = 0.05
# One sample of a network takes at least this long: as many calls in a row as that needs.
SAMPLE_S = 0.02
NETWORKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ResNet-18, 224×224": ("resnet18", {}),
    "MobileNetV2, 224×224": ("mobilenet_v2", {}),
    "VGG-15, 32×32": ("vgg15", {}),
    "ViT-Ti/16, 224×224": ("vit", {"dim": 192, "heads": 3, "mlp_dim": 768}),
}
QUICK: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ResNet-18, 64×64, width 8": ("resnet18", {"width": 8, "image_size": 64, "num_classes": 10}),
    "ViT, 32×32": ("vit", {"image_size": 32, "patch_size": 8, "depth": 2, "heads": 2, "dim": 64, "mlp_dim": 128}),
}


@dataclass(frozen=True)
class Row:
    """One size of one network. Times in milliseconds; `memory`, of all, and `tensors`, of the file, in bytes."""

    network: str
    budget: float
    params: int
    macs: int
    macs_share: float
    ms: float
    faster: float
    frozen_ms: float
    frozen_faster: float
    tensors: int
    memory: int
    rounds: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description="Original and cuts on one core.")
    parser.add_argument("--quick", action="store_true", help="two very small networks and few rounds")
    parser.add_argument("--rounds", type=int, help="other than 41, or 3 with --quick")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table and the plot go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    networks = QUICK if given.quick else NETWORKS
    rounds = given.rounds or (3 if given.quick else 41)
    with results.place(given.quick, given.results) as folder:
        table = results.Table(folder / "latency.csv", Row)
        todo = {n: how for n, how in networks.items() if not all(table.has(network=n, budget=b) for b in BUDGETS)}
        with bar(len(todo) * rounds, "rounds") as advance:
            for name, (architecture, arguments) in todo.items():
                for row in measure(name, architecture, arguments, rounds, advance):
                    table.add(row)
        show(table.rows)
        draw(folder / "latency.svg", table.rows)


@torch.inference_mode()
def measure(name: str, architecture: str, arguments: dict[str, Any], rounds: int, advance: Advance) -> list[Row]:
    """All sizes of one network, timed in turn."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        programs.prepare(architecture, arguments, folder / "source")
        masters.make(folder / "source", folder / "master", mixed=False)
        planner = Planner.open(folder / "master")
        plans = [within(planner, budget) for budget in BUDGETS]
        models = [load(folder, plan) for plan in plans]
    frozen = [torch.jit.optimize_for_inference(torch.jit.freeze(model)) for model in models]
    image = torch.randn(1, *programs.input_shape(architecture, arguments))
    times = in_turn([*models, *frozen], image, rounds, lambda: advance(name))
    plain, optimised = times[: len(models)], times[len(models) :]
    rows = []
    for index, (budget, plan, model) in enumerate(zip(BUDGETS, plans, models, strict=True)):
        tensors = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        rows.append(
            Row(
                network=name,
                budget=budget,
                params=plan.params,
                macs=plan.macs,
                macs_share=round(plan.macs / plans[0].macs, 4),
                ms=round(plain[index], 3),
                faster=round(plain[0] / plain[index], 3),
                frozen_ms=round(optimised[index], 3),
                frozen_faster=round(optimised[0] / optimised[index], 3),
                tensors=tensors,
                memory=tensors + activations(model, image),
                rounds=rounds,
            )
        )
    return rows


def within(planner: Planner, budget: float) -> Plan:
    """The largest plan of so many parameters, or the smallest there is."""
    return planner.plan(max_params=max(int(budget * planner.template.params), planner.smallest.params))


def load(folder: Path, plan: Plan) -> torch.jit.ScriptModule:
    """What a device has of a plan: its file, loaded."""
    path = folder / "variant.pt"
    with path.open("wb") as file:
        formats.write(folder / "master", plan, file)
    model: torch.jit.ScriptModule = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return model


def in_turn(models: Sequence[Any], image: Tensor, rounds: int, advance: Any) -> list[float]:
    """For each the median milliseconds of a call. Every other round goes backwards."""
    calls = []
    for model in models:
        for _ in range(3):  # TorchScript optimises in its first calls
            model(image)
        calls.append(max(1, round(SAMPLE_S / timed(model, image, 1))))
    taken: list[list[float]] = [[] for _ in models]
    for number in range(rounds):
        order = range(len(models)) if number % 2 else range(len(models) - 1, -1, -1)
        for index in order:
            taken[index].append(timed(models[index], image, calls[index]))
        advance()
    return [1000 * statistics.median(times) for times in taken]


def timed(model: Any, image: Tensor, calls: int) -> float:
    """Seconds of CPU that one call takes, the mean of several."""
    start = time.thread_time()
    for _ in range(calls):
        model(image)
    return (time.thread_time() - start) / calls


def activations(model: Any, image: Tensor) -> int:
    """The most bytes that torch's allocator holds at once during a call, with the input."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        output = model(image)
    del output
    events = profile.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most + image.numel() * image.element_size()


def verdict(faster: float) -> str:
    if faster > 1 + NOISE:
        return "faster"
    return "SLOWER than the original" if faster < 1 - NOISE else "not faster than the original"


def show(rows: Sequence[Row]) -> None:
    print(f"{results.machine()}. One thread's CPU time, batch of 1, random weights, budgets by parameters.")
    for network in dict.fromkeys(row.network for row in rows):
        print(f"\n{network}")
        print(
            f"{'budget':>6}{'params':>12}{'MACs':>15}{'of all':>8}{'ms':>9}{'faster':>9}"
            f"{'frozen ms':>11}{'faster':>9}{'memory, MB':>12}"
        )
        for row in (row for row in rows if row.network == network):
            both = [verdict(row.faster), verdict(row.frozen_faster)]
            words = both[0] if both[0] == both[1] else f"{both[0]}; frozen: {both[1]}"
            print(
                f"{row.budget:>6g}{row.params:>12,}{row.macs:>15,}{row.macs_share:>8.2f}{row.ms:>9.2f}"
                f"{row.faster:>8.2f}x{row.frozen_ms:>11.2f}{row.frozen_faster:>8.2f}x{row.memory / 1e6:>12.1f}"
                + (f"  {words}" if row.budget < 1 else "")
            )


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Times as shares of the original's, above the share of MACs."""
    panels = {}
    for network in dict.fromkeys(row.network for row in rows):
        mine = [row for row in rows if row.network == network]
        panels[network] = {
            "as loaded": [(row.macs_share, 1 / row.faster) for row in mine],
            "frozen": [(row.macs_share, 1 / row.frozen_faster) for row in mine],
            "as MACs": [(row.macs_share, row.macs_share) for row in mine],
        }
    results.plot(path, panels, "share of MACs", "share of the original's time")


if __name__ == "__main__":
    main()
