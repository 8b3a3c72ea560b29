from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rightrank.models.master import variant
from rightrank.models.measure.nearness import ENTROPY, HOTTEST, Nearness, nearness
from rightrank.models.program.samples import Samples
from tests.models.nets import SHAPES, Small, planner, read


def test_a_program_is_as_far_from_itself_as_nothing(tmp_path: Path) -> None:
    _, folder, planner_ = planner(Small, tmp_path)
    stored = load_file(folder / "master.safetensors")
    original = variant.variant(planner_.template, stored, planner_.plan(1.0).ranks).program()
    flat = original.with_tensors({**original.tensors, "head.weight": original.tensors["head.weight"] * 0})
    x = torch.randn(70, *SHAPES[Small])
    for classes in (True, False):
        same, off = Nearness(classes).distances(original, [original, flat], Samples.of(x), 32)
        assert abs(same) < 1e-7 and off > 1e-6


def test_logits_and_probabilities_of_classes_are_equally_far() -> None:
    a, b = torch.randn(2, 50, 7)
    logits = Nearness().distance(a, b)
    torch.testing.assert_close(Nearness().distance(a.softmax(1), b.softmax(1)), logits)
    torch.testing.assert_close(Nearness().distance(a + 3, b), logits)
    expected = (b.softmax(1) * (b.log_softmax(1) - a.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("axis", [1, 2])
def test_of_places_it_is_the_mean_over_all_of_them(axis: int) -> None:
    a, b = torch.randn(2, 20, 6, 7)
    found = Nearness("places", 2.0, {3: axis}).distance(a, b)
    flat = [each.movedim(axis, -1).flatten(0, 1) for each in (a, b)]
    torch.testing.assert_close(found, Nearness(True, 2.0).distance(*flat))
    assert float(Nearness(True, axes={3: axis}).distance(a, b)) == pytest.approx(float(Nearness(False).distance(a, b)))


def test_numbers_are_as_far_as_they_differ_for_how_much_they_vary() -> None:
    wanted = torch.tensor([[0.0], [2.0]])
    assert float(Nearness().distance(wanted + 1, wanted)) == pytest.approx(1.0)
    a, b = torch.randn(2, 40, 3)
    plain = Nearness(classes=False)
    assert float(plain.distance(5 * a, 5 * b)) == pytest.approx(float(plain.distance(a, b)))


def test_of_a_single_sample_numbers_are_as_far_as_they_differ_for_how_large_they_are() -> None:
    """As where a network was exported for one: nothing is known of how they vary."""
    wanted = torch.randn(1, 40)
    assert float(Nearness(False).distance(1.1 * wanted, wanted)) == pytest.approx(0.01, rel=1e-3)


def test_at_a_temperature_the_logits_are_divided_by_it() -> None:
    a, b = torch.randn(2, 50, 7)
    expected = 4 * Nearness().distance(a / 4, b / 4)
    torch.testing.assert_close(Nearness(temperature=4.0).distance(a, b), expected)


class Logits(nn.Module):
    """Ten logits of this spread, or their probabilities."""

    def __init__(self, spread: float, probabilities: bool) -> None:
        super().__init__()
        self.head = nn.Linear(10, 10, bias=False)
        self.probabilities = probabilities
        self.head.weight.data = spread * torch.eye(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).softmax(1) if self.probabilities else self.head(x)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(("spread", "least", "most"), [(0.5, 1, 1), (8, 1.1, 4), (10_000, 5, HOTTEST)])
def test_the_surer_the_original_the_higher_the_temperature(
    spread: float, least: float, most: float, probabilities: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    program = read(Logits(spread, probabilities).eval(), (10,), tmp_path)
    x = torch.randn(256, 10)
    found = nearness(program, Samples.of(x), 64, classes=True)
    assert least <= found.temperature <= most
    if 1 < found.temperature < HOTTEST and spread < 100:  # smaller probabilities are as good as none
        logs = (spread * x / found.temperature).log_softmax(1)
        share = float(-(logs.exp() * logs).sum(1).mean()) / math.log(10)
        assert share == pytest.approx(ENTROPY, rel=0.02)


def test_what_tells_nothing_apart_has_no_temperature(tmp_path: Path) -> None:
    program = read(Logits(9.0, False).eval(), (10,), tmp_path)
    assert nearness(program, Samples.of(torch.randn(64, 10)), 32, classes=False) == Nearness(classes=False)
    assert nearness(program, Samples.of(torch.randn(8, 10)), 32, classes=True) == Nearness()  # not one batch


def test_masked_classes_count_for_nothing() -> None:
    a, b = torch.randn(2, 50, 7)
    mask = torch.tensor([0, 0, 1, 0, 0, 1, 0]).bool()
    expected = Nearness().distance(a[:, ~mask], b[:, ~mask])
    masked = Nearness().distance(a.masked_fill(mask, -math.inf), b.masked_fill(mask, -math.inf))
    torch.testing.assert_close(masked, expected)


def test_outputs_that_are_no_floating_point_numbers_are_not_compared() -> None:
    assert float(Nearness().distance(torch.tensor([1, 2]), torch.tensor([0, 0]))) == 0


def test_what_is_not_a_number_is_infinitely_far(tmp_path: Path) -> None:
    program = read(nn.Linear(4, 3).eval(), (4,), tmp_path)
    broken = program.with_tensors({name: value * math.nan for name, value in program.tensors.items()})
    found = Nearness().distances(program, [broken, program], Samples.of(torch.randn(8, 4)), 4)
    assert found == [math.inf, 0.0]


@pytest.mark.parametrize("classes", [True, False])
def test_samples_that_the_original_gives_no_numbers_for_count_for_nothing(classes: bool, tmp_path: Path) -> None:
    program = read(Logits(8.0, False).eval(), (10,), tmp_path)
    other = program.with_tensors({name: value + torch.randn_like(value) for name, value in program.tensors.items()})
    x = torch.randn(64, 10)
    with_bad = torch.cat([x[:1] * math.nan, x[:40], x[:1] * math.nan, x[40:]])
    measure = nearness(program, Samples.of(x), 64, classes)
    assert nearness(program, Samples.of(with_bad), 66, classes) == measure
    expected = measure.distances(program, [other], Samples.of(x), 64)
    assert measure.distances(program, [other], Samples.of(with_bad), 66) == pytest.approx(expected)
    assert measure.distances(program, [other], Samples.of(x * math.nan), 64) == [0.0]
