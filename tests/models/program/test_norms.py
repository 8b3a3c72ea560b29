from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rightrank.models.program import norms
from rightrank.models.program.calls import BATCH_NORM, BatchNorm
from rightrank.models.program.graph import Node, Ref
from tests.models.nets import SHAPES, Small, make, read


def test_a_batch_norm_of_a_program_names_its_tensors(tmp_path: Path) -> None:
    graph = read(make(Small), SHAPES[Small], tmp_path).graph
    ((node, norm),) = norms.norms(graph)
    assert norm == norms.Norm("norm.running_mean", "norm.running_var", "norm.weight", "norm.bias", 1e-5)
    assert norms.statistics_of(graph, node) == ("norm.running_mean", "norm.running_var")
    others = [each for each in graph.nodes if each is not node]
    assert all(norms.norm_of(graph, each) is norms.statistics_of(graph, each) is None for each in others)


class Plain(nn.Module):
    """One that has no scale of its own, and one that stores no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.BatchNorm1d(8, affine=False), nn.BatchNorm1d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


def test_one_without_scale_is_a_norm_and_one_without_statistics_is_none(tmp_path: Path) -> None:
    graph = read(Plain().eval(), (8,), tmp_path).graph
    one, two = (node for node in graph.nodes if node.op == BATCH_NORM)
    assert norms.norm_of(graph, one) == norms.Norm("one.running_mean", "one.running_var", None, None, 1e-5)
    assert norms.norm_of(graph, two) is norms.statistics_of(graph, two) is None


def test_one_whose_scale_is_computed_is_no_norm_but_its_statistics_are_stored(tmp_path: Path) -> None:
    graph = read(make(Small), SHAPES[Small], tmp_path).graph
    ((node, _),) = norms.norms(graph)
    computed: Node = replace(node, args=replace(BatchNorm.of(node), weight=Ref("somewhere")).args)
    assert norms.norm_of(graph, computed) is None and norms.statistics_of(graph, computed) is not None


def test_the_moments_of_values_are_those_of_their_channels() -> None:
    values = torch.randn(5, 3, 4, 6) * 3 + 1
    mean, variance = norms.moments(values)
    torch.testing.assert_close(mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(variance, values.var((0, 2, 3), correction=0))
