from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rightrank.models.program import abreast
from rightrank.models.program.abreast import Abreast, at_once, batches
from rightrank.models.program.samples import Samples
from tests.models.nets import SHAPES, Small, make, read


def test_batches_of_all_samples_have_no_large_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    samples = Samples.of(torch.randn(21, *SHAPES[Small]))
    monkeypatch.setattr(abreast, "NUMBERS", 9 * max(program.values(samples)))
    assert at_once(program, samples) == 8
    found = batches(program, samples)
    assert [len(each) for (each,) in found] == [8, 8, 5]
    assert torch.equal(torch.cat([each for (each,) in found]), samples.groups[0][0])


def test_of_a_sample_that_is_too_large_there_is_one_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    monkeypatch.setattr(abreast, "NUMBERS", 1)
    assert at_once(program, Samples.of(torch.randn(3, *SHAPES[Small]))) == 1


def test_call_by_call_it_makes_what_the_program_makes(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    several = [(torch.randn(count, *SHAPES[Small]),) for count in (4, 3)]
    walk = Abreast(program, several)
    with torch.no_grad():
        for node in program.graph.nodes:
            walk.step(node)
        for values, inputs in zip(walk.values, several, strict=True):
            outputs = [values[name] for name in program.graph.outputs]
            assert all(torch.equal(*pair) for pair in zip(outputs, program.run(inputs), strict=True))
            # What nothing reads any more is gone.
            assert {*values} <= {*program.graph.outputs, *program.graph.tensors, program.graph.inputs[0].name}


def test_a_value_that_is_replaced_is_another_in_all_batches(tmp_path: Path) -> None:
    program = read(make(Small), SHAPES[Small], tmp_path)
    walk = Abreast(program, [(torch.randn(2, *SHAPES[Small]),), (torch.randn(1, *SHAPES[Small]),)])
    name = next(iter(program.graph.tensors))
    other = torch.zeros(1)
    walk.replace(name, other)
    assert all(values[name] is other for values in walk.values)
