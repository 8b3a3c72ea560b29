from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.checkpoint import read
from rightrank.models.checkpoint.regions import flat
from rightrank.models.errors import MalformedCheckpoint, RightRankError, UnsafeCheckpoint, UnsupportedCheckpoint
from tests.hostile import corpus

AUTOCAST = "torch.ops.higher_order.wrap_with_autocast"
GRADIENTS = "torch.ops.higher_order.wrap_with_set_grad_enabled"


class Net(nn.Module):
    def __init__(self, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.outer, self.call = nn.Linear(4, 8), nn.Linear(8, 2), call

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.call(self, self.inner(x)))


def rotated(net: Net, y: Tensor) -> Tensor:
    """As language models turn their places: in single precision, whatever is around it."""
    with torch.autocast("cpu", enabled=False):
        turned = (y.float() @ net.inner.weight.float()) @ net.inner.weight.mT
        cos, sin = turned.cos(), turned.sin() * y.shape[0]
    with torch.no_grad():
        again = cos * 2
    return cos + sin + again


def nested(net: Net, y: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        a = y.sin()
        with torch.no_grad():
            b = a.cos()
            with torch.autocast("cpu", enabled=False):
                c = b * 2 + a
        d = a
    return a + b + c + d


def changed(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        y = y * 1
        y.add_(1)
    return y


def passed_through(net: Net, y: Tensor) -> Tensor:
    with torch.no_grad():
        first, (left, right) = y, y.chunk(2, 1)
        double = left * (y.shape[0] * 2)
    return first + torch.cat([double, right], 1)


@pytest.mark.parametrize("call", [rotated, nested, changed, passed_through])
def test_a_region_that_changes_nothing_is_read_where_it_stands(
    call: Callable[[Any, Tensor], Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net, batch = Net(call).eval().requires_grad_(False), torch.export.Dim("batch", min=1)
    program = torch.export.export(net, (torch.randn(3, 4),), dynamic_shapes=({0: batch},))
    assert "wrap_with" in program.graph_module.code
    torch.export.save(program, tmp_path / "m.pt2")
    found = read(tmp_path / "m.pt2")
    for count in (1, 5, 64):
        x = torch.randn(count, 4)
        with torch.no_grad():
            assert torch.equal(found.run([x])[0], net(x))


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def call(op: str, output: str, *given: Any) -> dict[str, Any]:
    inputs = [{"name": "self", "arg": each} for each in given]
    return {"target": f"torch.ops.aten.{op}.default", "inputs": inputs, "outputs": [tensor(output)]}


def graph(*nodes: Any, given: tuple[str, ...] = ("a",), results: tuple[str, ...] = ("b",)) -> dict[str, Any]:
    return {"inputs": [*map(tensor, given)], "outputs": [*map(tensor, results)], "nodes": [*nodes]}


def region(inner: Any, *given: Any, on: Any = None, op: str = GRADIENTS, results: tuple[str, ...] = ("y",)) -> Any:
    on = {"as_bool": False} if on is None else on
    head = [on] if op == GRADIENTS else [{"as_string": "cpu"}, {"as_none": True}, on, {"as_none": True}]
    arguments = [*head, {"as_graph": {"name": "g", "graph": inner}}, *given]
    inputs = [{"name": "", "arg": each} for each in arguments]
    return {"target": op, "inputs": inputs, "outputs": [*map(tensor, results)]}


SIN = call("sin", "b", tensor("a"))


def test_values_of_a_region_get_names_that_nobody_has() -> None:
    """A region's own names are its own: `x` in it is not the program's, nor is `inner_1`."""
    inside = graph(call("sin", "x", tensor("a")), call("cos", "b", tensor("x")))
    inside["tensor_values"] = {"x": {"dtype": 1}, "b": {"dtype": 2}, "a": {"dtype": 3}}
    outer = graph(call("neg", "inner_1", tensor("x")), region(inside, tensor("inner_1")), given=("x",), results=("y",))
    found = flat({**outer, "tensor_values": {"x": {"dtype": 7}}})
    assert [(each["target"].split(".")[3], each["inputs"][0]["arg"], each["outputs"]) for each in found["nodes"]] == [
        ("neg", tensor("x"), [tensor("inner_1")]),
        ("sin", tensor("inner_1"), [tensor("inner_2")]),
        ("cos", tensor("inner_2"), [tensor("y")]),
    ]
    assert found["tensor_values"] == {
        "x": {"dtype": 7},
        "inner_2": {"dtype": 1},
        "y": {"dtype": 2},
        "inner_3": {"dtype": 3},
    }


def deep(levels: int) -> Any:
    inner = graph(SIN)
    for _ in range(levels):
        inner = graph(region(inner, tensor("a"), results=("b",)))
    return inner


HOSTILE: dict[str, tuple[Any, type[RightRankError]]] = {
    "an autocast that is on": (
        region(graph(SIN), tensor("x"), op=AUTOCAST, on={"as_bool": True}),
        UnsupportedCheckpoint,
    ),
    "an autocast that does not say": (
        region(graph(SIN), tensor("x"), op=AUTOCAST, on={"as_none": True}),
        MalformedCheckpoint,
    ),
    "more than it takes": (region(graph(SIN), tensor("x"), tensor("x")), MalformedCheckpoint),
    "less than it gives": (region(graph(SIN), tensor("x"), results=("y", "z")), MalformedCheckpoint),
    "another kind": (region(graph(SIN), {"as_sym_int": {"as_name": "x"}}), MalformedCheckpoint),
    "a number": (region(graph(SIN), {"as_int": 1}), UnsupportedCheckpoint),
    "a value from outside": (region(graph(call("sin", "b", tensor("x"))), tensor("x")), MalformedCheckpoint),
    "a result that is not there": (region(graph(SIN, results=("c",)), tensor("x")), MalformedCheckpoint),
    "its input made again": (region(graph(call("sin", "a", tensor("a"))), tensor("x")), MalformedCheckpoint),
    "no graph": ({**region(graph(SIN)), "inputs": []}, MalformedCheckpoint),
    "a graph that is none": (region({"as_int": 1}, tensor("x")), MalformedCheckpoint),
    "regions without end": (region(deep(40), tensor("x")), UnsafeCheckpoint),
    "another graph": (region(graph(SIN), tensor("x"), op="torch.ops.higher_order.cond"), UnsupportedCheckpoint),
    "an object": (
        region({**graph(SIN), "custom_obj_values": {"o": {"name": "o", "class_fqn": "c"}}}, tensor("x")),
        UnsafeCheckpoint,
    ),
    "code for a size": (
        region(
            {**graph(SIN), "sym_int_values": {"n": {"as_expr": {"expr_str": "__import__('os')", "hint": None}}}},
            tensor("x"),
        ),
        UnsafeCheckpoint,
    ),
    "an operator that is not run": (
        region(graph(call("from_file", "b", tensor("a"))), tensor("x")),
        UnsupportedCheckpoint,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_region_that_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    node, error = HOSTILE[name]

    def edit(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"].append(node)

    (tmp_path / "m.pt2").write_bytes(corpus.edited(corpus.entries(corpus.honest()), corpus.GRAPH, edit))
    with pytest.raises(RightRankError) as refused:
        read(tmp_path / "m.pt2")
    assert type(refused.value) is error, refused.value
