"""Layers as levels within a walk: what they lose, those after them make good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble.survey import survey
from rightrank.models.factor.factors import Factors
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer
from rightrank.models.improve.quantising import Fitted, Quantising
from rightrank.models.improve.refit import refit
from rightrank.models.master.template import Template
from rightrank.models.program.program import Program
from rightrank.models.progress import silent
from rightrank.models.quantise import metric
from tests.models.nets import SHAPES, Cardinal, Painter, Recurring, Separable, Small, gather, make, read

NETS: Sequence[type[nn.Module]] = (Small, Separable, Painter, Cardinal, Recurring)
SEEN, UNSEEN = 160, 64


@dataclass(frozen=True, eq=False)
class Case:
    program: Program
    template: Template
    gradients: Mapping[str, Gradients]
    factors: Mapping[str, Factors]
    seen: Tensor
    unseen: Tensor

    def error(self, tensors: Mapping[str, Tensor]) -> float:
        """How far the outputs are from the program's on inputs that nothing was fitted to, as a share."""
        whole = self.program.run([self.unseen])[0]
        made = self.program.with_tensors({**self.program.tensors, **tensors}).run([self.unseen])[0]
        return float((made - whole).square().mean() / (whole - whole.mean(0)).square().mean())

    @cached_property
    def layers(self) -> Mapping[str, Layer]:
        return {layer.weight: layer for layer in self.template.layers}

    @cached_property
    def observed(self) -> dict[str, Fitted]:
        """Every layer as the walk meets it, nothing changed."""
        found: dict[str, Fitted] = {}

        def note(fitted: Fitted) -> Fitted:
            if Quantising.alone(fitted.regression):
                found[fitted.regression.layer.weight] = fitted
            return fitted

        refit(self.program, self.template.layers, {}, {}, self.program, [(self.seen,)], silent, note)
        return found

    @cached_property
    def grids(self) -> tuple[float, ...]:
        """Six for all layers, each twice as coarse as that before: of about six bits a number to about one."""
        sizes = []
        for weight, gradients in self.gradients.items():
            if (seen := self.observed.get(weight)) is not None:
                (matrix,), (normal,) = seen.matrix, seen.normal
                sizes.append(math.log(max(cost(matrix, normal, gradients) / matrix.numel(), 1e-300)) / 2)
        return tuple(math.exp(sum(sizes) / len(sizes)) * 2.0 ** (number - 5) for number in range(6))


def cost(error: Tensor, normal: Tensor, gradients: Gradients) -> float:
    """What an error (o, i) in a matrix costs, in the unit in which bases are worth something."""
    known = gradients.side == "outputs" and len(gradients.square) == len(error)
    outputs = gradients.square if known else torch.eye(len(error)) * gradients.far
    return metric.loss(error.double(), normal.double(), outputs.double())


def prepared(kind: type[nn.Module], folder: Path) -> Case:
    data = torch.randn(SEEN + UNSEEN, *SHAPES[kind], generator=torch.Generator().manual_seed(0)).cumsum(2)
    program = read(make(kind), SHAPES[kind], folder)
    template = survey(program)
    layers = list(template.decomposed)
    moments = gather(program, template.decomposed, data[:SEEN], forms=FORMS)
    factors = {}
    for number, (layer, each) in enumerate(zip(layers, moments, strict=True)):
        if "spatial" in layer.suits:
            layers[number] = layer = replace(layer, form=FORMS["spatial"])
        factors[layer.weight] = layer.form.factors(layer, program.tensors[layer.weight], each)
    formed = {layer.weight: layer for layer in layers}
    template = replace(template, layers=tuple(formed.get(layer.weight, layer) for layer in template.layers))
    gradients = {layer.weight: Gradients.of(each) for layer, each in zip(layers, moments, strict=True)}
    return Case(program, template, gradients, factors, data[:SEEN], data[SEEN:])


@pytest.fixture(scope="module", params=NETS, ids=lambda kind: kind.__name__)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return prepared(request.param, tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return prepared(Small, tmp_path_factory.mktemp("small"))


def refitted(case: Case, ranks: Mapping[str, int], levels: Quantising | None) -> dict[str, Tensor]:
    inputs = [(case.seen,)]
    cut = case.program

    def quantise(fitted: Fitted) -> Fitted:
        assert levels is not None
        return levels(fitted) if Quantising.alone(fitted.regression) else fitted

    quantiser = None if levels is None else quantise
    found = refit(case.program, case.template.layers, ranks, case.gradients, cut, inputs, silent, quantiser)
    result: dict[str, Tensor] = {}
    by_name = {layer.name: layer for layer in case.template.layers}
    for layer in by_name.values():
        sides = {side: found[f"{side}/{layer.name}"] for side in layer.form.sides if f"{side}/{layer.name}" in found}
        if sides:
            result[layer.weight] = layer.form.product(layer, sides)
    for name, value in found.items():
        kind, _, tensor = name.partition("/")
        if kind in ("dense", "corrected"):
            result[tensor] = value
    return result


@pytest.mark.parametrize("cut", [False, True])
def test_levels_are_what_the_refit_leaves_behind(case: Case, cut: bool) -> None:
    grids = dict.fromkeys(case.gradients, case.grids[2])
    ranks = {
        weight: case.layers[weight].break_even // 2 for weight in case.gradients if cut and weight in case.observed
    }
    levels = Quantising(grids, case.gradients)
    found = refitted(case, ranks, levels)
    assert case.observed.keys() == levels.found.keys()
    for weight, several in levels.found.items():
        layer = case.layers[weight]
        assert several.keys() == ({*layer.form.sides} if ranks.get(weight) else {""})
        for each in several.values():
            assert each.levels.dtype == torch.int8
        numbers = {side: each.numbers(torch.float32) for side, each in several.items()}
        made = layer.form.product(layer, numbers) if ranks.get(weight) else numbers[""]
        assert torch.allclose(found[weight], made, rtol=1e-4, atol=1e-6)
        if ranks.get(weight):
            shapes = layer.factor_shapes(ranks[weight])
            assert {side: tuple(each.levels.shape) for side, each in several.items()} == shapes
            # One scale a basis, and one an output that does not depend on the rank.
            assert several["down"].scales.numel() == ranks[weight]
            assert several["up"].scales.numel() == layer.outputs
        else:
            assert several[""].levels.shape == layer.shape
            assert several[""].scales.numel() == layer.outputs


def test_a_refit_of_levels_is_nearer_than_rounding_at_the_same_grids(case: Case) -> None:
    grid = case.grids[3]
    levels = Quantising(dict.fromkeys(case.gradients, grid), case.gradients)
    fitted = refitted(case, {}, levels)
    rounded = {}
    for weight, several in levels.found.items():
        scales = several[""].scales
        rounded[weight] = ((case.program.tensors[weight] / scales).round() * scales).float()
    assert case.error(fitted) < 0.7 * case.error(rounded)


def test_coarser_grids_lose_more(case: Case) -> None:
    errors = [
        case.error(refitted(case, {}, Quantising(dict.fromkeys(case.gradients, grid), case.gradients)))
        for grid in case.grids[::2]
    ]
    assert errors == sorted(errors)
    assert errors[0] < min(0.02, 0.2 * errors[-1])


def test_layers_without_a_grid_have_eight_bits(small: Case) -> None:
    case = small
    levels = Quantising({}, case.gradients)
    assert case.error(refitted(case, {}, levels)) < 1e-3
    for several in levels.found.values():
        assert (several[""].levels.flatten(1).abs().amax(1) == 127).all()
