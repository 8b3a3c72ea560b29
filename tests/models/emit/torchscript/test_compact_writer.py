"""Files of the second writer: as large as planned, the same numbers as those of the first, and readable everywhere."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from torch import nn

from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import SHAPES, Attending, Halved, Placed, Shared, Small, build, planner, source

Case: TypeAlias = tuple[nn.Module, Path, Planner]
ENCODINGS = ["plain", "half", "int8", "int8-nested", "levels"]


@pytest.fixture(scope="module", params=[Small, Shared, Halved, Attending, Placed])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return planner(request.param, tmp_path_factory.mktemp("compact"), mixed=True)


def emit(folder: Path, plan: Plan) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


def load(data: bytes) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(data))


def some(found: Planner) -> list[Plan]:
    last = len(found) - 1
    return [found._at(count) for count in sorted({0, last // 3, last // 2, max(last - 1, 0), last})]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_has_the_planned_bytes_and_is_a_sound_archive(case: Case, encoding: str) -> None:
    _, folder, _ = case
    found = Planner.open(folder, Output(writer=2, encoding=encoding))
    for plan in some(found):
        data = emit(folder, plan)
        assert len(data) == plan.bytes
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


@torch.no_grad()
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_computes_what_that_of_the_first_writer_does(case: Case, encoding: str) -> None:
    module, folder, _ = case
    found, first = (
        Planner.open(folder, Output(writer=writer, encoding=e)) for writer, e in ((2, encoding), (1, "plain"))
    )
    x = torch.randn(3, *SHAPES[type(module)])
    exact = {plan.ranks: plan for plan in (first._at(count) for count in range(len(first)))}
    close = {"plain": 1e-5, "half": 2e-3, "int8": 5e-2, "int8-nested": 5e-2, "levels": None}[encoding]
    for plan in some(found):
        network = load(emit(folder, plan))
        outputs = network(x)
        frozen = torch.jit.freeze(network.eval())
        assert torch.allclose(frozen(x), outputs, atol=1e-4 * float(outputs.abs().max()) + 1e-6)
        if close is None:
            continue
        wanted = load(emit(folder, exact[plan.ranks]))(x)
        assert float((outputs - wanted).abs().max()) <= close * float(wanted.abs().max()) + 1e-6


def test_the_whole_network_is_the_uploaded_one_bit_for_bit(case: Case) -> None:
    module, folder, _ = case
    x = torch.randn(3, *SHAPES[type(module)])
    plan = Planner.open(folder, Output(writer=2)).plan(budget=1)
    assert plan.original
    with torch.no_grad():
        assert torch.equal(load(emit(folder, plan))(x), module(x))


def test_it_is_smaller_than_the_first_writers(case: Case) -> None:
    _, folder, first = case
    for one, other in zip(some(first), some(Planner.open(folder, Output(writer=2))), strict=True):
        assert one.ranks == other.ranks and other.bytes < one.bytes


@pytest.mark.parametrize("encoding", ["plain", "levels"])
def test_another_process_with_another_zlib_writes_the_same_bytes(case: Case, encoding: str) -> None:
    """Only `crc32` of zlib's has a say in a file: where it cannot compress any more, the bytes are the same."""
    _, folder, _ = case
    plan = Planner.open(folder, Output(writer=2, encoding=encoding)).smallest
    code = (
        "import sys, zlib; zlib.compress = zlib.compressobj = None; from pathlib import Path; "
        "from rightrank.models.emit import formats; from rightrank.models.emit.format import Output; "
        "from rightrank.models.plan.planner import Planner; d = Path(sys.argv[1]); "
        "p = Planner.open(d, Output(writer=2, encoding=sys.argv[2])).smallest; formats.write(d, p, sys.stdout.buffer)"
    )
    command = [sys.executable, "-c", code, str(folder), encoding]
    again = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert again.stdout == emit(folder, plan)


def test_floating_weights_are_parameters_and_levels_are_buffers(case: Case) -> None:
    _, folder, _ = case
    for encoding in ENCODINGS:
        network = load(emit(folder, Planner.open(folder, Output(writer=2, encoding=encoding)).smallest))
        assert all(parameter.is_floating_point() for parameter in network.parameters())
        assert [*network.parameters(), *network.buffers()]
        network.to(torch.device("cpu"))


class Deep(nn.Module):
    """So many layers that the text about them is longer than references reach."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(150))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return self.head(x.mean((2, 3)))


def test_of_a_network_of_many_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Deep().eval()
    build(source(module, (6, 5, 5), tmp_path / "source"), tmp_path / "master", criterion="energy", mixed=True)
    for encoding in ("plain", "levels"):
        found = Planner.open(tmp_path / "master", Output(writer=2, encoding=encoding))
        for plan in (found.smallest, found._at(len(found) // 2), found.largest):
            data = emit(tmp_path / "master", plan)
            assert len(data) == plan.bytes
            load(data)(torch.randn(2, 6, 5, 5))


def test_a_network_that_a_zip_archive_cannot_hold_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rightrank.models.emit.archive.LARGEST", 1000)
    with pytest.raises(UnsupportedCheckpoint, match="1,000 are the most"):
        formats.check(case[2].template, Output(writer=2))
