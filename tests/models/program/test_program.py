from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.program.program import Program
from tests.models.nets import SHAPES, Shared, Small, make, read


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return read(make(Small), SHAPES[Small], tmp_path_factory.mktemp("program"))


def test_a_program_is_the_same_once_saved_and_opened(program: Program, tmp_path: Path) -> None:
    program.save(tmp_path)
    opened = Program.open(tmp_path)
    assert opened.graph == program.graph and opened.tensors.keys() == program.tensors.keys()
    assert not program.differing(opened) and not opened.differing(program)


def test_shapes_are_of_stored_tensors_too_and_of_a_batch_of_two(program: Program) -> None:
    stored = {name: program.shapes[value] for value, name in program.graph.tensors.items()}
    assert stored["wide.weight"] == (24, 16, 1, 5)
    assert program.shapes[program.graph.inputs[0].name] == (2, *SHAPES[Small])
    assert program.shapes[program.graph.outputs[0]] == (2, 10)
    assert [tuple(each.shape) for each in program.example(5)] == [(5, *SHAPES[Small])]


def test_a_visitor_sees_every_call(program: Program) -> None:
    seen: list[str] = []
    program.run(program.example(1), visit=lambda node, arguments, result: (seen.append(node.name), result)[1])
    assert seen == [node.name for node in program.graph.nodes]


def test_what_differs_is_missing_or_other_in_numbers_in_shape_or_in_type(program: Program) -> None:
    tensors = dict(program.tensors)
    del tensors["head.bias"]
    tensors["wide.bias"] = tensors["wide.bias"].double()
    tensors["head.weight"] = tensors["head.weight"] + 1
    tensors["dilated.bias"] = tensors["dilated.bias"].unsqueeze(0)
    tensors["grouped.bias"] = tensors["grouped.bias"].clone()
    other = program.with_tensors({**tensors, "another": torch.zeros(1)})
    assert program.differing(other) == {"head.bias", "wide.bias", "head.weight", "dilated.bias"}
    assert other.graph is program.graph


def test_parameters_are_those_that_are_read(program: Program) -> None:
    assert program.parameters == sum(each.numel() for each in make(Small).parameters())


class Given(nn.Module):
    """A bias that the caller gets, and one that is the input of its own call."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x) + nn.functional.linear(self.two.bias, self.two.weight, self.two.bias), self.one.bias


def test_a_tensor_is_read_once_only_by_one_call_in_one_place_and_by_no_caller(tmp_path: Path) -> None:
    shared = read(make(Shared), SHAPES[Shared], tmp_path)
    assert shared.read_once("head.weight")
    assert not shared.read_once("twice.weight") and not shared.read_once("table")
    given = read(Given().eval(), (8,), tmp_path)
    assert given.read_once("one.weight") and given.read_once("two.weight")
    assert not given.read_once("one.bias") and not given.read_once("two.bias")
    assert not given.read_once("nowhere")


def test_minus_zero_is_another_number_than_zero(program: Program) -> None:
    name = "head.bias"
    zero, minus = torch.zeros(10), -torch.zeros(10)
    one, other = (program.with_tensors({**program.tensors, name: value}) for value in (zero, minus))
    assert one.differing(other) == {name}
    assert not one.differing(one.with_tensors({**one.tensors, name: zero.clone()}))
