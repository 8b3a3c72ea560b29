"""What it takes to make a master of a large network: minutes and memory, by kind of work.

    python -m benchmarks.ingest [--quick] [--networks ViT-B,GPT-2] [--results FOLDER]

ViT-B/16, BERT-base and GPT-2 of transformers with random weights, exported by `rightrank.export`, and 256 random
calibration inputs (tokens: 64 each). Each is read and made a master, as a service does with default settings, in a
process of its own, of which the most memory is taken; its torch and libraries are some 300 MiB of that. Besides, linear
layers of few inputs and many outputs: what decomposing one takes, with the corrections at every rank, beside LAPACK's
SVD of the same matrix.

* read         the upload's bytes, checked, as a program
* statistics   passes over the inputs, and trying two criteria where none is given, their decompositions too
* decompose    the factors of every layer, their corrections and importance
* levels       rounding everything to levels of eight bits and fewer, with error feedback
* ranges       what values reach, and which layers can compute in eight bits

The rows are kept in docs/results/ingest.csv (ingest.md, the table, is made of it); --quick takes small networks that
need no package of others, and a temporary folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

import rightrank
from benchmarks import vision
from benchmarks.bar import bar
from benchmarks.results import Table, machine, place
from rightrank.models import checkpoint
from rightrank.models.assemble.build import build
from rightrank.models.assemble.survey import survey
from rightrank.models.factor import correction
from rightrank.models.factor.decompose import decompose
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.gathering import Gathering
from rightrank.models.factor.room import Room
from rightrank.models.improve import refit
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples

INPUTS, TOKENS = 256, 64
# A layer of fewer parameters is decomposed more than once, and the least is taken.
SMALL = 1_000_000
WORK = {"read": "read", "calibrate": "statistics", "decompose": "decompose", "quantise": "levels", "ranges": "ranges"}
ALL, SVD = "all", "LAPACK's SVD"
# A module, and so many of its inputs.
Made: TypeAlias = tuple[nn.Module, Callable[[int], Any]]


@dataclass(frozen=True)
class Row:
    """One kind of work: seconds by the clock and of cores; of "all" also the most memory, in MiB."""

    network: str
    params: int
    inputs: int
    threads: int
    work: str
    seconds: float
    core_seconds: float
    mib: int


class Clock:
    """A progress callback: seconds by phase, by the clock and of cores."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cores: defaultdict[str, float] = defaultdict(float)
        self.phase, self.since = "read", (time.perf_counter(), time.process_time())

    def __call__(self, phase: str, completed: int, total: int, unit: str) -> None:
        now = time.perf_counter(), time.process_time()
        for seconds, end, start in zip((self.wall, self.cores), now, self.since, strict=True):
            seconds[self.phase] += end - start
            if phase == "calibrate":
                # What a choice between criteria decomposes to try them comes before the last statistics.
                seconds[phase] += seconds.pop("decompose", 0.0)
        self.phase, self.since = phase, now


def vit() -> Made:
    import transformers

    network = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=1000))
    return network, lambda count: {"pixel_values": torch.randn(count, 3, 224, 224)}


def bert() -> Made:
    import transformers

    network = transformers.BertForSequenceClassification(transformers.BertConfig())

    def inputs(count: int) -> dict[str, Tensor]:
        return {"input_ids": _ids(count, 30522), "attention_mask": torch.ones(count, TOKENS, dtype=torch.int64)}

    return network, inputs


def gpt2() -> Made:
    import transformers

    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False))
    return network, lambda count: {"input_ids": _ids(count, 50257)}


def _ids(count: int, words: int) -> Tensor:
    return torch.randint(0, words, (count, TOKENS))


def linear(inputs: int, outputs: int) -> Callable[[], Made]:
    return lambda: (nn.Sequential(nn.Linear(inputs, outputs)), lambda count: torch.randn(count, inputs))


