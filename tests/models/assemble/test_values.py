from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rightrank.models.assemble.build import build
from rightrank.models.assemble.values import values
from rightrank.models.checkpoint import read
from rightrank.models.master.template import Template
from rightrank.models.master.values import RANK, Values
from rightrank.models.program.program import Program
from tests.models.nets import Small, encoder, planner


def described(module: nn.Module, example: Tensor, free: tuple[int, ...], path: Path) -> tuple[Program, Values]:
    shapes = (dict.fromkeys(free, torch.export.Dim.AUTO),)
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=shapes), path / "a.pt2")
    program = read(path / "a.pt2")
    found = values(program, ())
    assert found is not None
    return program, found


def test_sizes_between_factors_are_told_by_the_rank(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path)
    template = Template.open(folder)
    assert template.values is not None
    inner = {name: value.shape for name, value in template.values.tensors.items() if name.startswith("inside ")}
    assert len(inner) >= 4 and all(any(RANK in (size, *_parts(size)) for size in shape) for shape in inner.values())
    batch, *_ = template.values.symbols
    assert any(shape[:2] == (batch, RANK) for shape in inner.values())
    assert any(shape[0] == ("Mul", 4, RANK) for shape in inner.values())  # the kernels of four groups


def _parts(size: object) -> tuple[object, ...]:
    return size if isinstance(size, tuple) else ()


def test_they_come_back_from_a_template_as_they_were(tmp_path: Path) -> None:
    _, program = encoder(tmp_path)
    build(program, tmp_path / "master", mixed=False)
    template = Template.open(tmp_path / "master")
    assert template.values is not None and Values.from_json(template.values.to_json()) == template.values
    assert [*template.values.symbols.values()] == [2, 6]


class Folded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made = x.reshape(x.shape[0] * x.shape[1], 4)
        return torch.cat([made.view(x.shape[0], x.shape[1], 4), x[:, :1]], 1)


def test_products_of_free_sizes_and_what_is_more_by_a_number_are_written_so(tmp_path: Path) -> None:
    program, found = described(Folded(), torch.randn(3, 5, 4), (0, 1), tmp_path)
    batch, length = found.symbols
    shapes = [value.shape for value in found.tensors.values()]
    assert (("Mul", batch, length), 4) in shapes
    assert found.tensors[program.graph.outputs[0]].shape == (batch, ("Add", 1, length), 4)
    assert not found.unknown


class Halving(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2] + 1


def test_arithmetic_on_sizes_is_written_as_itself(tmp_path: Path) -> None:
    program, found = described(Halving(), torch.randn(3, 8), (0, 1), tmp_path)
    batch, length = found.symbols
    assert found.tensors[program.graph.outputs[0]].shape == (batch, ("FloorDiv", length, 2))
    assert ("int", ("FloorDiv", length, 2)) in found.numbers.values()


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 3, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x))


def test_a_size_that_only_running_tells_has_a_name_and_the_same_ones_the_same(tmp_path: Path) -> None:
    program, found = described(Strided(), torch.randn(3, 2, 9), (0, 2), tmp_path)
    assert found.unknown == ("u0",)
    assert {value.shape[-1] for name, value in found.tensors.items() if "." not in name} == {"u0"}


def test_strides_are_told_where_numbers_do_not_lie_in_order(tmp_path: Path) -> None:
    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2)

    program, found = described(Turned(), torch.randn(3, 5, 4), (0,), tmp_path)
    made = found.tensors[program.graph.outputs[0]]
    assert (made.shape[1:], made.strides) == ((4, 5), (20, 1, 4))
