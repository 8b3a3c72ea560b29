from __future__ import annotations

import json
from collections.abc import Sequence
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
from rightrank.models.factor.regression import Regression
from rightrank.models.program.calls import CONVOLUTION, layer_call
from rightrank.models.program.graph import Graph, Input, Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import SHAPES, Cardinal, Painter, Separable, make, read, recurring

# All but that of weights which are handed on to a recurrent call.
CONVOLUTIONS = sorted({*FORMS} - {"product"})


def layer_of(form: str, shape: tuple[int, ...] = (6, 4, 3, 2)) -> Layer:
    """A convolution of this weight, of the kind that the form is for."""
    groups = 2 if form == "grouped" else 1
    return Layer("a", "a.weight", "conv2d", shape, ("y",), 1, True, FORMS[form], groups=groups)


def convolution(layer: Layer, geometry: Sequence[tuple[int, ...]], more: tuple[int, ...] = ()) -> Node:
    transposed = layer.form.name == "transposed"
    more = more if transposed else (0,) * len(geometry[0])
    args = (Ref("x"), Ref("w"), Ref("b"), *geometry, transposed, more, layer.groups)
    return Node("y", CONVOLUTION, args, (), ("y",))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_the_calls_of_every_form_of_a_convolution_do_what_their_product_does(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(CONVOLUTIONS))
    dims = 2 if form == "spatial" else data.draw(st.integers(1, 3))
    several = [data.draw(st.tuples(*[st.integers(*ends)] * dims)) for ends in ((1, 3), (0, 2), (1, 3), (2, 4), (0, 2))]
    geometry, kernel = several[:3], several[3]
    # As much more as torch allows: less than the stride or the dilation.
    more = tuple(min(m, max(s, d) - 1) for m, s, d in zip(several[4], geometry[0], geometry[2], strict=True))
    layer, rank = layer_of(form, (6, 4, *kernel)), data.draw(st.integers(1, 4))
    inputs = {"grouped": 8, "transposed": 6}.get(form, 4)
    outputs = 4 if form == "transposed" else 6
    x, bias = torch.randn(2, inputs, *(12, 13, 14)[:dims]).double(), torch.randn(outputs).double()
    factors = {side: torch.randn(each).double() for side, each in layer.factor_shapes(rank).items()}
    node = convolution(layer, geometry, more)
    graph = Graph(
        inputs=(Input("x", "float64", (None, *x.shape[1:])),),
        tensors={factor_value(layer, side).name: side for side in layer.form.sides} | {"b": "b"},
        parameters=frozenset(),
        nodes=layer.form.calls(layer, node),
        outputs=("y",),
    )
    (found,) = Program(graph, {**factors, "b": bias}).run([x])
    whole = torch.convolution(x, layer.form.product(layer, factors), bias, *node.args[3:])
    assert torch.allclose(found, whole, atol=1e-9)


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_all_bases_of_every_form_of_a_convolution_are_the_weight_and_fewer_are_their_leading_parts(form: str) -> None:
    torch.manual_seed(0)
    layer = layer_of(form)
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
    layer = layer_of(form)
    regression = Regression.of(layer_call(convolution(layer, ((3, 3), (0, 0), (1, 1)), (0, 0))), layer)
    assert regression is not None
    weight, rows = torch.randn(layer.shape).double(), torch.randn(200, regression.groups, regression.inputs).double()
    several, mean = torch.einsum("kgi,kgj->gij", rows, rows) / 200, rows.mean(0)
    normal, matrix = several.squeeze(0), regression.matrix(weight)
    gradients = Gradients(torch.eye(6).double())
    if form == "transposed":
        gradients = Gradients((matrix.mT @ matrix).squeeze(0), "inputs", 1.0)
    for rank in (1, 3):
        moments = gradients.moments(matrix.flatten(0, 1), normal, mean.squeeze(0), matrix.flatten(0, 1))
        found = layer.form.fit(layer, weight, rank, normal, mean.squeeze(0), moments)
        assert {side: tuple(each.shape) for side, each in found.items()} == layer.factor_shapes(rank)
        plain = layer.form.factors(layer, weight, None).keep(layer, rank)
        fitted, svd = (regression.matrix(layer.form.product(layer, each)) - matrix for each in (found, plain))
        costs = [float(((each @ several) * each).sum()) for each in (fitted, svd)]
        assert costs[0] < 1.001 * costs[1] + 1e-9


def test_a_layer_survives_json_in_every_form_that_suits_it(tmp_path: Path) -> None:
    programs = [read(make(kind), SHAPES[kind], tmp_path) for kind in (Separable, Painter, Cardinal)]
    seen = set()
    for program in (*programs, apart(recurring("gru"))):
        for layer in layers.find(program.graph, program.shapes):
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
