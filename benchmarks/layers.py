"""Networks made of the layers that few methods cut: recurrent ones, embeddings, grouped and transposed convolutions.

    python -m benchmarks.layers [--quick] [--networks LSTM,U-Net] [--methods cut,refit,whitened] [--results FOLDER]

Each is trained here in a minute or two on data that are inside installed packages (see `benchmarks.tasks`), then cut to
shares of all its parameters and measured from the bytes of its files, on data that it has not seen. `cut` and `refit`
are ours, as a service of default settings makes them; `whitened` is one-sided whitening with each layer's energy
normalised, the best published without training. Where a share is below what the network can be cut to, the smallest
size is measured, and its share said. Goes on where it was stopped: docs/results/layers.csv, of which layers.md is made;
trained networks are kept in build/layers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.bar import bar
from benchmarks.results import Table, machine, markdown, place
from benchmarks.tasks import texts
from benchmarks.tasks.kinds import canvases, drawn
from benchmarks.tasks.networks import Transformer, UNet, convolutions
from rightrank.models import checkpoint
from rightrank.models.assemble.build import build
from rightrank.models.emit import formats
from rightrank.models.errors import BudgetError
from rightrank.models.improve import refit
from rightrank.models.improve.choose import improve
from rightrank.models.measure.accuracy import measure_on
from rightrank.models.plan.planner import Planner
from rightrank.models.program.samples import Data, Samples
from rightrank.models.progress import silent

BUDGETS = (1.0, 0.5, 0.3, 0.2)
METHODS = ("cut", "refit", "whitened")
CALIBRATION, LENGTH, WORDS = 512, 24, 3000


@dataclass(frozen=True)
class Row:
    """One file: its share of all parameters and what it scored on `n` samples; `least` is the smallest budget."""

    network: str
    method: str
    budget: float
    reached: float
    params: int
    bytes: int
    metric: str
    value: float
    original: float
    n: int
    least: float
    won: str


@dataclass(frozen=True)
class Problem:
    """Inputs and targets to train on and to test on, and what a batch of outputs loses. `metric`: what is measured."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy
    metric: str = "top1"


class Recurrent(nn.Module):
    """Words, one after the other."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.words, self.layers = nn.Embedding(WORDS, 64), kind(64, 128, 2, batch_first=True)
        self.head = nn.Linear(128, len(texts.LIBRARIES))

    def forward(self, ids: Tensor) -> Tensor:
        """(n, s) → (n, classes)."""
        out: Tensor = self.head(self.layers(self.words(ids))[0].amax(1))
        return out


class Bags(nn.Module):
    """Words in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 128)
        self.layers = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, len(texts.LIBRARIES)))

    def forward(self, ids: Tensor) -> Tensor:
        """(n, s) → (n, classes)."""
        out: Tensor = self.layers(self.words(ids).mean(1))
        return out


class Tied(nn.Module):
    """Which word comes next, by the table that the words are looked up in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Transformer(WORDS, LENGTH, 128, depth=2, small=128)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, s) → (n, s, words)."""
        return functional.linear(self.body(ids, causal=True), self.body.tokens.weight)


