"""Eight bits that nest: rounded once, whatever the rank, and copied."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rightrank.models.emit import formats, rounded
from rightrank.models.emit.encoding.int8 import Int8
from rightrank.models.emit.format import Output
from rightrank.models.errors import PrecisionError
from rightrank.models.master import entries
from rightrank.models.master.master import Master
from rightrank.models.master.rounded import ROUNDED, Rounded, there
from rightrank.models.plan.planner import Plan, Planner
from tests.golden.arithmetic import write
from tests.golden.test_second import MASTERS
from tests.models.nets import SHAPES, Halved, Separable, Shared, Small, planner

NESTED = Output(writer=2, encoding="int8-nested")


def emit(folder: Path, plan: Plan) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


@pytest.mark.parametrize("kind", [Small, Shared, Halved, Separable])
def test_what_is_copied_is_what_would_be_rounded_now(
    kind: type[torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As large tensors have, each has a record of its own.
    monkeypatch.setattr("rightrank.models.emit.torchscript.compact.LARGE", 16)
    _, folder, _ = planner(kind, tmp_path, "energy", mixed=True)
    found = Planner.open(folder, NESTED)
    plans = [found.smallest, found.plan(max_params=int(0.7 * found.template.params)), found.largest]
    copied = [emit(folder, plan) for plan in plans]
    (folder / ROUNDED).unlink()
    for plan, data in zip(plans, copied, strict=True):
        assert len(data) == plan.bytes and data == emit(folder, plan)
        assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


def test_what_was_tuned_is_copied_too(tmp_path: Path) -> None:
    write(MASTERS / "tuned", tmp_path)
    rounded.save(tmp_path)
    master, plan = Master.open(tmp_path), Planner.open(tmp_path, NESTED).smallest
    assert master.template.tuned is not None and master.template.knot(plan.ranks) is not None
    assert master.rounded is not None
    for layer in master.template.decomposed:
        assert all(there(master.rounded, entries.tuned(entries.factor(side, layer.name))) for side in layer.form.sides)
    copied = emit(tmp_path, plan)
    (tmp_path / ROUNDED).unlink()
    assert copied == emit(tmp_path, plan)


@pytest.mark.parametrize("kind", [Small, Separable])
def test_files_compute_nearly_what_those_of_float32_do(kind: type[torch.nn.Module], tmp_path: Path) -> None:
    _, folder, plain = planner(kind, tmp_path, "energy", mixed=True)
    found, x = Planner.open(folder, NESTED), torch.randn(5, *SHAPES[kind])
    for size in (found.smallest.params, int(0.7 * found.template.params)):
        files = [torch.jit.load(io.BytesIO(emit(folder, each.plan(max_params=size)))) for each in (found, plain)]
        with torch.no_grad():
            made, wanted = (file(x) for file in files)
        assert (made - wanted).norm() < 0.02 * wanted.norm()


def test_a_larger_rank_begins_with_a_smaller_one(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path, "energy", mixed=True)
    master = Master.open(folder)
    assert master.template.rounded and master.rounded is not None
    for layer in master.template.decomposed:
        for side, shape in layer.factor_shapes(layer.rank).items():
            source = entries.factor(side, layer.name)
            stored, array = Rounded.of(master.rounded, source), master.file.array(source, 4).reshape(shape)
            parts, axis = Int8().encode(array, "float32"), layer.axis_of_bases(side)
            assert axis is not None and len(stored.levels) == layer.rank
            assert np.array_equal(np.moveaxis(stored.levels, 0, axis), parts[""])
            assert np.array_equal(stored.scale, parts["scale"].reshape(-1))


def test_what_is_not_finite_is_refused_at_the_cut(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path, "energy", mixed=True)
    master = Master.open(folder)
    tensors = {name: tensor.clone() for name, tensor in master.tensors().items()}
    name = master.template.entry(master.template.decomposed[0].weight)
    tensors[name].view(-1)[0] = torch.inf
    save_file(tensors, folder / entries.MASTER)
    rounded.save(folder)
    with pytest.raises(PrecisionError, match="no level for a number that is not finite"):
        emit(folder, Planner.open(folder, NESTED).largest)
