from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rightrank.models.emit import formats
from rightrank.models.errors import UnreadableMaster
from rightrank.models.factor.factors import by_basis
from rightrank.models.factor.layer import Layer
from rightrank.models.master import entries
from rightrank.models.master.master import Master
from rightrank.models.plan.planner import Planner
from tests.models.nets import SHAPES, Separable, Small, build, make, planner, source


class Square(nn.Module):
    """A layer with as many inputs as outputs, and so as many bases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def restore(folder: Path, keep: Callable[[Layer, str, Tensor], Tensor]) -> None:
    """Rewrites a master as one that names no format, each factor as `keep` has it."""
    template, stored = Master.open(folder).template, load_file(folder / entries.MASTER)
    for layer in template.decomposed:
        for side in layer.form.sides:
            name = entries.factor(side, layer.name)
            stored[name] = keep(layer, side, stored[name]).contiguous()
    save_file(stored, folder / entries.MASTER)
    data = json.loads((folder / entries.TEMPLATE).read_text())
    del data["format"]
    (folder / entries.TEMPLATE).write_text(json.dumps(data))


def unnamed(layer: Layer, side: str, factor: Tensor) -> Tensor:
    """(R, m), and (C_out, R, n/C_out)."""
    return factor.flatten(1) if side == "down" else factor.flatten(2) if factor.ndim > 2 else factor.unsqueeze(2)


def emitted(folder: Path) -> list[bytes]:
    found, written = Planner.open(folder), []
    for share in (0.5, 0.8, 1.0):
        file = io.BytesIO()
        formats.write(folder, found.plan(max_params=int(share * found.template.params)), file)
        written.append(file.getvalue())
    return written


@pytest.mark.parametrize("kind", [Small, Separable])
def test_a_master_that_names_no_format_is_cut_as_one_that_does(kind: type[nn.Module], tmp_path: Path) -> None:
    _, folder, _ = planner(kind, tmp_path, "energy")
    expected, tensors = emitted(folder), Master.open(folder).program().tensors
    restore(folder, unnamed)
    assert emitted(folder) == expected
    assert all(torch.equal(each, tensors[name]) for name, each in Master.open(folder).program().tensors.items())


def test_factors_of_an_even_earlier_version_are_refused_in_words(tmp_path: Path) -> None:
    """Two dimensions, (R, n), for the last one; also where a square layer makes that as long both ways."""
    build(source(make(Square), (8,), tmp_path / "source"), tmp_path / "master")
    square = Master.open(tmp_path / "master").template.decomposed[0]
    assert square.rank == square.n == square.outputs
    restore(tmp_path / "master", by_basis)
    master = Master.open(tmp_path / "master")
    for use in (lambda: master.file, master.tensors, master.program, lambda: emitted(tmp_path / "master")):
        with pytest.raises(UnreadableMaster, match="factors of first .* delete the model and upload it again"):
            use()


def test_a_factor_that_is_not_there_is_missed_in_words(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path)
    stored = load_file(folder / entries.MASTER)
    del stored["up/wide"]
    save_file(stored, folder / entries.MASTER)
    with pytest.raises(UnreadableMaster, match="factors of wide"):
        _ = Master.open(folder).file


def test_the_whole_program_of_a_master_computes_what_the_module_does(tmp_path: Path) -> None:
    module, folder, _ = planner(Small, tmp_path)
    x = torch.randn(3, *SHAPES[Small])
    with torch.no_grad():
        assert torch.equal(Master.open(folder).program().run([x])[0], module(x))


def test_what_is_opened_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path)
    (folder / entries.MASTER).unlink()
    master = Master.open(folder)
    with pytest.raises(FileNotFoundError):
        _ = master.file