def convolutions() -> Made:
    layers = (nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    return nn.Sequential(*layers), lambda count: torch.randn(count, 3, 16, 16)


NETWORKS: Mapping[str, Callable[[], Made]] = {
    "linear 32→2000": linear(32, 2000),
    "linear 1024→100000": linear(1024, 100_000),
    "ViT-B": vit,
    "BERT-base": bert,
    "GPT-2": gpt2,
}
QUICK: Mapping[str, Callable[[], Made]] = {"linear 8→200": linear(8, 200), "convolutions": convolutions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small networks; writes no file")
    parser.add_argument("--networks", help="some of them, separated by commas")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables go")
    given = parser.parse_args()
    vision.declare()
    known = QUICK if given.quick else NETWORKS
    chosen = given.networks.split(",") if given.networks else list(known)
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
    with place(given.quick, given.results) as folder, bar(len(chosen), "networks") as advance:
        table = Table(folder / "ingest.csv", Row)
        for name in chosen:
            if not table.has(network=name, work=ALL):
                with tempfile.TemporaryDirectory() as temporary:
                    export(name, Path(temporary))
                    for row in apart(name, Path(temporary)):
                        table.add(row)
            advance(name)
        (folder / "ingest.md").write_text(page := report(table.rows))
    print(page)


def apart(name: str, folder: Path) -> list[Row]:
    """What `ingest` gives in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(ingest, name, folder).result()


def export(name: str, folder: Path) -> None:
    """The network's file and its inputs."""
    torch.manual_seed(0)
    network, inputs = {**NETWORKS, **QUICK}[name]()
    rightrank.export(network.eval(), inputs(2), folder / "model.pt2")
    torch.save(inputs(INPUTS), folder / "inputs.pt")


def ingest(name: str, folder: Path) -> list[Row]:
    """The rows of a network."""
    clock = Clock()
    begun = time.perf_counter(), time.process_time()
    program = checkpoint.read(folder / "model.pt2")
    loaded = torch.load(folder / "inputs.pt")
    inputs = Samples.of(*(loaded.values() if isinstance(loaded, dict) else (loaded,)))
    params = sum(program.tensors[name].numel() for name in program.graph.parameters)
    place = name, params, INPUTS, torch.get_num_threads()

    def row(work: str, wall: float, cores: float, mib: int = 0) -> Row:
        return Row(*place, work, round(wall, 5), round(cores, 5), mib)

    if name.startswith("linear"):
        (weight,) = (each for each in program.tensors.values() if each.ndim == 2)
        ways = {
            "decompose": decomposed(program, inputs, folder),
            SVD: lambda: torch.linalg.svd(weight, full_matrices=False),
        }
        times = range(9 if params < SMALL else 1)
        return [row(work, *min(_timed(way) for _ in times)) for work, way in ways.items()] + [row(ALL, 0, 0)]
    build(program, folder / "master", inputs, keep=refit.INPUTS, progress=clock)
    clock("end", 0, 0, "")
    whole = time.perf_counter() - begun[0], time.process_time() - begun[1]
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1 << (20 if sys.platform == "darwin" else 10))
    parts = [row(work, clock.wall[phase], clock.cores[phase]) for phase, work in WORK.items() if clock.wall[phase]]
    return [*parts, row(ALL, *whole, mib)]


def decomposed(program: Program, inputs: Samples, folder: Path) -> Callable[[], object]:
    """What decomposes the only layer of a program, and corrects what follows it at every rank."""
    (layer,) = survey(program).decomposed
    gathering = Gathering(program, (layer,), ["logits"], {}, Room(folder))
    gathering.add(inputs, lambda done: None)
    (moments,) = gathering.moments("logits")

    def run() -> list[Tensor]:
        _, factors = decompose(layer, program.tensors[layer.weight], moments, FORMS)
        corrected = correction.corrections(program, layer)
        return [correction.rows(each, program.tensors[each.tensor], factors) for each in corrected]

    return run


def _timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of cores."""
    begun = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def report(found: Sequence[Row]) -> str:
    """A line for each network: what the whole takes, and its parts; of a layer alone how it compares with an SVD."""
    columns = list(WORK.values())
    lines = [
        f"| | parameters | minutes | core minutes | memory, MiB | {', '.join(columns)}: core seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    several = {
        name: [each for each in found if each.network == name] for name in dict.fromkeys(r.network for r in found)
    }
    for name, rows in several.items():
        by = {each.work: each for each in rows}
        if SVD in by or ALL not in by:
            continue
        parts = ", ".join(f"{by[work].core_seconds:.0f}" if work in by else "–" for work in columns)
        whole = by[ALL]
        minutes = f"{whole.seconds / 60:.1f} | {whole.core_seconds / 60:.1f}"
        lines.append(f"| {name} | {whole.params:,} | {minutes} | {whole.mib:,} | {parts} |")
    lines += ["", "| | decompose, core seconds | LAPACK's SVD | ratio |", "| --- | --- | --- | --- |"]
    for name, rows in several.items():
        by = {each.work: each for each in rows}
        if SVD in by:
            ours, svd = by["decompose"].core_seconds, by[SVD].core_seconds
            lines.append(f"| {name} | {ours:.4f} | {svd:.4f} | {ours / svd:.2f} |")
    return "\n".join([*lines, "", machine(), ""])


if __name__ == "__main__":
    main()
