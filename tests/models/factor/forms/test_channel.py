from __future__ import annotations

import torch
from torch.nn import functional

from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.forms.channel import Channel
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.program.calls import CONVOLUTION, LINEAR, Convolution, Linear
from rightrank.models.program.graph import Graph, Input, Node, Ref
from rightrank.models.program.program import Program

FORM = Channel()


def test_only_plain_convolutions_and_linear_layers_are_papers_matrices() -> None:
    x, weight = Ref("x"), Ref("w")
    plain = Convolution(x, weight, None, (1,), (0,), (1,), False, (0,), 1)
    transposed = Convolution(x, weight, None, (1,), (0,), (1,), True, (0,), 1)
    grouped = Convolution(x, weight, None, (1,), (0,), (1,), False, (0,), 2)
    assert not FORM.fits(plain, (8, 4, 3)) and not FORM.fits(Linear(x, weight), (8, 4))
    assert "transposed" in FORM.fits(transposed, (8, 4, 3)) and "2 groups" in FORM.fits(grouped, (8, 4, 3))
    others = FORMS["grouped"], FORMS["transposed"]
    assert all(form.fits(plain, (8, 4, 3)) and form.fits(Linear(x, weight), (8, 4)) for form in others)
    assert [form.fits(grouped, (8, 4, 3)) for form in others] == ["", "it is no transposed convolution"]
    assert [form.fits(transposed, (8, 4, 3)) for form in others] == ["it is no grouped convolution", ""]


def test_two_linear_calls_add_the_bias_once() -> None:
    layer = Layer("a", "a.weight", "linear", (5, 7), ("y",), 1, True, FORM)
    node = Node("y", LINEAR, (Ref("x"), Ref("w"), Ref("b")), (), ("y",))
    factors = {side: torch.randn(shape).double() for side, shape in layer.factor_shapes(3).items()}
    values = {factor_value(layer, side).name: side for side in FORM.sides}
    graph = Graph(
        (Input("x", "float64", (None, 7)),), values | {"b": "b"}, frozenset(), FORM.calls(layer, node), ("y",)
    )
    x, bias = torch.randn(2, 7).double(), torch.randn(5).double()
    (found,) = Program(graph, {**factors, "b": bias}).run([x])
    assert torch.allclose(found, functional.linear(x, FORM.product(layer, factors), bias))


def test_freezing_can_fold_a_batch_norm_into_the_last_call_of_a_convolution() -> None:
    """So it is called by the name for its dimensions."""
    for count in (1, 2, 3):
        geometry = ((2,) * count, (1,) * count, (1,) * count)
        node = Node("y", CONVOLUTION, (Ref("x"), Ref("w"), None, *geometry, False, (0,) * count, 1), (), ("y",))
        layer = Layer("a", "a.weight", "conv", (5, 7, *(3 for _ in range(count))), ("y",), 1, True, FORM)
        first, last = FORM.calls(layer, node)
        assert first.op == last.op == f"aten.conv{count}d.default"
        assert last.outputs == ("y",) and first.args[3:6] == geometry
