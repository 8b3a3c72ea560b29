"""`make bench-bytes`: that rivals are what the papers say, that bytes are counted right, and that it is taken up."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.bytes import blob
from benchmarks.bytes.__main__ import rivals, run
from benchmarks.bytes.fold import folded
from benchmarks.bytes.lost import Lost, lost, mean
from benchmarks.bytes.methods import METHODS, ORDER
from benchmarks.bytes.quantise import MOST, RIDGE, Coded, best_steps, coded, covariance, fed_back, quantised
from benchmarks.bytes.report import MEAN, Row, draw, page
from benchmarks.bytes.subjects import OURS, Subject
from benchmarks.networks import ResNet14, Tell, vit
from benchmarks.photos import EfficientNetLite0
from benchmarks.results import RESULTS, Table
from rightrank.models.improve import polish

ROOT = Path(__file__).parents[2]
QUICK = ("int8 rounded", "int4 rounded", "int4 fed back", "float32 cut", "float32 refit")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A quick run's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("bytes")
    command = [sys.executable, "-m", "benchmarks.bytes", "--quick", "--results", str(folder)]
    done = subprocess.run(
        [*command, "--methods", ",".join(QUICK)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_quick_run_has_every_method_at_its_sizes(quick: tuple[Path, str]) -> None:
    folder, printed = quick
    with (folder / "bytes.csv").open(newline="") as file:
        rows = {(row["method"], row["size"]): row for row in csv.DictReader(file)}
    sizes = {"float32 cut": ["whole", "1/8"], "float32 refit": ["1/8"]}
    assert set(rows) == {(method, size) for method in QUICK for size in sizes.get(method, blob.KINDS)}
    size = {key: int(row["bytes"]) for key, row in rows.items()}
    whole = rows["float32 cut", "whole"]
    assert whole["accuracy"] == whole["baseline"] and float(whole["low"]) < 0 < float(whole["high"])
    assert size["float32 cut", "1/8"] < size["float32 cut", "whole"]
    for width, bits in (("int8", 8), ("int4", 4)):
        # Besides its levels a file has a step and a bias for each output, and nothing else.
        params, raw = int(rows[f"{width} rounded", "raw"]["params"]), size[f"{width} rounded", "raw"]
        assert params * bits / 8 < raw < 1.05 * params * bits / 8
    assert size["int8 rounded", "deflated"] < size["int8 rounded", "raw"]
    assert size["int4 fed back", "raw"] == size["int4 rounded", "raw"]
    assert all(int(row["n"]) == 500 and float(row["low"]) < float(row["high"]) for row in rows.values())
    assert float(rows["float32 refit", "1/8"]["accuracy"]) > float(rows["float32 cut", "1/8"]["accuracy"])
    assert (folder / "bytes.md").read_text() in printed and (folder / "bytes.svg").exists()


def test_a_taken_up_run_measures_only_what_is_missing(tmp_path: Path) -> None:
    """Each seed of a network that is trained here, and of another the first alone, which has no labels."""
    torch.manual_seed(0)
    model, images = settled(ResNet14(1, 10)), torch.randn(40, 1, 8, 8)
    made: list[tuple[str, int]] = []

    def make(network: str, targets: Tensor | None, seed: int, tell: Tell) -> Subject:
        made.append((network, seed))
        return Subject("random", network, seed, model, images, images, images, targets, ())

    labels = torch.randint(10, (40,))
    networks = {OURS[0]: partial(make, OURS[0], labels), "other": partial(make, "other", None)}
    path = tmp_path / "bytes.csv"

    def go() -> list[str]:
        run(Table(path, Row), networks, [3, 4], ["int8 rounded"], polish.RECIPE, tmp_path)
        return path.read_text().splitlines()

    whole = go()
    assert made == [(OURS[0], 3), (OURS[0], 4), ("other", 3)] and len(whole) == 1 + 2 * len(made)
    rows = Table(path, Row).rows
    assert {each.baseline for each in rows if each.network == "other"} == {1.0}
    assert {each.baseline for each in rows if each.network != "other"} == {rows[0].baseline} != {1.0}
    path.write_text("\n".join([*whole[:2], *whole[3:], whole[2][:20]]))  # as if stopped within that row
    assert go() == [*whole[:2], *whole[3:], whole[2]]
    found = rivals(Table(path, Row), make("other", None, 3, lambda done, total: None))
    assert found == {f"int8, {each.size}": each.bytes for each in rows if each.network == "other"}


class Mixed(nn.Module):
    """Layers that are folded, and one whose output something else reads too, which is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.grouped, self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4), nn.BatchNorm2d(12)
        self.linear, self.third = nn.Linear(12, 5), nn.BatchNorm1d(5)
        self.last = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.grouped(torch.relu(self.norm(self.first(x)))))
        z = self.third(self.linear(y.mean((2, 3))))
        out: Tensor = z + self.last(z)
        return out


