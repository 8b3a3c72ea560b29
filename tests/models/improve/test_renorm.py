from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.improve.renorm import renorm
from tests.models.nets import SHAPES, Shared, Small, make, read


def test_nothing_moves_relatively_where_nothing_was_cut(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    found = renorm(program, program, (torch.randn(32, *SHAPES[Small]),))
    assert set(found) == {"norm.running_mean", "norm.running_var"}
    assert all(torch.allclose(value, program.tensors[name], rtol=1e-5) for name, value in found.items())


def test_recomputed_statistics_are_those_of_the_inputs(tmp_path: Path) -> None:
    module = make(Small)
    program = read(module, SHAPES[Small], tmp_path)
    x = torch.randn(32, *SHAPES[Small])
    found = renorm(program, program, (x,), relative=False)
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
    renewed = cut.with_tensors({**cut.tensors, **renorm(program, cut, (x,), relative=False)})
    exact = program.with_tensors({**tensors, **renorm(program, program, (x,), relative=False)})
    torch.testing.assert_close(renewed.run([x])[0], exact.run([x])[0], rtol=1e-3, atol=1e-3)


def test_a_program_without_batch_norm_has_nothing_to_renew(tmp_path: Path) -> None:
    program = read(make(Shared), SHAPES[Shared], tmp_path)
    assert renorm(program, program, (torch.randn(8, *SHAPES[Shared]),)) == {}


@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_a_channel_that_hardly_varies_on_the_inputs_keeps_its_variance(scale: float, tmp_path: Path) -> None:
    program = read(Two().eval(), (6,), tmp_path)
    tensors, weight = program.tensors, program.tensors["net.0.weight"].clone()
    weight[0] *= scale
    quiet, cut = (program.with_tensors({**tensors, "net.0.weight": each}) for each in (weight, weight * 2))
    found = renorm(quiet, cut, (torch.randn(64, 6),))
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
    found = renorm(program, program, (torch.randn(64, 6),), relative=False)
    assert set(found) == {"last.running_mean", "last.running_var"}
