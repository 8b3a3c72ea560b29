from __future__ import annotations

import json
from pathlib import Path

from rightrank.models.program.graph import Constant, Graph, Input, Node, Ref, substitute
from tests.models.nets import SHAPES, Small, make, read

NODE = Node(
    "cat",
    "aten.cat.default",
    ((Ref("a"), (Ref("b"), 2), None), float("-inf"), 1e-5),
    (("dtype", Constant("dtype", "float32")),),
    ("cat",),
)


def test_a_graph_survives_json_whatever_its_arguments() -> None:
    graph = Graph((Input("a", "float32", (None, 3)),), {"b": "w"}, frozenset({"w"}), (NODE,), ("cat",))
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


def test_a_real_graph_survives_json(tmp_path: Path) -> None:
    graph = read(make(Small), SHAPES[Small], tmp_path).graph
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph


def test_the_batch_is_that_of_the_first_input_and_none_where_any_will_do() -> None:
    for shape, batch in (((None, 3), None), ((2, 3), 2), ((), None)):
        assert Graph((Input("a", "float32", shape),), {}, frozenset(), (), ()).batch == batch


def test_references_are_found_inside_lists_and_keywords() -> None:
    node = Node("n", "aten.x.y", ((Ref("a"), (Ref("b"),)),), (("k", Ref("c")),), ("n",))
    assert list(node.inputs()) == ["a", "b", "c"]


def test_substitution_reaches_into_lists_and_leaves_the_rest() -> None:
    assert substitute((Ref("a"), (Ref("b"), 1)), {"b": "z"}) == (Ref("a"), (Ref("z"), 1))


def test_values_that_no_input_reaches_do_not_vary() -> None:
    ranged = Node("r", "aten.arange.default", (5,), (), ("r",))
    looked = Node("e", "aten.embedding.default", (Ref("w"), Ref("r")), (), ("e",))
    summed = Node("s", "aten.add.Tensor", (Ref("x"), Ref("e")), (), ("s", ""))
    inputs = (Input("x", "float32", (None, 5, 3)),)
    graph = Graph(inputs, {"w": "table"}, frozenset({"table"}), (ranged, looked, summed), ("s",))
    assert graph.varying == {"x", "s"}
