"""What shapes tell of a master, held against the master."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble.build import prepare, try_gradient
from rightrank.models.assemble.outline import alone, outline
from rightrank.models.emit import formats
from rightrank.models.emit.precision import precisions, written_in
from rightrank.models.factor.gathering import NoGradient
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from tests.models.nets import SHAPES, Halved, Separable, Shared, Small, build, make, source

# So many bytes more or less a file has for how its layers can be factored.
TEXT = 64


@pytest.mark.parametrize("criterion", [None, "sigma", "uniform"])
@pytest.mark.parametrize("kind", [Small, Halved, Shared, Separable])
def test_without_inputs_the_largest_and_the_smallest_are_told_exactly(
    kind: type[nn.Module], criterion: str | None, tmp_path: Path
) -> None:
    folder = source(make(kind), SHAPES[kind], tmp_path / "source")
    build(folder, tmp_path / "master", criterion=criterion)
    assert outline(prepare(Program.open(folder), criterion=criterion), tmp_path / "outline") == []
    told, made = (Planner.open(tmp_path / name, formats.latest()) for name in ("outline", "master"))
    assert set(precisions(made.template, False)) == set(precisions(told.template, False))
    assert {layer.form.name for layer in made.template.decomposed} != {"channel"} or kind is not Small or criterion
    half = written_in(made.output, precisions(made.template, False)["float16"])
    for one, other in ((told, made), (told.written_as(half), made.written_as(half))):
        assert (one.smallest, one.largest, one.least()) == (other.smallest, other.largest, other.least())


@pytest.mark.parametrize("kind", [Small, Halved, Shared, Separable])
def test_where_inputs_decide_the_forms_nothing_is_smaller_than_the_smallest(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    inputs = torch.randn(40, *SHAPES[kind])
    folder = source(make(kind), SHAPES[kind], tmp_path / "source", inputs)
    build(folder, tmp_path / "master", criterion="logit")
    open_forms = outline(prepare(Program.open(folder), Samples.of(inputs), criterion="logit"), tmp_path / "outline")
    told, made = (Planner.open(tmp_path / name, formats.latest()) for name in ("outline", "master"))
    forms = {layer.name: layer.form.name for layer in made.template.layers}
    assert {layer.name for layer in told.template.layers if layer.form.name != forms[layer.name]} <= {*open_forms}
    assert told.largest.params == made.largest.params and told.smallest.params <= made.smallest.params
    half = written_in(made.output, precisions(made.template, False)["float16"])
    for one, other in ((told, made), (told.written_as(half), made.written_as(half))):
        # Names of the layers' factors are in all files' text, and not as long in every form.
        assert abs(one.largest.bytes - other.largest.bytes) <= TEXT
        assert one.least_bytes <= other.least_bytes + TEXT


@pytest.mark.parametrize("kind", [Small, Halved])
def test_the_network_alone_is_a_file_that_computes_what_it_does(kind: type[nn.Module], tmp_path: Path) -> None:
    module, x = make(kind), torch.randn(5, *SHAPES[kind])
    program = Program.open(source(module, SHAPES[kind], tmp_path / "source"))
    alone(prepare(program), program, tmp_path / "alone")
    file, planner = io.BytesIO(), Planner.open(tmp_path / "alone", formats.latest())
    plan = planner.plan(budget=1)
    formats.write(tmp_path / "alone", plan, file)
    assert plan.original and len(file.getvalue()) == plan.bytes
    with torch.no_grad():
        assert torch.equal(torch.jit.load(io.BytesIO(file.getvalue()))(x), module(x))


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).argmax(1)


@pytest.mark.parametrize("criterion", ["logit", "fisher"])
def test_that_there_is_no_gradient_is_found_out_before_it_is_wanted(criterion: str, tmp_path: Path) -> None:
    inputs = Samples.of(torch.randn(40, 12))
    program = Program.open(source(make(Blind), (12,), tmp_path / "blind"))
    with pytest.raises(NoGradient):
        try_gradient(prepare(program, inputs, criterion=criterion), inputs)
    try_gradient(prepare(program, inputs, criterion="whitened"), inputs)
    sighted = Program.open(source(nn.Linear(12, 8), (12,), tmp_path / "sighted"))
    try_gradient(prepare(sighted, inputs, criterion=criterion), inputs)
