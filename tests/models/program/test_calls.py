from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rightrank.models.program.calls import BATCH_NORM, CONVOLUTION, LINEAR, BatchNorm, Convolution, Linear, layer_call
from rightrank.models.program.graph import Node, Ref
from tests.models.nets import SHAPES, Small, make, read


class Terse(nn.Module):
    """A convolution called as the operator, with one number for both dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.convolution.default(x, self.weight, None, [1], [1], [1], False, [0], 1)


def test_one_number_for_all_dimensions_is_a_geometry_too(tmp_path: Path) -> None:
    program = read(Terse().eval(), (4, 9, 9), tmp_path)
    (node,) = (node for node in program.graph.nodes if node.op == CONVOLUTION)
    assert Convolution.of(node).geometry == ((1, 1), (1, 1), (1, 1))
    x = torch.randn(2, 4, 9, 9)
    wanted = torch.conv2d(x, program.tensors["weight"], None, 1, 1)
    assert torch.equal(program.run([x])[0], wanted)


def test_the_calls_of_a_program_that_was_read_have_their_arguments_by_name(tmp_path: Path) -> None:
    graph = read(make(Small), SHAPES[Small], tmp_path).graph
    convolutions = [Convolution.of(node) for node in graph.nodes if node.op == CONVOLUTION]
    assert [graph.stored(each.bias) for each in convolutions] == [None, "wide.bias", "grouped.bias", "dilated.bias"]
    assert convolutions[1].geometry == ((2, 1), (0, 2), (1, 1)) and convolutions[3].dilation == (2, 2)
    assert [each.groups for each in convolutions] == [1, 1, 4, 1] and not any(each.transposed for each in convolutions)
    (norm,) = (node for node in graph.nodes if node.op == BATCH_NORM)
    call = BatchNorm.of(norm)
    assert graph.stored(call.running_var) == "norm.running_var" and (call.training, call.eps) == (False, 1e-5)
    assert call.args == norm.args


def test_only_convolutions_and_linear_calls_are_those_of_layers() -> None:
    linear = Node("y", LINEAR, (Ref("x"), Ref("w")), (), ("y",))
    assert layer_call(linear) == Linear(Ref("x"), Ref("w"), None)
    assert layer_call(Node("y", "aten.relu.default", (Ref("x"),), (), ("y",))) is None
    assert layer_call(Node("y", BATCH_NORM, (), (), ("y",))) is None
