from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.models.factor import layers
from rightrank.models.factor.forms import FORMS, layer_from_json
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.program.calls import CONVOLUTION, Convolution
from rightrank.models.program.graph import Graph, Input, Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import SHAPES, Separable, make, read, recurring

CONVOLUTIONS = sorted(
    name
    for name, form in FORMS.items()
    if not form.fits(Convolution(Ref("x"), Ref("w"), None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1), (6, 4, 3, 2))
)


def test_several_forms_are_of_convolutions() -> None:
    assert {"channel", "spatial"} <= {*CONVOLUTIONS} < {*FORMS}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_calls_of_every_form_of_a_convolution_do_what_their_product_does(data: st.DataObject) -> None:
    numbers = data.draw(st.tuples(*[st.integers(1, 3)] * 4, *[st.integers(0, 2)] * 2, *[st.integers(2, 4)] * 2))
    geometry = (numbers[0:2], numbers[4:6], numbers[2:4])
    shape, rank, x = (5, 3, *numbers[6:]), data.draw(st.integers(1, 4)), torch.randn(2, 3, 14, 15).double()
    form, bias = FORMS[data.draw(st.sampled_from(CONVOLUTIONS))], torch.randn(5).double()
    layer = Layer("a", "a.weight", "conv2d", shape, ("y",), 1, True, form)
    factors = {side: torch.randn(each).double() for side, each in layer.factor_shapes(rank).items()}
    node = Node("y", CONVOLUTION, (Ref("x"), Ref("w"), Ref("b"), *geometry, False, (0, 0), 1), (), ("y",))
    graph = Graph(
        inputs=(Input("x", "float64", (None, 3, 14, 15)),),
        tensors={factor_value(layer, side).name: side for side in form.sides} | {"b": "b"},
        parameters=frozenset(),
        nodes=form.calls(layer, node),
        outputs=("y",),
    )
    (found,) = Program(graph, {**factors, "b": bias}).run([x])
    whole = torch.conv2d(x, form.product(layer, factors), bias, *geometry)
    assert torch.allclose(found, whole, atol=1e-9)


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_all_bases_of_every_form_of_a_convolution_are_the_weight_and_fewer_are_their_leading_parts(form: str) -> None:
    torch.manual_seed(0)
    layer = Layer("a", "a", "conv2d", (6, 4, 3, 2), ("a",), 9, True, FORMS[form])
    weight = torch.randn(layer.shape).double()
    factors = layer.form.factors(layer, weight, None)
    assert {side: tuple(each.shape) for side, each in factors.tensors.items()} == layer.factor_shapes(layer.rank)
    assert torch.allclose(layer.form.product(layer, factors.tensors), weight, atol=1e-6)
    missed = [(layer.form.product(layer, factors.keep(layer, rank)) - weight).norm() for rank in range(1, layer.rank)]
    for rank, each in enumerate(missed, 1):
        assert float(each.square()) == pytest.approx(float(factors.sigma[rank:].square().sum()), rel=1e-6)


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_what_a_form_fits_is_of_the_rank_that_was_asked_for(form: str) -> None:
    torch.manual_seed(0)
    layer = Layer("a", "a", "conv2d", (6, 4, 3, 2), ("a",), 9, True, FORMS[form])
    weight, rows = torch.randn(layer.shape).double(), torch.randn(200, layer.inputs).double()
    normal, gradients = rows.T @ rows / 200, Gradients(torch.eye(6).double())
    for rank in (1, 3):
        moments = gradients.moments(weight, normal, rows.mean(0), weight)
        found = layer.form.fit(layer, weight, rank, normal, rows.mean(0), moments)
        assert {side: tuple(each.shape) for side, each in found.items()} == layer.factor_shapes(rank)
        missed = (layer.form.product(layer, found) - weight).flatten(1)
        plain = layer.form.factors(layer, weight, None).keep(layer, rank)
        others = (layer.form.product(layer, plain) - weight).flatten(1)
        assert torch.trace(missed @ normal @ missed.T) < 1.001 * torch.trace(others @ normal @ others.T)


def test_a_layer_survives_json_in_every_form_that_suits_it(tmp_path: Path) -> None:
    programs = (
        read(make(Separable), SHAPES[Separable], tmp_path),
        apart(recurring("gru")),
    )
    seen = set()
    for layer in [layer for program in programs for layer in layers.find(program.graph, program.shapes)]:
        for name in layer.suits:
            formed = replace(layer, form=FORMS[name])
            assert layer_from_json(json.loads(json.dumps(formed.to_json()))) == formed
            seen.add(name)
    assert seen == {*FORMS}


STORED = {
    "name": "a", "weight": "a.weight", "kind": "conv2d", "shape": [8, 3, 3, 3], "m": 9, "n": 24, "calls": ["a"],
    "positions": 36, "decomposed": True, "reason": "", "form": "spatial", "columns": 72,
}  # fmt: skip


def test_a_layer_that_was_stored_with_its_columns_says_which_forms_suit_it() -> None:
    layer = layer_from_json(STORED)
    assert layer.suits == {"channel": (36, 36), "spatial": (72, 36)}
    assert (layer.form.name, layer.m, layer.n) == ("spatial", 9, 24)
    assert layer.macs_by_rank[0] == 9 * 72 + 24 * 36
    assert layer_from_json({**STORED, "columns": 0, "form": "channel"}).suits == {"channel": (36, 36)}
    assert layer_from_json({**STORED, "columns": 0, "form": "channel", "decomposed": False}).suits == {}


def test_a_layer_of_a_form_that_there_is_not_is_not_read_as_another() -> None:
    with pytest.raises(KeyError, match="tucker"):
        layer_from_json({**STORED, "form": "tucker"})
