"""Layers quantised while they are fitted, within the bytes that they had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rightrank.models.emit.format import Output
from rightrank.models.improve.made import Made
from rightrank.models.improve.refit import INPUTS, refit
from rightrank.models.improve.within import WithinBytes, taken
from rightrank.models.master import gradients
from rightrank.models.master.entries import REFIT, dense
from rightrank.models.master.master import Master
from rightrank.models.master.variant import variant
from rightrank.models.plan.mixture import Mixture
from rightrank.models.plan.planner import Planner
from rightrank.models.progress import silent
from tests.models.nets import SHAPES, Cardinal, Painter, Small, build, make, source

MIXED = Output(writer=2, encoding="levels")


@pytest.mark.parametrize("kind", [Small, Cardinal, Painter])
def test_weights_of_groups_or_turned_round_are_rounded_as_at_ingest(kind: type[nn.Module], tmp_path: Path) -> None:
    """Their fits, with a scale for each slice along the first axis; and all levels fit into the bytes that they had."""
    torch.manual_seed(0)
    data, folder = torch.randn(96, *SHAPES[kind]), tmp_path / "master"
    build(source(make(kind), SHAPES[kind], tmp_path / "source", data), folder, mixed=True, keep=INPUTS)
    master, planner = Master.open(folder), Planner.open(folder, MIXED)
    stored = master.tensors()
    plan = planner.plan(max_macs=int(0.6 * planner.template.macs))
    made = Made.of(master, plan)
    base = variant(master.template, stored, plan.ranks)
    cut = base.with_({n: made.numbers(n)[""] for n in made.whole}, {n: made.numbers(n) for n in made.cut}).program()
    grids = made.grids(Mixture.open(folder))
    reached = gradients.read(master.template.decomposed, load_file(folder / REFIT))
    within, ranks = WithinBytes(made, reached, grids), master.template.by_weight(plan.ranks)
    program = master.program(stored)
    found = refit(program, master.template.layers, ranks, reached, cut, [(data,)], silent, within)
    assert within.found
    room = sum(made.bytes(name) for name in within.found)
    assert sum(taken(levels, made.levels(name)) for name, levels in within.found.items()) <= room
    # A transposed convolution whose patches overlap is no regression, and keeps its cut.
    several = [layer for layer in master.template.decomposed if layer.form.name in ("grouped", "transposed")]
    apart = [layer for layer in several if layer.weight in within.found]
    assert apart and {layer.weight for layer in several} <= made.whole
    for layer in apart:
        (levels,) = within.found[layer.weight].values()
        assert levels.scale.shape == (layer.shape[0],)
        (numbers,) = made.scaled(layer.weight, within.found[layer.weight]).values()
        assert torch.allclose(found[dense(layer.weight)], numbers.numbers(torch.float32), rtol=1e-6)
        assert not torch.equal(found[dense(layer.weight)], made.numbers(layer.weight)[""])
