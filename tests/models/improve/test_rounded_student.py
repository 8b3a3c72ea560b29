from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from rightrank.models.emit.coded import block_bytes, coded
from rightrank.models.emit.encoding.packing import SINGLE
from rightrank.models.improve.distill import Recipe, Training
from rightrank.models.improve.rounded_student import FASTER, TIMES, UNIT, RoundedStudent
from rightrank.models.master.master import Master
from rightrank.models.master.variant import Variant, variant
from rightrank.models.measure.nearness import Nearness
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.quantise.scaled import Scaled
from tests.models.nets import SHAPES, Separable, build, make, source

PLAIN, CPU = Nearness(classes=False), torch.device("cpu")
RECIPE = Recipe(60, 1, 5e-3, batch=32, classes=False)
MOST = 7


def images(count: int) -> Tensor:
    return torch.randn(count, *SHAPES[Separable]).cumsum(2) / 3


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Variant]:
    """A network, and its variant at half of each rank."""
    out = tmp_path_factory.mktemp("rounded")
    torch.manual_seed(0)
    build(source(make(Separable), SHAPES[Separable], out / "source", images(200)), out / "master")
    master = Master.open(out / "master")
    stored = master.tensors()
    ranks = [layer.break_even // 2 for layer in master.template.decomposed]
    return master.program(stored), variant(master.template, stored, ranks)


def rounded(each: Tensor) -> Scaled:
    scales = each.double().flatten(1).abs().amax(1).reshape(-1, *(1,) * (each.ndim - 1)) / MOST
    return Scaled((each / scales).round().to(torch.int8), scales)


def learner(start: tuple[Program, Variant], share: float) -> RoundedStudent:
    """Of all layers as levels, which may take so many of the bits that they take."""
    original, begun = start
    layers = [layer.weight for layer in begun.template.layers]
    scaled: dict[str, Mapping[str, Scaled]] = {
        name: {side: rounded(each) for side, each in begun.factors.get(name, {"": begun.whole[name]}).items()}
        for name in layers
    }
    return RoundedStudent(original, begun, scaled, dict.fromkeys(layers, MOST), share, CPU)


def test_it_begins_as_the_levels_that_it_is_given(start: tuple[Program, Variant]) -> None:
    student = learner(start, 1.0)
    _, begun = start
    weights = student.program().tensors
    for name, sides in student.scaled().items():
        layer = next(each for each in begun.template.layers if each.weight == name)
        given = begun.factors.get(name, {"": begun.whole[name]})
        for side, each in sides.items():
            assert torch.equal(each.levels, rounded(given[side]).levels)
        numbers = {side: each.numbers(torch.float32) for side, each in sides.items()}
        assert torch.allclose(weights[name], numbers[""] if "" in numbers else layer.form.product(layer, numbers))


def test_what_the_rounded_number_is_told_the_number_behind_it_is(start: tuple[Program, Variant]) -> None:
    student = learner(start, 1.0)
    key = next(iter(student._places))
    value = student.value(key)
    value.sum().backward()
    gradient, steps = student.parameters[key].grad, student.parameters[f"steps of {key}"].grad
    weight, side = student._places[key]
    scales = student.scales(key).float().expand(student._scaled[weight][side].levels.shape)
    assert gradient is not None and torch.allclose(gradient, UNIT * student._by_basis(key, scales))
    # And how large a step is what the steps that there are have come to.
    assert steps is not None and torch.allclose(steps.sum(), FASTER * value.sum())


def test_it_comes_nearer_and_what_it_may_take_counts(start: tuple[Program, Variant]) -> None:
    torch.manual_seed(0)
    data, unseen = Samples.of(images(256)), images(128)

    def off(student: RoundedStudent) -> float:
        outputs = student.program().run((unseen,))[0]
        return float((outputs - start[0].run((unseen,))[0]).square().mean())

    bits = []
    for share in (1.0, 0.8):
        student = learner(start, share)
        with torch.no_grad():
            before = off(student)
        Training(student, RECIPE).go(data, 32, lambda generator: (None, 0.5), lambda done: None)
        with torch.no_grad():
            assert share < 1 or off(student) < before
            bits.append(student._counted()[1])
        for sides in student.scaled().values():
            assert all(int(each.levels.abs().max()) <= MOST for each in sides.values())
    assert bits[1] < 0.97 * bits[0] and bits[0] < 1.05 * student._allowed / 0.8


def test_numbers_that_go_down_are_no_larger_and_cheaper(start: tuple[Program, Variant]) -> None:
    student = learner(start, 1.0)
    with torch.no_grad():
        for key in student._places:
            student.parameters[key].add_(0.1 * torch.randn_like(student.parameters[key]))
    several, sizes = [student.scaled(down) for down in (0.0, 0.2, 0.5)], [0, 0, 0]
    for name, sides in several[0].items():
        for side in sides:
            one, other, last = (each[name][side].levels.abs() for each in several)
            assert bool((one >= other).all()) and bool((other >= last).all())
            for number, each in enumerate(several):
                rows = each[name][side].levels.flatten(1).numpy()
                sizes[number] += block_bytes([coded({"": (rows, np.ones(1))}, SINGLE)[""]], len(rows))
    assert sizes[0] > sizes[1] > sizes[2]


def test_steps_grow_within_bounds_and_those_of_all_outputs_stay_one(start: tuple[Program, Variant]) -> None:
    original, begun = start
    name = begun.template.layers[0].weight
    weight = original.tensors[name]
    begun = dataclasses.replace(begun, factors={})
    for scales in (rounded(weight).scales, torch.full_like(rounded(weight).scales, 0.1)):
        levels = (weight / scales).round().clamp(-MOST, MOST).to(torch.int8)
        student = RoundedStudent(original, begun, {name: {"": Scaled(levels, scales)}}, {name: MOST}, 1.0, CPU)
        student.value(name).sum().backward()
        with torch.no_grad():
            steps = student.parameters[f"steps of {name}"]
            steps -= 0.01 * torch.as_tensor(steps.grad)
            one = student.scaled()[name][""].scales
            assert one.shape == scales.shape and not bool((one == scales).any())
            assert len(one.unique()) == len(scales.unique())
            steps.fill_(100.0)
            assert torch.allclose(student.scaled()[name][""].scales, TIMES * scales)
