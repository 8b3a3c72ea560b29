"""Networks with numbers that half precision does not hold, or not as precisely as is wanted."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.improve.mixed import improve_mixed
from rightrank.models.improve.refit import INPUTS
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Planner
from rightrank.models.progress import silent
from tests.models.nets import build, source

MIXED, SHAPE = Output(writer=2, encoding="levels"), (3, 8, 8)


class Scaled(nn.Module):
    """The same network at any `scale` of its first layer, which the next one takes back; its outputs, of unit size, are
    so many times that around a `centre`."""

    def __init__(self, normed: bool, scale: float = 1.0, times: float = 1.0, centre: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24) if normed else nn.Identity()
        self.head = nn.Linear(24, 6)
        with torch.no_grad():
            self.first.weight *= scale
            self.first.bias *= scale
            self.second.weight /= scale
            self.head.weight *= 10 * times
            self.head.bias *= times
            self.head.bias += centre

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.second(torch.relu(self.first(x)))))
        return self.head(x.mean((2, 3)))


def errors(folder: Path, normed: bool, improve: bool = False, **options: float) -> tuple[frozenset[str], list[float]]:
    """What is wide, and how far the outputs of the largest file and of a small one are from the network's, as a share
    of how they vary."""
    torch.manual_seed(0)
    module, data = Scaled(normed, **options).eval(), torch.randn(256, *SHAPE)
    build(source(module, SHAPE, folder / "source", data[:128]), folder / "master", mixed=True, keep=INPUTS)
    planner = Planner.open(folder / "master", MIXED)
    with torch.no_grad():
        wanted = module(data[128:])
    found = []
    for plan in (planner.largest, planner.plan(0.3)):
        changes, file = folder / "changes", io.BytesIO()
        if improve:
            improve_mixed(folder / "master", plan, changes, silent, False)
        formats.write(folder / "master", plan, file, changes if improve else None)
        assert len(file.getvalue()) == plan.bytes
        file.seek(0)
        with torch.no_grad():
            made = torch.jit.load(file)(data[128:])
        found.append(float((made - wanted).norm() / (wanted - wanted.mean(0)).norm()))
    return Template.open(folder / "master").wide, found


@pytest.mark.parametrize(("normed", "improve"), [(False, False), (True, False), (False, True)])
def test_a_file_is_as_near_whatever_a_network_is_scaled_by(tmp_path: Path, normed: bool, improve: bool) -> None:
    wide, wanted = errors(tmp_path / "one", normed, improve)
    assert not wide and wanted[0] < 0.05
    cases: list[dict[str, float]] = [
        {"scale": 1e5},
        {"scale": 1e-8},
        {"times": 1e5, "centre": 3e5},
        {"times": 10, "centre": 7e4},
        {"centre": 1e3},
    ]
    for number, case in enumerate(cases):
        wide, found = errors(tmp_path / str(number), normed, improve, **case)
        assert wide, case
        # A small file has a little less room for levels.
        assert found[0] < 1.2 * wanted[0] and found[1] < 3 * wanted[1], case


def test_it_is_said_in_the_template_and_no_vector_of_eight_bits_is_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rightrank.models.assemble.levels.MANY", 1)
    monkeypatch.setattr("rightrank.models.assemble.levels.MUCH", 0.0)
    wide, _ = errors(tmp_path, False, times=1e5)
    template = Template.open(tmp_path / "master")
    assert wide == {"head.weight", "head.bias"} == Template.from_json(template.to_json()).wide
    assert template.vectors == {"first.bias", "second.bias"}
