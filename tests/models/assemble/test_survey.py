from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rightrank.models.assemble.survey import survey
from rightrank.models.errors import MalformedCheckpoint, UnsupportedCheckpoint
from rightrank.models.program.program import Program
from tests.models.nets import SHAPES, Small, make, read


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return read(make(Small), SHAPES[Small], tmp_path_factory.mktemp("survey"))


def test_a_survey_counts_all_parameters_and_the_macs_of_every_layer(program: Program) -> None:
    template = survey(program)
    assert template.params == sum(each.numel() for each in make(Small).parameters())
    assert template.macs == sum(layer.macs for layer in template.layers)
    assert [layer.name for layer in template.layers] == ["stem", "wide", "grouped", "dilated", "head"]
    assert template.tensors["norm.running_var"].shape == (16,)
    assert template.tensors["head.weight"].dtype == "float32"


def test_a_program_that_does_not_run_is_refused_in_words(program: Program) -> None:
    broken = program.with_tensors({**program.tensors, "wide.weight": torch.randn(24, 15, 1, 5)})
    with pytest.raises(MalformedCheckpoint, match="does not run on inputs of the shape that it declares"):
        survey(broken)


def test_a_program_without_parameters_has_nothing_to_cut(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="nothing to cut"):
        survey(read(torch.nn.ReLU(), (3,), tmp_path))
