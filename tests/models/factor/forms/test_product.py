from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rightrank.models.assemble.survey import survey
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.simplify.recurrent import apart
from tests.models.nets import recurring


def layers_of(program: Program) -> dict[str, Layer]:
    return {layer.name: layer for layer in survey(program).layers}


def test_the_weights_of_a_recurrent_call_are_layers_each_in_the_form_of_its_place() -> None:
    found = layers_of(apart(recurring("lstm", projection=6)))
    assert all(layer.decomposed for layer in found.values())
    forms = {"0.0": ["channel"], "0.1": ["product"], "0.4": ["product"]}
    assert {name: [*layer.suits] for name, layer in found.items()} == forms
    assert {layer.kind for layer in found.values()} == {"recurrent"}


def test_factors_inside_a_call_save_no_multiplications_and_take_some_to_be_multiplied_out() -> None:
    steps, found = 7, layers_of(apart(recurring("gru")))
    inputs, hidden = found["0.0"], found["0.1"]
    assert (inputs.macs, hidden.macs) == (48 * 9 * steps, 48 * 16 * steps)
    ranks = range(1, 4)
    assert inputs.macs_by_rank[:3].tolist() == [(48 + 9) * rank * steps for rank in ranks]
    assert hidden.macs_by_rank[:3].tolist() == [48 * 16 * (steps + rank) for rank in ranks]
    assert hidden.params_by_rank[:3].tolist() == [(48 + 16) * rank for rank in ranks]


def test_without_single_calls_the_weights_are_no_layers() -> None:
    assert layers_of(recurring("lstm", 2)) == {}


def test_a_weight_that_two_calls_are_handed_is_one_layer_and_one_that_others_read_stays_whole() -> None:
    program = recurring("gru")
    *others, call = program.graph.nodes
    again = replace(call, name="again", outputs=("again", "end"), args=(Ref("made_"), *call.args[1:]))
    narrow = Node("made_", "aten.slice.Tensor", (Ref("made"), 2, 0, 9), (), ("made_",))
    graph = program.graph.replace(nodes=(*others, call, narrow, again), outputs=("again",))
    both = layers_of(apart(Program(graph, program.tensors)))
    assert [len(layer.calls) for layer in both.values()] == [2, 2] and all(x.decomposed for x in both.values())
    assert both["0.1"].macs_by_rank[0] == 2 * 48 * 16 * (7 + 1)
    read = Node("read", "aten.sum.default", (Ref("0.1"),), (), ("read",))
    graph = program.graph.replace(nodes=(*program.graph.nodes, read), outputs=("made", "read"))
    layer = layers_of(apart(Program(graph, program.tensors)))["0.1"]
    assert not layer.decomposed and "also read by" in layer.reason


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_the_factored_calls_do_what_the_products_do_and_all_bases_are_the_weight(cell: str) -> None:
    torch.manual_seed(0)
    program = apart(recurring(cell, projection=6 * (cell == "lstm")))
    layers = {layer.calls[0]: layer for layer in survey(program).layers}
    x = [torch.randn(3, 7, 9)]
    for rank in (2, 1000):
        factors, products = {}, {}
        for layer in layers.values():
            kept = layer.form.factors(layer, program.tensors[layer.weight], None).keep(layer, min(rank, layer.rank))
            factors |= {factor_value(layer, side).name: each for side, each in kept.items()}
            products[layer.weight] = layer.form.product(layer, kept)
        nodes: list[Node] = []
        for node in program.graph.nodes:
            nodes += layers[node.name].form.calls(layers[node.name], node) if node.name in layers else (node,)
        graph = program.graph.replace(
            nodes=tuple(nodes), tensors=program.graph.tensors | {name: name for name in factors}
        )
        found = Program(graph, {**program.tensors, **factors}).run(x)
        whole = Program(program.graph, {**program.tensors, **products}).run(x)
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    for name, each in products.items():
        torch.testing.assert_close(each, program.tensors[name], rtol=1e-4, atol=1e-5)
