from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rightrank.models.emit import formats
from rightrank.models.emit.encoding import ENCODINGS, encoding_of
from rightrank.models.emit.format import Output
from rightrank.models.errors import UnreadableMaster
from rightrank.models.master.template import TensorSpec
from rightrank.models.plan.planner import Planner
from rightrank.models.program.graph import Node, Ref
from tests.models.nets import SHAPES, Halved, Separable, Shared, Small, planner


def test_an_encoding_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnreadableMaster, match="'ternary', and this version has plain"):
        encoding_of("ternary")
    assert {name: each.name for name, each in ENCODINGS.items()} == {name: name for name in ENCODINGS}


class Halving:
    """Half of every float tensor of 32 bits, twice."""

    name, exact, coded, nested, arithmetic = "halving", True, False, False, False

    def parts(self, spec: TensorSpec) -> Mapping[str, TensorSpec]:
        return {"one": spec, "other": spec} if spec.dtype == "float32" else {"": spec}

    def encode(self, array: NDArray[Any], dtype: str) -> Mapping[str, NDArray[Any]]:
        if dtype != "float32":
            return {"": array}
        half = (np.ascontiguousarray(array).view(np.float32) / 2).view(np.uint32)
        return {"one": half, "other": half}

    def decode(self, value: str, spec: TensorSpec, parts: Mapping[str, Ref]) -> tuple[Node, ...]:
        if spec.dtype != "float32":
            return ()
        doubled = f"doubled {value}"
        first = Node(doubled, "aten.mul.Scalar", (parts["one"], 1.0), (), (doubled,))
        return first, Node(value, "aten.add.Tensor", (Ref(doubled), parts["other"]), (), (value,))


@pytest.mark.parametrize("kind", [Small, Shared, Halved, Separable])
def test_tensors_of_several_parts_are_written_counted_and_put_together(
    kind: type[torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENCODINGS, "halving", Halving())  # type: ignore[arg-type]
    _, folder, plain = planner(kind, tmp_path, "energy")
    found, x = Planner.open(folder, Output(encoding="halving")), torch.randn(3, *SHAPES[kind])
    for size in (found.smallest.params, int(0.7 * found.template.params), found.template.original.params):
        loaded, files = [], []
        for each in (plain, found):
            file, plan = io.BytesIO(), each.plan(max_params=size)
            formats.write(folder, plan, file)
            assert len(file.getvalue()) == plan.bytes
            files.append(plan)
            loaded.append(torch.jit.load(io.BytesIO(file.getvalue())))
        with torch.no_grad():
            assert torch.equal(loaded[0](x), loaded[1](x))
        assert files[0].ranks == files[1].ranks and files[0].digest != files[1].digest
