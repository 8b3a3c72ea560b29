from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rightrank.models import checkpoint
from rightrank.models.assemble.build import build
from rightrank.models.emit import formats
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.forms.channel import Channel
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master.master import Master
from rightrank.models.master.variant import variant
from rightrank.models.plan.planner import Planner
from rightrank.models.program.calls import CONVOLUTION, EMBEDDING, LINEAR, PRODUCT, Convolution, Linear
from rightrank.models.program.graph import Graph, Input, Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples

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


WAYS = {
    "linear": lambda x, w: functional.linear(x, w),
    "product": lambda x, w: x @ w,
    "embedding": lambda x, w: functional.embedding(x, w),
}


@pytest.mark.parametrize("way", WAYS)
def test_whichever_way_a_weight_is_read_its_factors_are_read_in_its_place(way: str) -> None:
    layer = Layer("a", "a.weight", "linear", (9, 7), ("y",), 1, True, FORM)
    args = (Ref("w"), Ref("x")) if way == "embedding" else (Ref("x"), Ref("w"))
    op = {"linear": LINEAR, "product": PRODUCT, "embedding": EMBEDDING}[way]
    node = Node("y", op, args, (), ("y",))
    factors = {side: torch.randn(shape).double() for side, shape in layer.factor_shapes(3).items()}
    values = {factor_value(layer, side).name: side for side in FORM.sides}
    width = {"linear": 7, "product": 9, "embedding": 4}[way]
    x = torch.randint(0, 9, (2, 4)) if way == "embedding" else torch.randn(2, 3, width).double()
    graph = Graph((Input("x", "float64", (None, *x.shape[1:])),), values, frozenset(), FORM.calls(layer, node), ("y",))
    (found,) = Program(graph, factors).run([x])
    torch.testing.assert_close(found, WAYS[way](x, FORM.product(layer, factors)))


class Tied(nn.Module):
    """A language model's way in and out: one table."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner = nn.Embedding(60, 24), nn.Linear(24, 24)
        self.bias = nn.Parameter(torch.randn(60))

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        return functional.linear(x + torch.tanh(self.inner(x)), self.words.weight, self.bias)


def test_a_tied_head_stays_tied_at_every_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 60, (300, 5))
    export = torch.export.export(Tied().eval(), (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(export, tmp_path / "tied.pt2")
    program = checkpoint.read(tmp_path / "tied.pt2")
    build(program, tmp_path / "master", Samples.of(x), classes=False, keep=200)
    planner = Planner.open(tmp_path / "master")
    template, wanted = planner.template, program.run([x])[0].detach()
    missed = []
    for share in (1.0, 0.8, 0.6, 0.4):
        plan = planner.plan(max_params=int(share * template.params))
        file = io.BytesIO()
        formats.write(tmp_path / "master", plan, file)
        module = torch.jit.load(io.BytesIO(file.getvalue()))
        assert sum(each.numel() for each in module.parameters()) == plan.params <= share * template.params
        assert len(file.getvalue()) == plan.bytes
        found = module(x).detach()
        cut = variant(template, Master.open(tmp_path / "master").tensors(), plan.ranks).program()
        torch.testing.assert_close(found, cut.run([x])[0], rtol=1e-4, atol=1e-4)
        missed.append(float((found - wanted).square().mean() / wanted.var()))
    assert missed[0] == 0 and missed == sorted(missed) and missed[1] < 0.5
