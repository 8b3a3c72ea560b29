"""A format is one class and one line: one that writes numpy's archives goes all the way from outside."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rightrank.models.emit import formats
from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.format import FIRST, Data, Network, Output, Sizes, Writer
from rightrank.models.emit.formats import FORMATS
from rightrank.models.master.slots import Slots
from rightrank.models.master.template import Template
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.program import Program
from tests.seams.conftest import Case, added, written

NUMPY = Output("numpy")
# Of a record: the headers of the archive and, where there is no extra field, of an array of up to four dimensions.
LOCAL, CENTRAL, END, ARRAY = 30, 46, 22, 128


class NumpyWriter:
    """Archives of one template."""

    def __init__(self, template: Template) -> None:
        self.template, self.slots = template, Slots(template)

    def sizes(self) -> Sizes:
        layers = self.template.decomposed
        whole = END + _record("about", len(self._about([0] * len(layers))))
        tables: dict[int, NDArray[np.int64]] = {}
        for name in self.slots.tensors:
            dense = _array(f"{name}|", np.asarray(np.prod(self.template.tensors[name].shape, dtype=np.int64)))
            whole += int(dense)
            if (position := self.slots.position(name)) is not None:
                layer = layers[position]
                sides = layer.form.shapes(layer, np.arange(1, layer.break_even + 1))
                numbers = [np.asarray(np.prod(np.broadcast_arrays(*shape), axis=0)) for shape in sides]
                pairs = zip(layer.form.sides, numbers, strict=True)
                factored = sum(_array(f"{name}|{side}", each) for side, each in pairs)
                tables[position] = np.concatenate([[0], factored - dense])
        return Sizes(whole, [tables[position] for position in range(len(layers))])

    def pieces(self, master: TensorFile, ranks: Sequence[int], changes: TensorFile | None) -> Iterator[Data]:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo("about"), self._about(ranks))
            for slot in self.slots.at(ranks):
                array = np.ascontiguousarray(slot.taken(master.array(slot.source, 4))).view(np.float32)
                record = io.BytesIO()
                np.save(record, array)
                archive.writestr(zipfile.ZipInfo(f"{slot.tensor}|{slot.side}.npy"), record.getvalue())
        yield file.getvalue()

    def _about(self, ranks: Sequence[int]) -> bytes:
        text = json.dumps({"template": self.template.to_json(), "ranks": [f"{rank:06}" for rank in ranks]})
        return text.encode()


class Numpy:
    """Float32 networks as an archive of arrays, with the template and the ranks; run by the interpreter."""

    name, version = "numpy", 1
    suffix, media_type = ".npz", "application/x-numpy"
    separate = bounds = False

    def available(self) -> str:
        return ""

    def check(self, template: Template, encoding: Encoding) -> None:
        pass

    def writer(self, template: Template, encoding: Encoding, original: bool = False) -> Writer:
        return NumpyWriter(template)

    def load(self, path: Path) -> Network:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read("about"))
        template = Template.from_json(about["template"])
        tensors: dict[str, Tensor] = {}
        factors: dict[str, dict[str, Tensor]] = {}
        with np.load(path) as arrays:
            for key in arrays.files:
                name, _, side = key.partition("|")
                if side:
                    factors.setdefault(name, {})[side] = torch.from_numpy(arrays[key])
                elif key != "about":
                    tensors[name] = torch.from_numpy(arrays[key])
        for layer in template.decomposed:
            if layer.weight in factors:
                tensors[layer.weight] = layer.form.product(layer, factors[layer.weight])
        program = Program(template.graph, tensors)
        return lambda *inputs: tuple(program.run(inputs))


def _array(name: str, count: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(_record(f"{name}.npy", ARRAY) + 4 * count)


def _record(name: str, size: int) -> int:
    return LOCAL + CENTRAL + 2 * len(name) + size


@pytest.fixture(autouse=True)
def numpy_format() -> Iterator[None]:
    with added(FORMATS, {"numpy": (Numpy(),)}):
        yield


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5])
def test_a_file_has_the_planned_bytes_and_is_measured_in_its_own_runtime(
    case: Case, folder: Path, share: float, tmp_path: Path
) -> None:
    planner = Planner.open(folder, NUMPY)
    plan = planner.plan(max_params=int(share * planner.template.params))
    path = tmp_path / f"net{formats.format_of(plan.output).suffix}"
    path.write_bytes(written(folder, plan))
    assert len(path.read_bytes()) == plan.bytes
    same = Planner.open(folder).plan(max_params=int(share * planner.template.params))
    (tmp_path / "net.pt").write_bytes(written(folder, same))
    assert plan.ranks == same.ranks
    found = measure(path, case.evaluation, output=plan.output)
    assert found == measure(tmp_path / "net.pt", case.evaluation)
    assert found.value == 1 if share == 1 else found.value > 0.3


def test_the_same_ranks_in_two_formats_are_two_plans(folder: Path) -> None:
    one, other = (Planner.open(folder, output).plan(max_params=10_000) for output in (FIRST, NUMPY))
    assert one.ranks == other.ranks
    assert one.digest != other.digest
    assert Plan.from_json(other.to_json()) == other
    assert "output" not in one.to_json()


def test_a_limit_of_bytes_is_one_of_the_formats_own(folder: Path) -> None:
    for output in (FIRST, NUMPY):
        plan = Planner.open(folder, output).plan(max_bytes=60_000)
        assert len(written(folder, plan)) == plan.bytes <= 60_000
