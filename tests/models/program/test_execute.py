from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rightrank.models.program import execute
from rightrank.models.program.graph import Node
from tests.models.nets import SHAPES, Shared, Small, make, read, recurring


@pytest.mark.parametrize("kind", [Small, Shared])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_program_gives_its_modules_outputs_bit_for_bit(kind: type[nn.Module], batch: int, tmp_path: Path) -> None:
    module = make(kind)
    program = read(module, SHAPES[kind], tmp_path)
    x = torch.randn(batch, *SHAPES[kind])
    with torch.no_grad():
        assert torch.equal(execute.run(program.graph, program.tensors, [x])[0], module(x))


def test_shapes_are_those_of_a_real_run(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    graph, tensors = program.graph, program.tensors
    seen: dict[str, tuple[int, ...]] = {}

    def note(node: Node, arguments: list[Any], result: Any) -> Any:
        seen[node.outputs[0]] = tuple(result.shape)
        return result

    execute.run(graph, tensors, [torch.randn(3, *SHAPES[Small])], visit=note)
    shapes = execute.shapes(graph, tensors, batch=3)
    assert seen.items() <= shapes.items()


def test_what_a_visitor_returns_is_what_the_rest_of_the_graph_sees(tmp_path: Path) -> None:
    program, x = read(make(Small), SHAPES[Small], tmp_path), torch.randn(2, *SHAPES[Small])
    zeroed = execute.run(program.graph, program.tensors, [x], visit=lambda node, arguments, result: result * 0)
    assert not zeroed[0].any()


def test_every_value_is_dropped_once_and_outputs_never(tmp_path: Path) -> None:
    graph = read(make(Small), SHAPES[Small], tmp_path).graph
    dropped = [name for names in execute.last_uses(graph).values() for name in names]
    assert len(dropped) == len(set(dropped)) and not set(dropped) & set(graph.outputs)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_shapes_of_a_recurrent_call_are_those_of_all_its_steps(cell: str, batch_first: bool) -> None:
    program = recurring(cell, 2, both=True, batch_first=batch_first)
    found, made = program.shapes, program.run(program.example(2))
    assert [found[name] for name in program.graph.outputs] == [tuple(each.shape) for each in made]
