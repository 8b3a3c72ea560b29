from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from rightrank.models.assemble.survey import survey
from rightrank.models.assemble.uncovered import CALLER, NAMED, uncovered
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.program.graph import Graph, Input, Node, Ref
from tests.models import nets


class Mixed(nn.Module):
    """Layers that can be cut beside parameters that are in none, and one that stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.deep = nn.Bilinear(8, 8, 24), nn.Conv1d(24, 24, 5, padding=2, groups=24)
        self.places, self.head = nn.Parameter(torch.randn(1, 30, 24)), nn.Linear(24, 16)
        self.norms = nn.ModuleList([nn.LayerNorm(24) for _ in range(5)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(self.pair(x, x).transpose(1, 2)).transpose(1, 2) + self.places[:, :6]
        for norm in self.norms:
            y = norm(y)
        return self.head(y)


def test_what_no_layer_covers_is_all_but_the_weights_that_can_be_cut(tmp_path: Path) -> None:
    module = nets.make(Mixed)
    template = survey(nets.read(module, (6, 8), tmp_path))
    found = uncovered(template)
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    assert {layer.weight for layer in template.decomposed} == {"head.weight"}
    assert {each.name: each.params for each in found.tensors} == {k: v for k, v in sizes.items() if k != "head.weight"}
    assert found.params == sum(sizes.values()) - sizes["head.weight"]
    assert found.share == found.params / template.params
    assert [each.name for each in found.tensors[:3]] == ["pair.weight", "places", "deep.weight"]
    weight, places, deep = found.tensors[:3]
    assert (weight.read_by, weight.reason, weight.share) == (("bilinear",), "", weight.params / template.params)
    assert places.read_by == ("add",)
    reason = next(layer.reason for layer in template.layers if layer.name == "deep")
    assert (deep.read_by, deep.reason) == (("convolution",), reason) and reason


def test_the_largest_are_named_and_the_rest_is_summed_up(tmp_path: Path) -> None:
    found = uncovered(survey(nets.read(nets.make(Mixed), (6, 8), tmp_path)))
    said = json.loads(json.dumps(found.to_json()))
    assert [each["name"] for each in said["tensors"]] == [each.name for each in found.tensors[:NAMED]]
    assert said["others"]["tensors"] == len(found.tensors) - NAMED > 0
    assert sum(each["params"] for each in said["tensors"]) + said["others"]["params"] == said["params"]
    assert [each["params"] for each in said["tensors"]] == sorted((e["params"] for e in said["tensors"]), reverse=True)


def test_shares_are_of_the_original_also_where_zero_channels_went(tmp_path: Path) -> None:
    described = nets.build(
        nets.source(nets.make(nets.Halved), nets.SHAPES[nets.Halved], tmp_path / "s"), tmp_path / "m"
    )
    rest = described["uncovered"]
    assert rest["share"] == rest["params"] / described["params"]
    layers = sum(layer["params"] for layer in described["layers"] if layer["decomposed"])
    assert rest["params"] + layers == described["eliminated"]["params_after"] < described["params"]


def test_who_reads_a_view_reads_the_tensor() -> None:
    """A table that is turned and sliced before it is multiplied with, applied whole, and handed out in part."""

    def call(name: str, op: str, *given: str) -> Node:
        return Node(name, op, tuple(Ref(each) for each in given), (), (name,))

    nodes = (
        call("turned", "aten.transpose.int", "p_table"),
        call("part", "aten.slice.Tensor", "turned"),
        call("product", "aten.bmm.default", "x", "part"),
        call("words", "aten.embedding.default", "p_table", "x"),
        call("scaled", "aten.mul.Tensor", "product", "p_scale"),
        call("again", "aten.bmm.default", "scaled", "turned"),
    )
    graph = Graph(
        inputs=(Input("x", "float32", (None, 4)),),
        tensors={"p_table": "table", "p_tied": "table", "p_scale": "scale", "p_idle": "idle", "b_mean": "mean"},
        parameters=frozenset({"table", "scale", "idle"}),
        nodes=nodes,
        outputs=("again", "words", "part"),
    )
    shapes = {"table": (5, 4), "scale": (4,), "idle": (100,), "mean": (50,)}
    tensors = {name: TensorSpec("float32", shape) for name, shape in shapes.items()}
    found = uncovered(Template(graph, (), tensors, 24, 0))
    assert [(each.name, each.read_by) for each in found.tensors] == [
        ("table", ("bmm", "embedding", CALLER)),
        ("scale", ("mul",)),
    ]
    assert found.share == 1
