from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rightrank.models.assemble import build as assemble
from rightrank.models.assemble import integers
from rightrank.models.improve import ranges
from rightrank.models.master import entries
from rightrank.models.master.ranges import of_bases, of_value
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.models import nets
from tests.models.nets import SHAPES, Small


def test_a_plan_has_its_own_ranges_but_for_what_is_not_finite(tmp_path: Path) -> None:
    folder, file = tmp_path / "master", tmp_path / "improved.safetensors"
    torch.manual_seed(0)
    inputs = torch.randn(48, *SHAPES[Small])
    program = nets.read(nets.make(Small), SHAPES[Small], tmp_path)
    assemble.build(program, folder, None, criterion="c1c2", mixed=False)
    integers.save(folder, Samples.of(inputs), silent, math.inf)
    template, ranks = Template.open(folder).integers, Planner.open(folder).smallest.ranks
    assert template is not None
    values = {of_value(name) for name in template.grids.values()}

    def own() -> dict[str, torch.Tensor]:
        save_file({"inputs": inputs}, folder / entries.REFIT)
        save_file({}, file, {"method": "cut"})
        ranges.add(folder, ranks, file, silent)
        return load_file(file)

    found = own()
    cut = [layer.weight for layer in Template.open(folder).decomposed if layer.weight in template.layers]
    assert found.keys() == values | {of_bases(weight) for weight in cut}
    assert all(each.isfinite().all() for each in found.values())
    inputs[5] = math.inf
    assert own() == {}
