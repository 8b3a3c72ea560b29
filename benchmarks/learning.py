"""Paper 1's learning against normal training: accuracy at each size that the networks are cut to.

    python -m benchmarks.learning [--quick] [--cifar FOLDER] [--width N] [--epochs N] [--seeds N]

A narrow VGG-15 is trained with SGD (Nesterov momentum 0.9, L2 5e-4, batch 128, learning rate 0.1 times 0.2
after 30, 60 and 80 % of the epochs) in four ways:

* normal      L(full) alone
* normal x2   the same for twice the epochs, which costs what Eq. 3 does with its two passes a step
* v1          Eq. 3 with λ = 0.5, Z ~ U(0.01, 1), SVD every second step, the gradient of Eq. 4
* v3          the same with the exact gradient, matched in norm

Each is cut by its SVD with three criteria, batch norm as stored and with its statistics recomputed on the
training images at each size; and, for comparison, as the service cuts it given calibration images. A budget
is a share of the weights of all convolutions and linear layers (the service counts all parameters); where it
is less than one basis a layer takes, the smallest network stands in for it. A layer above its break-even
rank stays whole. `--quick` takes scikit-learn's digits, scaled to 32×32, and few epochs. Otherwise the data are
Debian's `dataset-fashion-mnist`, or CIFAR-10's binary version from FOLDER, and docs/results/learning.csv is
written. The paper's own setting is larger: CIFAR, a width of 64, 200 epochs.
"""

from __future__ import annotations

import argparse
import copy
import csv
import gzip
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import programs
from models import checkpoint, master, plan
from models import measure as measurement
from models.architectures.vgg import VGG
from models.criteria import Importance
from models.emit import torchscript
from models.layers import Layer
from models.learning import ScalableLearner, layers, ranks
from models.learning.decomposition import Decomposition, decompose, truncate
from models.learning.gradient import GRADIENTS

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "learning.csv"
TRAININGS = {"normal": 1, "normal x2": 2, "v1": 1, "v3": 1}
CRITERIA = ("uniform", "c1", "c1c2")
BUDGETS = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
BATCH = 128
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Data:
    """Images (N, C, 32, 32), their classes, and whether training crops and flips them."""

    name: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    augmented: bool


@dataclass(frozen=True)
class Run:
    """One trained network."""

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="scikit-learn's digits and a very narrow network")
    parser.add_argument("--cifar", type=Path, help="the folder cifar-10-batches-bin")
    parser.add_argument("--width", type=int, help="channels of the first layer; the paper has 64")
    parser.add_argument("--epochs", type=int, help="the paper has 200")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    data = digits() if given.quick else cifar(given.cifar) if given.cifar else fashion_mnist()
    width = given.width or (8 if given.quick else 16)
    epochs = given.epochs or (6 if given.quick else 10)
    rows: list[Row] = []
    for seed in range(given.seeds):
        for training in TRAININGS:
            run = Run(data.name, width, epochs * TRAININGS[training], seed, training)
            model = train(data, run)
            rows += [*truncations(model, data, run), *served(model, data, run)]
            print(f"seed {seed}: {training} done", file=sys.stderr)
    show(rows)
    if not given.quick:
        write(rows)


def digits() -> Data:
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    images = functional.interpolate(images, size=32, mode="bilinear")
    targets = torch.tensor(labels)
    return Data("digits", images[:1297], targets[:1297], images[1297:], targets[1297:], augmented=False)


def fashion_mnist() -> Data:
    if not FASHION_MNIST.is_dir():
        sys.exit(f"{FASHION_MNIST} is missing: apt-get install dataset-fashion-mnist, or use --quick or --cifar.")

    def read(kind: str) -> tuple[Tensor, Tensor]:
        images = gzip.decompress((FASHION_MNIST / f"{kind}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((FASHION_MNIST / f"{kind}-labels-idx1-ubyte.gz").read_bytes())
        pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        padded = functional.pad(torch.tensor(pixels, dtype=torch.float32) / 255, (2, 2, 2, 2))
        return padded, torch.tensor(np.frombuffer(labels, np.uint8, offset=8), dtype=torch.int64)

    return Data("Fashion-MNIST", *read("train"), *read("t10k"), augmented=True)


def cifar(folder: Path) -> Data:
    def read(files: list[Path]) -> tuple[Tensor, Tensor]:
        records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])
        images = torch.tensor(records[:, 1:].reshape(-1, 3, 32, 32), dtype=torch.float32) / 255
        return images, torch.tensor(records[:, 0], dtype=torch.int64)

    train, test = sorted(folder.glob("data_batch_*.bin")), folder / "test_batch.bin"
    if len(train) != 5 or not test.exists():
        sys.exit(f"{folder} has not the six files of CIFAR-10's binary version.")
    return Data("CIFAR-10", *read(train), *read([test]), augmented=True)