class Grouped(nn.Module):
    """Blocks of 1×1, 3×3 in eight groups, and 1×1 (arXiv:1611.05431)."""

    def __init__(self, width: int = 128, groups: int = 8) -> None:
        super().__init__()
        self.stem = convolutions(1, width // 2)
        self.wider = nn.Conv2d(width // 2, width, 1)
        self.blocks = nn.ModuleList(self._block(width, groups) for _ in range(3))
        self.head = nn.Linear(width, 10)

    @staticmethod
    def _block(width: int, groups: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for kernel, apart in ((1, 1), (3, groups), (1, 1)):
            layers += [
                nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=apart, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        return nn.Sequential(*layers[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, h, w) → (n, classes)."""
        x = self.wider(functional.max_pool2d(self.stem(images), 2))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        out: Tensor = self.head(x.amax((2, 3)))
        return out


@lru_cache(1)
def classified(size: float) -> Problem:
    """Sentences of documentation, and which of six libraries they are from."""
    found: list[Tensor] = []
    known: dict[str, int] = {}
    for test, count in ((False, int(5000 * size)), (True, max(10, int(300 * size)))):
        lines = [texts.sentences(library, count, test) for library in texts.LIBRARIES]
        flat = [line for each in lines for line in each]
        known = known or texts.vocabulary(flat, WORDS)
        ids = torch.zeros(len(flat), LENGTH, dtype=torch.int64)
        for row, line in zip(ids, flat, strict=True):
            numbers = torch.from_numpy(texts.numbered(line, known)[:LENGTH])
            row[: len(numbers)] = numbers
        found += [ids, torch.tensor([k for k, each in enumerate(lines) for _ in each])]
    inputs, targets, test_inputs, test_targets = found
    return Problem(inputs, targets, test_inputs, test_targets)


def following(size: float) -> Problem:
    """The same sentences, and at each place the word that comes next; what is filled up does not count."""
    plain = classified(size)

    def shifted(ids: Tensor) -> Tensor:
        after = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], 1)
        return after.masked_fill(after <= texts.UNKNOWN, -100)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-100)

    return Problem(plain.inputs, shifted(plain.inputs), plain.test_inputs, shifted(plain.test_inputs), loss)


def pixels(size: float) -> Problem:
    """Noisy canvases, and which digit each pixel belongs to."""
    images, masks, _ = canvases(int(4000 * size), 24, 24, test=False, seed=0)
    test_images, test_masks, _ = canvases(int(500 * size), 24, 24, test=True, seed=1)
    return Problem(images, masks, test_images, test_masks, metric="miou")


def present(size: float) -> Problem:
    """Noisy canvases, and the largest digit that is there."""
    found: list[Tensor] = []
    for count, test, seed in ((int(8000 * size), False, 0), (int(2000 * size), True, 1)):
        images, _, there = canvases(count, 16, 16, test, seed)
        found += [images, 9 - there.flip(1).argmax(1)]
    inputs, targets, test_inputs, test_targets = found
    return Problem(inputs, targets, test_inputs, test_targets)


@dataclass(frozen=True)
class Network:
    make: Callable[[], nn.Module]
    problem: Callable[[float], Problem]
    steps: int
    rate: float


NETWORKS: Mapping[str, Network] = {
    "LSTM": Network(lambda: Recurrent(nn.LSTM), classified, 900, 3e-3),
    "GRU": Network(lambda: Recurrent(nn.GRU), classified, 900, 3e-3),
    "U-Net": Network(lambda: UNet(11, 24, transposed=True), pixels, 900, 5e-3),
    "embeddings": Network(Bags, classified, 900, 3e-3),
    "grouped": Network(Grouped, present, 900, 5e-3),
    "tied decoder": Network(Tied, following, 900, 3e-3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="networks that are trained for seconds; writes no file")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables go")
    given = parser.parse_args()
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as temporary, place(given.quick, given.results) as folder:
        table = Table(folder / "layers.csv", Row)
        kept, size = (Path(temporary), 0.05) if given.quick else (Path("build/layers"), 1.0)
        run(table, given.networks.split(","), given.methods.split(","), kept, size)
        page = report(table.rows)
        print(f"{machine()}\n\n{page}")
        table.path.with_suffix(".md").write_text(page)


def run(table: Table[Row], networks: Sequence[str], methods: Sequence[str], kept: Path, size: float) -> None:
    """Add every row that is not there yet. `size` is the share of the data and of the training."""
    with bar(len(networks) * len(methods), "methods") as advance:
        for name in networks:
            missing = [
                method
                for method in methods
                if not all(table.has(network=name, method=method, budget=b) for b in BUDGETS)
            ]
            if not missing:
                continue
            problem, folder = NETWORKS[name].problem(size), kept / name.replace(" ", "-")
            program = trained(name, problem, folder, size)
            for method in missing:
                advance(f"{name}: {method}")
                measured(table, name, method, problem, program, folder)


def trained(name: str, problem: Problem, folder: Path, size: float) -> Path:
    """The file of the trained network's export, in `folder`."""
    path, network = folder / "model.pt2", NETWORKS[name]
    if path.exists():
        return path
    torch.manual_seed(0)
    model = network.make()
    steps = max(2, int(network.steps * size))
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=network.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=network.rate, total_steps=steps)
    model.train()
    for _ in range(steps):
        rows = drawn(len(problem.inputs), 64, generator)
        optimizer.zero_grad()
        problem.loss(model(problem.inputs[rows]), problem.targets[rows]).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    example, free = (problem.inputs[:2].clone(),), ({0: torch.export.Dim("batch")},)
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(torch.export.export(model.eval(), example, dynamic_shapes=free), folder / "partial.pt2")
    (folder / "partial.pt2").rename(path)
    return path


def measured(table: Table[Row], name: str, method: str, problem: Problem, program: Path, folder: Path) -> None:
    """Add a row for each budget of one method."""
    generator = torch.Generator().manual_seed(0)
    inputs = Samples.of(problem.inputs[drawn(len(problem.inputs), CALIBRATION, generator)])
    criterion = "whitened" if method == "whitened" else None
    master = folder / method
    built = build(
        checkpoint.read(program), master, inputs, criterion=criterion, keep=refit.INPUTS, classes="places", mixed=False
    )
    planner, data = Planner.open(master), Data(Samples.of(problem.test_inputs), (problem.test_targets,))
    least, whole = float(built["min_budget"]["params"]), planner.template.original.params
    file, changes, original = folder / "variant.pt", folder / "changes.safetensors", 0.0
    for budget in BUDGETS:
        try:
            plan = planner.plan(max_params=int(budget * whole))
        except BudgetError:
            plan = planner.smallest
        won = ""
        if method == "refit":
            won = improve(master, plan.ranks, changes, silent, classes="places")
        with file.open("wb") as out:
            formats.write(master, plan, out, changes if method == "refit" and not plan.original else None)
        found = measure_on(file, data, metric=problem.metric)
        original = found.value if budget == 1 else original
        if not table.has(network=name, method=method, budget=budget):
            place = (plan.params / whole, plan.params, file.stat().st_size)
            table.add(Row(name, method, budget, *place, problem.metric, found.value, original, found.n, least, won))


def report(rows: Sequence[Row]) -> str:
    """Points lost against the original, in Markdown; in brackets the share, where a network cannot get so small."""
    panels: dict[str, dict[str, list[str]]] = {}
    for name in dict.fromkeys(row.network for row in rows):
        mine = [row for row in rows if row.network == name]
        first = mine[0]
        title = f"**{name}**, {first.metric} {100 * first.original:.1f} %, least budget {first.least:.3f}"
        panels[title] = {
            method: [_cell(row) for row in sorted((r for r in mine if r.method == method), key=lambda r: -r.budget)]
            for method in dict.fromkeys(row.method for row in mine)
        }
    return markdown(BUDGETS, panels)


def _cell(row: Row) -> str:
    reached = f" ({row.reached:.2f})" if row.reached > row.budget else ""
    return f"{100 * (row.original - row.value):.2f}{reached}"


if __name__ == "__main__":
    main()
