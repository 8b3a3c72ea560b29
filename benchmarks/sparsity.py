"""Adam with L2 and ReLU against what must not show the effect (arXiv:1812.08119), and what elimination gives.

    python -m benchmarks.sparsity [--quick] [--epochs N]

A perceptron with one hidden layer, first plain, then with batch norm: 1,000 units on Fashion-MNIST (Debian's
dataset-fashion-mnist), or with --quick 100 units on scikit-learn's digits. Each line is one trained network:

* zero        share of the hidden layer's columns whose 2-norm is under the gap in the norms
* parameters  before and after `sparsity.eliminate`; accuracy on the test images before and after
* difference  the largest between the outputs for the test images before and after, relative to the largest

Without --quick the table also goes to docs/results/sparsity.csv.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import programs
from models import checkpoint, execute, sparsity
from models.training.adam_sparsity import Recipe, perceptron, train

FASHION = Path("/usr/share/datasets/fashion-mnist")
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "sparsity.csv"


@dataclasses.dataclass(frozen=True)
class Data:
    name: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclasses.dataclass(frozen=True)
class Row:
    run: str
    data: str
    hidden: int
    norm: bool
    epochs: int
    l2: float
    rate: float
    zero: float
    params_before: int
    params_after: int
    accuracy_before: float
    accuracy_after: float
    difference: float
    rejected: str
    seconds: float


def recipes(base: Recipe, sgd_rate: float) -> dict[str, Recipe]:
    """The paper's three conditions, then each of them broken."""
    change = dataclasses.replace
    return {
        "Adam, L2, ReLU": base,
        "SGD, L2, ReLU": change(base, optimizer="sgd", rate=sgd_rate),
        "AdamW, ReLU": change(base, optimizer="adamw"),
        "Adam, ReLU": change(base, l2=0.0),
        "Adam, L2, tanh": change(base, activation="tanh"),
    }


def digits() -> Data:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, targets = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
    train_, test = order[500:], order[:500]
    return Data("digits", images[train_], targets[train_], images[test], targets[test])


def fashion(folder: Path = FASHION) -> Data:
    """The 60,000 training and 10,000 test images, as (N, 784) in 0…1."""

    def read(name: str, header: int) -> Tensor:
        raw = gzip.decompress((folder / name).read_bytes())
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).copy())

    return Data(
        "fashion-mnist",
        read("train-images-idx3-ubyte.gz", 16).reshape(-1, 784).float() / 255,
        read("train-labels-idx1-ubyte.gz", 8).long(),
        read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784).float() / 255,
        read("t10k-labels-idx1-ubyte.gz", 8).long(),
    )


def measure(name: str, data: Data, hidden: int, norm: bool, recipe: Recipe) -> Row:
    start = time.perf_counter()
    torch.manual_seed(0)
    features, classes = data.images.shape[1], int(data.labels.max()) + 1
    model = perceptron(features, (hidden,), classes, recipe.activation, norm=norm)
    history = train(model, data.images, data.labels, recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt2")
        programs.export(model, (features,), path)
        graph, tensors = checkpoint.read(path, None)
    smaller, fewer, report = sparsity.eliminate(graph, tensors)
    with torch.no_grad():
        before = execute.run(graph, tensors, [data.test_images])[0]
        after = execute.run(smaller, fewer, [data.test_images])[0]
    return Row(
        run=name,
        data=data.name,
        hidden=hidden,
        norm=norm,
        epochs=recipe.epochs,
        l2=recipe.l2,
        rate=recipe.rate,
        zero=history[-1].zero,
        params_before=report.params_before,
        params_after=report.params_after,
        accuracy_before=accuracy(before, data.test_labels),
        accuracy_after=accuracy(after, data.test_labels),
        difference=float((before - after).abs().max() / before.abs().max()),
        rejected=report.rejected,
        seconds=round(time.perf_counter() - start, 1),
    )


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    return float((outputs.argmax(1) == labels).double().mean())


def show(row: Row) -> str:
    return (
        f"{row.run + (', BN' if row.norm else ''):<20}{row.zero:>7.1%}{row.params_before:>11,} → {row.params_after:<9,}"
        f"{row.accuracy_before:>8.2%} → {row.accuracy_after:<8.2%}{row.difference:>9.1e}{row.seconds:>8.0f} s"
        + (f"   kept as it was: {row.rejected}" if row.rejected else "")
    )


def write(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(dataclasses.asdict, rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparsity", description="Zeros from Adam and L2.")
    parser.add_argument("--quick", action="store_true", help="digits and 100 hidden units; writes no file")
    parser.add_argument("--epochs", type=int, help="other than 40 with --quick, 100 without")
    given = parser.parse_args()
    torch.set_num_threads(1)
    # Weights on their way to zero pass through denormal numbers, which are slow.
    torch.set_flush_denormal(True)
    if given.quick:
        data, hidden, epochs = digits(), 100, given.epochs or 40
        plain = Recipe(l2=1e-3, rate=1e-2, batch=16, epochs=epochs)
        normed = dataclasses.replace(plain, l2=5e-3, rate=2e-2)
    elif FASHION.is_dir():
        data, hidden, epochs = fashion(), 1000, given.epochs or 100
        plain = normed = Recipe(l2=5e-4, rate=3e-3, batch=64, epochs=epochs)
    else:
        sys.exit(f"SKIPPED: there is no {FASHION}; install Debian's dataset-fashion-mnist, or pass --quick.")
    print(f"{'':<20}{'zero':>7}{'parameters':>19}{'accuracy':>20}{'difference':>17}")
    rows = []
    for norm, base in ((False, plain), (True, normed)):
        for name, recipe in recipes(base, sgd_rate=0.05).items():
            rows.append(measure(name, data, hidden, norm, recipe))
            print(show(rows[-1]), flush=True)
            if not given.quick:
                write(rows, RESULTS)


if __name__ == "__main__":
    main()
