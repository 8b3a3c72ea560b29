"""Adam with L2 and ReLU against what must not show the effect (arXiv:1812.08119), and what elimination gives.

    python -m benchmarks.sparsity [--quick] [--epochs N] [--results FOLDER]

Three small networks on Fashion-MNIST (Debian's dataset-fashion-mnist), each trained in five ways: a perceptron
with one hidden layer of 1,000 units, the same with batch norm, there with a fifth and a tenth of the L2 as well,
and a convolutional network of two unpadded 3×3 convolutions (16 and 32 channels) and a hidden layer of 64. Then two
on the paper's own data: the perceptron with batch norm on MNIST, and on CIFAR-10 the convolutional network with batch
norm, 32 and 64 channels and a hidden layer of 128. Narrower and shorter than the paper's, so that all of it takes about
two hours of one core. With --quick the first and the fifth, smaller still, on scikit-learn's digits.

* zero        share of the columns of all layers but the last whose 2-norm is under the gap in the norms
* parameters  before and after `zeros.eliminate`; accuracy on the test images before and after
* difference  the largest between the outputs for the test images before and after, relative to the largest

Every trained network is a row of sparsity.csv, every epoch one of sparsity-epochs.csv, and sparsity.svg shows the
zero columns by epoch; all in docs/results, or with --quick in a temporary folder. A row that is there is not
done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import programs, results
from benchmarks.bar import Advance, bar
from benchmarks.data import Data, cifar10, digits, fashion_mnist, mnist
from rightrank.models import checkpoint
from rightrank.models.papers.adam_sparsity import ACTIVATIONS, Epoch, Setting, perceptron, train
from rightrank.models.simplify.zeros import columns, eliminate

EPOCHS, QUICK_EPOCHS = 12, 10
MNIST, CIFAR = Path("build/mnist/package/data"), Path("build/cifar/package")


@dataclasses.dataclass(frozen=True)
class Network:
    """How it is built for an activation, the data that it takes, and Adam's setting."""

    build: Callable[[str], nn.Sequential]
    data: Data
    setting: Setting


@dataclasses.dataclass(frozen=True)
class Row:
    """One trained network."""

    network: str
    run: str
    data: str
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


@dataclasses.dataclass(frozen=True)
class Point:
    """One epoch of one training; `epochs` is how many there are in all."""

    network: str
    run: str
    data: str
    epochs: int
    epoch: int
    loss: float
    zero: float


def recipes(base: Setting, sgd_rate: float) -> dict[str, Setting]:
    """The paper's three conditions, then each of them broken."""
    change = dataclasses.replace
    return {
        "Adam, L2, ReLU": base,
        "SGD, L2, ReLU": change(base, optimizer="sgd", rate=sgd_rate),
        "AdamW, ReLU": change(base, optimizer="adamw"),
        "Adam, ReLU": change(base, l2=0.0),
        "Adam, L2, tanh": change(base, activation="tanh"),
    }


def networks(quick: bool, epochs: int) -> Mapping[str, Network]:
    if quick:
        setting = Setting(l2=5e-3, rate=1e-2, batch=16, epochs=epochs)
        rows, images = digits().flat(), digits().padded(2)
        return {
            "perceptron": Network(lambda activation: perceptron(64, (100,), 10, activation, norm=False), rows, setting),
            "convolutional": Network(
                lambda activation: convolutional(images.shape, (16, 32), 32, activation), images, setting
            ),
        }
    setting = Setting(l2=5e-4, rate=3e-3, batch=64, epochs=epochs)
    images = fashion_mnist()
    rows = images.flat()
    return {
        "perceptron": Network(lambda activation: perceptron(784, (1000,), 10, activation, norm=False), rows, setting),
        **{
            f"perceptron, BN{weaker}": Network(
                lambda activation: perceptron(784, (1000,), 10, activation),
                rows,
                dataclasses.replace(setting, l2=setting.l2 / by),
            )
            for weaker, by in (("", 1), (", L2 / 5", 5), (", L2 / 10", 10))
        },
        "convolutional": Network(
            lambda activation: convolutional(images.shape, (16, 32), 64, activation), images, setting
        ),
        **of_the_paper(setting),
    }


def of_the_paper(setting: Setting) -> dict[str, Network]:
    """Those on the paper's own data."""
    rows, colours = mnist(MNIST).flat(), cifar10(CIFAR)
    return {
        "perceptron, BN, MNIST": Network(lambda activation: perceptron(784, (1000,), 10, activation), rows, setting),
        "convolutional, BN, CIFAR-10": Network(
            lambda activation: convolutional(colours.shape, (32, 64), 128, activation, norm=True), colours, setting
        ),
    }


