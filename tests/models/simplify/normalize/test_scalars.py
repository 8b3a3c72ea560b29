from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble.build import build
from rightrank.models.emit import formats
from rightrank.models.plan.planner import Planner
from tests.models.nets import read

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "where": lambda x: (~torch.where(x > 0, x < 1, False)).float(),
    "where of two": lambda x: (~torch.where(x > 0, True, False)).float(),
    "where of another kind": lambda x: torch.where(x > 0, 1.5, True),
    "and": lambda x: (~((x > 0) & True)).float(),
    "or, turned": lambda x: (~(True | (x > 0))).float(),
    "xor": lambda x: (~((x > 0) ^ True)).float(),
    "and in place": lambda x: (~(x > 0).__iand__(True)).float(),
    "sum": lambda x: (~((x > 0) + True)).float(),
    "full": lambda x: torch.full((8, 8), True).tril().any(0) * x,
    "truth of a size": lambda x: (~((x > 0) & (x.shape[0] > 1))).float(),
    "truths of a size": lambda x: x * ((x.shape[0] > 1) & (x.shape[0] < 5)),
    "either of a size": lambda x: x * ((x.shape[0] > 9) | (x.shape[0] < 2)),
    "a size as it is": lambda x: x * +x.shape[0],
    "number by tensor": lambda x: 3 // x,
    "fraction by tensor": lambda x: 3.7 // x,
    "fraction of tensor": lambda x: torch.div(0.1, x),
    "fraction of a fine tensor": lambda x: torch.div(0.1, x.double()).float(),
    "number by whole numbers": lambda x: (7 // (x * 8).int().clamp(1, 6)).float(),
}


class Made(nn.Module):
    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.make = nn.Linear(8, 8), make

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.make(x)


@pytest.mark.parametrize("name", CASES)
def test_numbers_mean_in_the_file_what_they_mean_in_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Made(CASES[name]).eval()
    program = read(module, (8,), tmp_path)
    build(program, tmp_path / "master")
    with open(tmp_path / "file.pt", "wb") as file:
        formats.write(tmp_path / "master", Planner.open(tmp_path / "master").plan(1.0), file)
    written = torch.jit.load(str(tmp_path / "file.pt"))
    for batch in (1, 3, 6):
        x = torch.randn(batch, 8)
        with torch.no_grad():
            expected = module(x)
            assert torch.equal(program.run([x])[0], expected)
            assert torch.equal(written(x), expected)
