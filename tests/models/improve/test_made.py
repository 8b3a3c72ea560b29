from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rightrank.models.emit.format import Output
from rightrank.models.improve.made import Made
from rightrank.models.improve.within import taken
from rightrank.models.master import entries
from rightrank.models.master.master import Master
from rightrank.models.plan.planner import Planner
from tests.models.nets import SHAPES, Separable, build, make, source

MIXED = Output(writer=2, encoding="levels")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    data = torch.randn(200, *SHAPES[Separable]).cumsum(2)
    build(source(make(Separable), SHAPES[Separable], out / "source", data), out / "master", mixed=True)
    return out / "master"


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_levels_are_what_was_coded(folder: Path, share: float) -> None:
    """Of a plan's levels, coded anew and read, each is what it was; and so are their bytes."""
    planner = Planner.open(folder, MIXED)
    made = Made.of(Master.open(folder), planner._at(int(share * (len(planner) - 1))))
    template = made.master.template
    assert (
        {*made.names} == {layer.weight for layer in template.layers} | template.tables == made.whole | made.cut.keys()
    )
    for name in made.names:
        sides = made.scaled(name)
        own = made.coded(name, sides)
        for side, each in made.scaled(name, own).items():
            assert torch.equal(each.levels, sides[side].levels) and torch.equal(each.scales, sides[side].scales)
        assert taken(own, made.levels(name)) <= made.bytes(name)
        assert made.entries({name: own}) == {
            entries.factor(side, made.cut[name].name) if side else template.entry(name): each
            for side, each in own.items()
        }