def settled(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that do something."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("model", "shape", "norms"),
    [(Mixed(), (3, 9, 9), 1), (ResNet14(1, 10), (1, 8, 8), 0), (vit((1, 28, 28), 10), (1, 28, 28), 0)],
)
def test_folding_changes_no_output(model: nn.Module, shape: tuple[int, ...], norms: int) -> None:
    model, images = settled(model), torch.randn(4, *shape)
    small = folded(model)
    with torch.no_grad():
        assert torch.allclose(small(images), model(images), atol=1e-4)
    left = [each for each in small.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(left) == norms
    # What is quantised holds all but a few numbers of the network.
    layers = [each for each in small.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert sum(each.weight.numel() for each in layers) > 0.9 * sum(each.numel() for each in small.parameters())


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_moments_are_those_of_what_each_output_sums_over(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 12, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=groups, bias=False)
    images = torch.randn(40, 6, 7, 8)
    moments = covariance(layer, images)
    weight = layer.weight.detach().double().reshape(groups, 12 // groups, -1)
    outputs = layer(images).detach().double().transpose(0, 1).flatten(1)
    expected = (weight @ moments @ weight.transpose(1, 2)).diagonal(dim1=1, dim2=2).flatten()
    assert torch.allclose(expected, outputs.square().mean(1), rtol=1e-5)
    assert torch.allclose(covariance(nn.Linear(8, 2), images)[0], images.flatten(0, 2).double().T.cov(correction=0) +
                          torch.outer(*[images.flatten(0, 2).double().mean(0)] * 2), atol=1e-5)  # fmt: skip


def test_each_column_takes_up_what_those_before_it_have_lost() -> None:
    """Against the definition: of the weights still to come those that make the outputs' error least, anew each time."""
    torch.manual_seed(0)
    size, most = 140, 7  # more than a block
    mixed = torch.randn(500, size, dtype=torch.float64) @ torch.randn(size, size, dtype=torch.float64)
    moments = (mixed.T @ mixed / 500)[None]
    rows = torch.randn(1, 3, size, dtype=torch.float64)
    steps = best_steps(rows[0].float(), most).double()[None]
    found = fed_back(rows, steps, most, moments)
    ridged = moments[0] + RIDGE * moments[0].diagonal().mean() * torch.eye(size, dtype=torch.float64)
    errors = torch.zeros(3, size, dtype=torch.float64)
    for column in range(size):
        rest = errors[:, :column] @ ridged[:column, column:] @ torch.linalg.inv(ridged[column:, column:])
        wanted = rows[0, :, column] - rest[:, 0]
        level = torch.round(wanted / steps[0]).clamp(-most, most)
        assert torch.equal(level, found[0, :, column])
        errors[:, column] = level * steps[0] - rows[0, :, column]
    rounded = torch.round(rows / steps[..., None]).clamp(-most, most) * steps[..., None] - rows
    cost = [float((each @ moments[0] * each).sum()) for each in (errors, rounded[0])]
    assert cost[0] < 0.6 * cost[1]


def test_feedback_sees_what_quantised_layers_before_put_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 4, bias=False))
    inputs, first = torch.randn(64, 6), model[0].weight.detach().clone()
    found = quantised(model, "int4", inputs)
    assert list(found) == ["0.weight", "1.weight"] and not torch.equal(model[0].weight, first)
    again = coded(nn.Linear(6, 6, bias=False).requires_grad_(False), 7, None)
    assert again.levels.abs().max() <= 7
    # The second layer alone, given what the first now puts out.
    torch.manual_seed(0)
    fresh = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 4, bias=False))
    with torch.no_grad():
        reached = inputs @ found["0.weight"].weight.T
    second = coded(fresh[1], 7, covariance(fresh[1], reached))
    assert torch.equal(second.levels, found["1.weight"].levels)


