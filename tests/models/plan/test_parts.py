from __future__ import annotations

from pathlib import Path

import pytest

from rightrank.models.emit.format import Output
from rightrank.models.plan.parts import parts
from rightrank.models.plan.planner import Planner
from tests.models.nets import Small, planner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planner(Small, tmp_path_factory.mktemp("parts"), mixed=True)[1]


@pytest.mark.parametrize(("encoding", "bits"), [("plain", 32), ("half", 16), ("int8", 8), ("levels", None)])
def test_parts_add_up_to_the_plan(folder: Path, encoding: str, bits: float | None) -> None:
    of = Planner.open(folder, Output("torchscript", 2, encoding))
    whole = of.template.params - sum(layer.params for layer in of.template.layers)
    for plan in of.rungs(12):
        found = parts(of, plan)
        assert [each.layer for each in found] == [layer.name for layer in of.template.layers]
        if not plan.original:
            assert sum(each.params for each in found) + whole == plan.params
        decomposed = [each for each in found if not each.reason]
        assert tuple(each.rank for each in decomposed) == plan.ranks
        for each in decomposed:
            assert each.bits is not None
            assert 0 < each.bits < 12 if bits is None else each.bits == bits


def test_levels_of_a_layer_take_what_the_plan_says(folder: Path) -> None:
    of = Planner.open(folder, Output("torchscript", 2, "levels"))
    assert of.mixture is not None
    for plan in (of.smallest, of.largest):
        for part, (states, _) in zip(
            (each for each in parts(of, plan) if not each.reason),
            of.mixture.table.of_layers(),
            strict=True,
        ):
            assert part.bits is not None
            assert round(part.bits * part.params / 8) in states[:, 3].tolist()


def test_rungs_are_what_their_own_bytes_ask_for(folder: Path) -> None:
    for encoding in ("plain", "int8", "levels"):
        of = Planner.open(folder, Output("torchscript", 2, encoding))
        rungs = of.rungs(30)
        assert 3 < len(rungs) <= 30 and rungs[0].bytes == of.least_bytes
        assert rungs[-1] == of.largest
        for rung in rungs[:-1]:
            assert of.plan(max_bytes=rung.bytes) == rung
