from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.improve.renorm import Renorm
from rightrank.models.program.abreast import Abreast
from rightrank.models.program.program import Program
from tests.models.nets import SHAPES, Shared, Small, make, read


def relative(original: Program, cut: Program, *batches: Tensor) -> dict[str, Tensor]:
    """Statistics that are relative to the original on the same inputs."""
    found, inputs = Renorm(original), [(each,) for each in batches]
    abreast = Abreast(original, inputs)
    with torch.no_grad():
        for node in original.graph.nodes:
            found.watch(node, abreast.values)
            abreast.step(node)
    return found.of(cut, inputs)


def test_nothing_moves_relatively_where_nothing_was_cut(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    found = relative(program, program, torch.randn(32, *SHAPES[Small]))
    assert set(found) == {"norm.running_mean", "norm.running_var"}
    assert all(torch.allclose(value, program.tensors[name], rtol=1e-5) for name, value in found.items())


def test_recomputed_statistics_are_those_of_the_inputs(tmp_path: Path) -> None:
    module = make(Small)
    program = read(module, SHAPES[Small], tmp_path)
    x = torch.randn(32, *SHAPES[Small])
    found = Renorm(program).of(program, [(x,)], relative=False)
    with torch.no_grad():
        before: Tensor = module.stem(x)  # type: ignore[operator]
    torch.testing.assert_close(found["norm.running_mean"], before.mean((0, 2, 3)))
    torch.testing.assert_close(found["norm.running_var"], before.var((0, 2, 3), correction=0))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5), nn.BatchNorm1d(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_what_a_scaled_layer_did_is_undone_through_all_that_follows(tmp_path: Path) -> None:
    program = read(Two().eval(), (6,), tmp_path)
    x = torch.randn(500, 6)
    tensors = program.tensors
    moved = {"net.0.weight": tensors["net.0.weight"] * 3, "net.0.bias": tensors["net.0.bias"] + 2}
    cut = program.with_tensors({**tensors, **moved})
    renewed = cut.with_tensors({**cut.tensors, **Renorm(program).of(cut, [(x,)], relative=False)})
    exact = program.with_tensors({**tensors, **Renorm(program).of(program, [(x,)], relative=False)})
    torch.testing.assert_close(renewed.run([x])[0], exact.run([x])[0], rtol=1e-3, atol=1e-3)


def test_a_program_without_batch_norm_has_nothing_to_renew(tmp_path: Path) -> None:
    program = read(make(Shared), SHAPES[Shared], tmp_path)
    assert relative(program, program, torch.randn(8, *SHAPES[Shared])) == {}


def test_batches_are_as_one(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    cut = program.with_tensors({name: value * 1.5 for name, value in program.tensors.items()})
    x = torch.randn(37, *SHAPES[Small]) + 3
    one, several = relative(program, cut, x), relative(program, cut, *torch.split(x, 10))
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=1e-5, atol=1e-6)


def test_of_many_batches_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rightrank.models.improve.renorm.BATCHES", 2)
    program = read(make(Small), SHAPES[Small], tmp_path)
    several = torch.split(torch.randn(50, *SHAPES[Small]), 10)
    found, few = relative(program, program, *several), [(several[0],), (several[2],)]
    assert all(torch.allclose(value, program.tensors[name], rtol=1e-5) for name, value in found.items())
    anew = Renorm(program).of(program, [(each,) for each in several], relative=False)
    assert all(
        torch.equal(value, Renorm(program).of(program, few, relative=False)[name]) for name, value in anew.items()
    )


@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_a_channel_that_hardly_varies_on_the_inputs_keeps_its_variance(scale: float, tmp_path: Path) -> None:
    program = read(Two().eval(), (6,), tmp_path)
    tensors, weight = program.tensors, program.tensors["net.0.weight"].clone()
    weight[0] *= scale
    quiet, cut = (program.with_tensors({**tensors, "net.0.weight": each}) for each in (weight, weight * 2))
    found = relative(quiet, cut, torch.randn(64, 6))
    assert found["net.1.running_var"][0] == tensors["net.1.running_var"][0]
    torch.testing.assert_close(found["net.1.running_var"][1:], 4 * tensors["net.1.running_var"][1:])


class Again(nn.Module):
    """A batch norm that is called twice, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two, self.last = (
            nn.Linear(6, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 6),
            nn.BatchNorm1d(6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.two(self.norm(self.one(x)))))


def test_a_batch_norm_that_is_called_twice_stays(tmp_path: Path) -> None:
    program = read(Again().eval(), (6,), tmp_path)
    found = Renorm(program).of(program, [(torch.randn(64, 6),)], relative=False)
    assert set(found) == {"last.running_mean", "last.running_var"}