def convolutional(
    shape: tuple[int, ...], widths: Sequence[int], hidden: int, activation: str, norm: bool = False
) -> nn.Sequential:
    """Unpadded 3×3 convolutions, each with the activation and a 2×2 max pooling, a hidden layer, 10 classes; with
    `norm` a batch norm before each activation."""
    act = ACTIVATIONS[activation]
    inputs, side = shape[0], shape[1]
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(inputs, width, 3), *([nn.BatchNorm2d(width)] if norm else []), act(), nn.MaxPool2d(2)]
        inputs, side = width, (side - 2) // 2
    flat = nn.Linear(inputs * side**2, hidden)
    layers += [nn.Flatten(), flat, *([nn.BatchNorm1d(hidden)] if norm else []), act(), nn.Linear(hidden, 10)]
    return nn.Sequential(*layers)


def zero(model: nn.Module) -> float:
    """The share of the columns of all layers but the last that are zero."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][:-1]
    norms = [columns.norms(weight) for weight in weights]
    return sum(int((each <= columns.cut(each)).sum()) for each in norms) / sum(map(len, norms))


def measure(
    name: str, run: str, network: Network, setting: Setting, epochs: results.Table[Point], advance: Advance
) -> Row:
    """Train, eliminate and compare."""
    start = time.perf_counter()
    torch.manual_seed(0)
    data, model = network.data, network.build(setting.activation)

    def note(number: int, epoch: Epoch) -> None:
        point = Point(name, run, data.name, setting.epochs, number + 1, round(epoch.loss, 5), round(zero(model), 4))
        # A training that was stopped starts afresh, and goes the same way again.
        if not epochs.has(network=name, run=run, data=data.name, epochs=setting.epochs, epoch=number + 1):
            epochs.add(point)
        advance(f"{name}: {run}")

    train(model, data.images, data.labels, setting, progress=note)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt2")
        programs.export(model, data.shape, path)
        program = checkpoint.read(path)
    smaller, report = eliminate(program)
    with torch.no_grad():
        before = program.run([data.test_images])[0]
        after = smaller.run([data.test_images])[0]
    return Row(
        network=name,
        run=run,
        data=data.name,
        epochs=setting.epochs,
        l2=setting.l2,
        rate=setting.rate,
        zero=round(zero(model), 4),
        params_before=report.params_before,
        params_after=report.params_after,
        accuracy_before=accuracy(before, data.test_labels),
        accuracy_after=accuracy(after, data.test_labels),
        difference=float((before - after).abs().max() / before.abs().max()),
        rejected=report.rejected,
        seconds=round(time.perf_counter() - start, 1),
    )


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    return round(float((outputs.argmax(1) == labels).double().mean()), 4)


def show(rows: Sequence[Row]) -> None:
    for name, data, epochs in dict.fromkeys((row.network, row.data, row.epochs) for row in rows):
        title = f"{name}, {data}, {epochs} epochs (paper: more, and larger networks)"
        print(f"{title}\n{'':<16}{'zero':>7}{'parameters':>19}{'accuracy':>20}{'difference':>17}")
        for row in rows:
            if (row.network, row.data, row.epochs) == (name, data, epochs):
                print(line(row))


def line(row: Row) -> str:
    return (
        f"{row.run:<16}{row.zero:>7.1%}{row.params_before:>11,} → {row.params_after:<9,}"
        f"{row.accuracy_before:>8.2%} → {row.accuracy_after:<8.2%}{row.difference:>9.1e}{row.seconds:>8.0f} s"
        + (f"   kept as it was: {row.rejected}" if row.rejected else "")
    )


def draw(path: Path, points: Sequence[Point]) -> None:
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in points:
        lines = panels.setdefault(f"{point.network}, {point.data}", {})
        lines.setdefault(point.run, []).append((point.epoch, 100 * point.zero))
    results.plot(path, panels, "epoch", "zero columns, %")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparsity", description="Zeros from Adam and L2.")
    parser.add_argument("--quick", action="store_true", help="digits and smaller networks; keeps nothing")
    parser.add_argument("--epochs", type=int, help=f"other than {QUICK_EPOCHS} with --quick, {EPOCHS} without")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables and the plot go")
    given = parser.parse_args()
    # Weights on their way to zero pass through denormal numbers, which are slow; the setting is per thread.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    epochs = given.epochs or (QUICK_EPOCHS if given.quick else EPOCHS)
    with results.place(given.quick, given.results) as folder:
        table = results.Table(folder / "sparsity.csv", Row)
        points = results.Table(folder / "sparsity-epochs.csv", Point)
        todo = [
            (name, run, network, setting)
            for name, network in networks(given.quick, epochs).items()
            for run, setting in recipes(network.setting, sgd_rate=0.05).items()
            if not table.has(network=name, run=run, data=network.data.name, epochs=epochs)
        ]
        with bar(len(todo) * epochs, "epochs") as advance:
            for name, run, network, setting in todo:
                table.add(measure(name, run, network, setting, points, advance))
        show(table.rows)
        if trained := [point for point in points.rows if point.epochs == epochs]:
            draw(folder / "sparsity.svg", trained)


if __name__ == "__main__":
    main()
