from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.program.samples import Samples
from rightrank.models.quantise.seen import BATCH, seen
from tests.models import nets


class Root(nn.Module):
    """A root, which is no number of what is below zero, and a sum."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sqrt(), x + 1


@pytest.mark.parametrize("at", [0, BATCH, 2 * BATCH + 1])
def test_a_value_that_is_no_number_once_is_none_of_those_that_are_seen(at: int, tmp_path: Path) -> None:
    program = nets.read(Root(), (4,), tmp_path)
    inputs = torch.rand(3 * BATCH, 4)
    inputs[at, 2] = -0.5
    found = seen(program, Samples.of(inputs), [], shares={})
    root, total = program.graph.outputs
    assert root not in found.values
    assert found.values[total] == (0.0, pytest.approx(1 + float(inputs.max())))
    assert found.values[program.graph.inputs[0].name] == (-0.5, pytest.approx(float(inputs.max())))