def test_steps_are_those_of_least_error() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5, 4000)
    steps = best_steps(rows, 7)

    def error(steps: Tensor) -> Tensor:
        return (torch.round(rows / steps[:, None]).clamp(-7, 7) * steps[:, None] - rows).square().sum(1)

    assert bool((error(steps) < 0.8 * error(rows.abs().amax(1) / 7)).all())
    # A normal distribution's best step for 15 levels: Max, IRE Trans. Inf. Theory 6, 1960 (0.352 of its deviation).
    assert torch.allclose(steps, torch.full((5,), 0.352), rtol=0.08)
    assert torch.equal(best_steps(torch.zeros(1, 3), 7).isfinite(), torch.tensor([True]))


@pytest.mark.parametrize("kind", blob.KINDS)
@pytest.mark.parametrize("width", MOST)
def test_bytes_hold_the_network_that_was_quantised(width: str, kind: str) -> None:
    torch.manual_seed(0)
    most = MOST[width]
    shapes = {"a.weight": (3, 5, 1, 3), "a.bias": (3,), "b.weight": (4, 7), "table": (2, 3)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    weights = {
        name: Coded(torch.randint(-most, most + 1, shapes[name], dtype=torch.int8), torch.rand(shapes[name][0]))
        for name in ("a.weight", "b.weight")
    }
    weights["a.weight"].levels.view(-1)[:2] = torch.tensor([-most, most])
    state |= {name: each.weight for name, each in weights.items()}
    data = blob.written(state, weights, width, kind)
    again = blob.read(data, state, set(weights), width, kind)
    assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    if kind == "raw":
        # Of 45 levels and 28; an odd number of halves takes a byte more.
        levels = 45 + 28 if width == "int8" else 23 + 14
        assert len(data) == levels + 4 * (3 + 3 + 4 + 6)


def test_halves_are_two_a_byte() -> None:
    levels = np.array([-7, 7, 0, -1, 3], np.int8)
    assert blob.halves(levels).tolist() == [0xE0, 0x67, 0x0A]
    assert blob.unpacked(blob.halves(levels), 5).tolist() == levels.tolist()


def test_what_is_lost_is_told_by_what_differs() -> None:
    targets = torch.zeros(1000, dtype=torch.int64)
    original, mine = targets.clone(), targets.clone()
    original[:100] = 1
    same = lost(original, original, targets)
    assert same.points == 0 and 0.1 < same.high == -same.low < 0.3
    mine[90:120] = 1  # ten that the original has wrong too, 90 gained, 20 lost
    found = lost(mine, original, targets)
    assert found.points == pytest.approx(-7) and found.low < -8.5 and -6 < found.high < -4
    several = mean([Lost(1, 0, 2), Lost(3, 2, 4)])
    assert several.points == 2 and several.high == pytest.approx(2 + 2**0.5 / 2)


def row(network: str, method: str, size: str, held: int, accuracy: float, seed: int = 0) -> Row:
    return Row("data", network, seed, method, size, held, 1000, accuracy, 0.9, -1.0, 3.0, 1000, "")


def test_the_page_has_parts_and_all_files_and_the_mean_of_our_networks(tmp_path: Path) -> None:
    rows = [
        row(name, "float32 cut", size, held, accuracy)
        for name in OURS
        for size, held, accuracy in (("whole", 4000, 0.9), ("1/4", 1000, 0.88), ("1/8", 500, 0.5))
    ]
    rows += [row(OURS[0], "float32 cut", "1/4", 1000, 0.86, seed=1), row(OURS[0], "nncodec", "qp -20", 200, 0.89)]
    lines = page(rows, ORDER).splitlines()
    assert lines[0] == f"| **{OURS[0]}** | 0.25 | 0.125 |"
    assert lines[2] == "| float32 cut | 3.00 | 40.00 |"
    assert lines[lines.index(f"| **{MEAN}** | 0.25 | 0.125 |") + 1] == "| float32 cut | 2.33 | 40.00 |"
    assert "| nncodec, qp -20 | 0.2 | 0.0500 | 1.00 | -1.00 to 3.00 |" in lines
    assert "| float32 cut, 1/4 | 1.0 | 0.2500 | 3.00 | 0.08 to 3.71 |" in lines
    draw(rows, tmp_path / "plot.svg", ORDER)
    assert (tmp_path / "plot.svg").read_text().count("</svg>") == 1


def test_the_page_is_that_of_the_rows_that_are_kept() -> None:
    rows = Table(RESULTS / "bytes.csv", Row).rows
    assert rows and {each.method for each in rows} <= set(METHODS)
    assert page(rows, ORDER) == (RESULTS / "bytes.md").read_text()


def test_the_network_of_the_edge_is_as_large_as_its_weights() -> None:
    model = EfficientNetLite0().eval()
    assert sum(each.numel() for each in model.parameters()) == 4_652_008
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
