from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rightrank.models.checkpoint import read
from rightrank.models.program.points import OTHER, USUAL
from rightrank.models.program.program import Program
from tests.models.nets import encoder


def exported(module: nn.Module, example: Tensor, free: dict[int, object], folder: Path) -> Program:
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=(free,)), folder / "a.pt2")
    return read(folder / "a.pt2")


def test_each_free_size_is_once_another_than_usual_and_those_of_one_name_together(tmp_path: Path) -> None:
    _, program = encoder(tmp_path)
    found = program.points
    assert found is not None
    (batch, counts), (_, lengths) = found.symbols.items()
    assert (counts, lengths) == ((USUAL, OTHER, USUAL), (6, 6, 13))
    assert [[each.shape for each in given] for given in found.given] == [[(2, 6)] * 2, [(1009, 6)] * 2, [(2, 13)] * 2]
    assert batch == program.graph.inputs[0].symbols[0]


def test_a_fixed_batch_is_one_point(tmp_path: Path) -> None:
    found = exported(nn.Linear(3, 2), torch.zeros(4, 3), {}, tmp_path).points
    assert found is not None and not found.symbols and len(found.tensors) == 1


class Placed(nn.Module):
    """Up to eight places."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.places[: x.shape[1]]


def test_sizes_stay_within_what_the_program_takes(tmp_path: Path) -> None:
    free: dict[int, object] = {0: torch.export.Dim("batch", max=16), 1: torch.export.Dim("length", min=2, max=8)}
    program = exported(Placed(), torch.zeros(2, 8, 4), free, tmp_path)
    found = program.points
    assert found is not None
    (_, counts), (_, lengths) = found.symbols.items()
    assert max(counts) <= 16 and max(lengths) <= 8
    assert len({*counts}) == len({*lengths}) == 2