def train(data: Data, run: Run) -> nn.Module:
    """A fresh network, trained as the run says, in evaluation mode."""
    torch.manual_seed(run.seed)
    model = VGG(num_classes=10, in_channels=data.images.shape[1], image_size=32, width=run.width).to(DEVICE).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    milestones = [round(run.epochs * part) for part in (0.3, 0.6, 0.8)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
    loss = functional.cross_entropy
    learner = ScalableLearner(model, loss, optimizer, gradient=run.training) if run.training in GRADIENTS else None
    for _ in range(run.epochs):
        for x, y in batches(data):
            if learner:
                learner.step(x, y)
            else:
                optimizer.zero_grad()
                loss(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        schedule.step()
    return model.eval()


def batches(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, without the last, short batch."""
    order = torch.randperm(len(data.images))
    for batch in torch.split(order[: len(order) // BATCH * BATCH], BATCH):
        images = data.images[batch]
        yield (augment(images) if data.augmented else images).to(DEVICE), data.labels[batch].to(DEVICE)


def augment(images: Tensor) -> Tensor:
    """Each image padded by 4, cropped at random, and flipped half of the time."""
    side, count = images.shape[-1], len(images)
    padded = functional.pad(images, (4, 4, 4, 4))
    rows = torch.randint(9, (count, 1)) + torch.arange(side)
    columns = torch.randint(9, (count, 1)) + torch.arange(side)
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def truncations(model: nn.Module, data: Data, run: Run) -> Iterator[Row]:
    """The SVD, every criterion at every budget, with both kinds of batch norm."""
    found = layers.find(model, data.images[:2].to(DEVICE))
    svds = [decompose(model.get_parameter(layer.weight)) for layer in found]
    rest = sum(p.numel() for p in model.parameters()) - sum(layer.params for layer in found)
    params, macs = cost(found, [layer.rank for layer in found])
    whole = (params + rest, macs)
    for criterion in CRITERIA:
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
        publish(copy.deepcopy(model).cpu(), data.images.shape[1:], source)
        save_file({"inputs": data.images[:1024].contiguous()}, source / "calibration.safetensors")
        evaluation = Path(folder, "evaluation.safetensors")
        save_file({"inputs": data.test_images.contiguous(), "targets": data.test_labels}, evaluation)
        criterion = master.build(source, out)["criterion"]
        planner = plan.Planner.open(out)
        whole = planner.plan(1.0)
        for budget in BUDGETS:
            variant = planner.plan(max_params=max(int(budget * whole.params), planner.smallest.params))
            with file.open("wb") as stream:
                torchscript.write(out, variant, stream)
            result = measurement.measure(file, evaluation)
            sizes = (variant.params, variant.macs), (whole.params, whole.macs)
            yield row(run, criterion, "relative", budget, *sizes, result.value, result.n)


def publish(model: nn.Module, shape: Sequence[int], folder: Path) -> None:
    """Write the network's program into `folder` as the service does after an upload."""
    folder.mkdir()
    path = folder / "model.pt2"
    programs.export(model, tuple(shape), path)
    graph, tensors = checkpoint.read(path, None)
    (folder / "program.json").write_text(json.dumps(graph.to_json()))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "weights.safetensors")


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
    params = [
        layer.params if rank > layer.break_even else rank * (layer.m + layer.n)
        for layer, rank in zip(found, kept, strict=True)
    ]
    return sum(params), sum(p * layer.positions for p, layer in zip(params, found, strict=True))


def within(found: Sequence[Layer], importance: Importance, budget: float) -> list[int]:
    """The most bases, the most important first, whose weights are within the budget (or the fewest there are)."""
    path = plan.order(found, importance)
    kept: list[int] = path.floor.tolist()
    limit = budget * sum(layer.params for layer in found)
    for index in path.steps:
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
    """Batch-norm statistics afresh, as averages over the training images as they are."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for images in torch.split(data.images[: len(data.images) // 500 * 500], 500):
            model(images.to(DEVICE))
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    right = 0
    for images, labels in zip(torch.split(data.test_images, 500), torch.split(data.test_labels, 500), strict=True):
        right += int((model(images.to(DEVICE)).argmax(1).cpu() == labels).sum())
    return right / len(data.test_labels)


def show(rows: Sequence[Row]) -> None:
    """Accuracy, in percent and averaged over seeds, by budget; the MACs beside it are the first seed's."""
    first = rows[0]
    seeds = len({row.seed for row in rows})
    print(
        f"{first.data}, VGG-15 of width {first.width} (paper: 64), {first.epochs} epochs (paper: 200), "
        f"{seeds} seed(s), {first.n} test images, {DEVICE.type}"
    )
    print(f"{'training':10} {'criterion':9} {'bn':10} " + " ".join(f"{budget:>12g}" for budget in BUDGETS))
    for key in dict.fromkeys((row.training, row.criterion, row.bn) for row in rows):
        cells = []
        for budget in BUDGETS:
            same = [r for r in rows if (r.training, r.criterion, r.bn, r.budget) == (*key, budget)]
            mean = 100 * sum(row.accuracy for row in same) / len(same)
            cells.append(f"{mean:5.1f} ({same[0].macs_share:4.2f})")
        print(f"{key[0]:10} {key[1]:9} {key[2]:10} " + " ".join(f"{cell:>12}" for cell in cells))


def write(rows: Sequence[Row]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows(map(asdict, rows))


if __name__ == "__main__":
    main()
