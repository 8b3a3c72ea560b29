"""An encoding is one class and one line: one of half precision goes all the way from outside."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rightrank.models.emit.encoding import ENCODINGS
from rightrank.models.emit.format import Output
from rightrank.models.master.template import TensorSpec
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.graph import Constant, Node, Ref
from tests.seams.conftest import Case, added, written

HALF = Output(encoding="half with a scale")


class Half:
    """Numbers of single precision as numbers of half of it and the largest of them, which they are shares of."""

    name, exact, coded, nested, arithmetic = HALF.encoding, False, False, False, False

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        if spec.dtype != "float32":
            return {"": spec}
        return {"": TensorSpec("float16", spec.shape), "scale": TensorSpec("float32", ())}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        if dtype != "float32":
            return {"": array}
        numbers = np.ascontiguousarray(array).view(np.float32)
        scale = np.float32(max(float(np.abs(numbers).max(initial=0)), 1e-30))
        return {"": (numbers / scale).astype(np.float16), "scale": np.asarray(scale)}

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        if spec.dtype != "float32":
            return ()
        single = Node("single", "aten.to.dtype", (parts[""], Constant("dtype", "float32")), (), ("single",))
        return single, Node(value, "aten.mul.Tensor", (Ref("single"), parts["scale"]), (), (value,))


@pytest.fixture(autouse=True)
def half() -> Iterator[None]:
    with added(ENCODINGS, {HALF.encoding: Half()}):
        yield


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5])
def test_a_file_has_the_planned_bytes_is_half_as_large_and_runs(
    case: Case, folder: Path, share: float, tmp_path: Path
) -> None:
    planners = [Planner.open(folder), Planner.open(folder, HALF)]
    plain, plan = (each.plan(max_params=int(share * each.template.params)) for each in planners)
    assert plan.ranks == plain.ranks
    assert plan.digest != plain.digest
    data = written(folder, plan)
    assert len(data) == plan.bytes
    assert len(data) < 0.6 * plain.bytes + 4000
    outputs = []
    for name, each in (("plain", written(folder, plain)), ("half", data)):
        (tmp_path / name).write_bytes(each)
        with torch.no_grad():
            outputs.append(torch.jit.load(io.BytesIO(each))(case.inputs))  # type: ignore[no-untyped-call]
    assert 0 < float((outputs[0] - outputs[1]).norm() / outputs[0].norm()) < 0.01
    values = [measure(tmp_path / name, case.evaluation).value for name in ("plain", "half")]
    assert abs(values[0] - values[1]) < 0.05


def test_every_plan_on_the_path_has_the_predicted_size(folder: Path) -> None:
    planner = Planner.open(folder, HALF)
    for count in range(0, len(planner), 7):
        plan = planner._at(count)
        assert len(written(folder, plan)) == plan.bytes


def test_a_plan_says_its_encoding_and_is_read_again(folder: Path) -> None:
    plan = Planner.open(folder, HALF).plan(max_params=10_000)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.to_json()["output"] == {"format": "torchscript", "writer": 1, "encoding": HALF.encoding}
