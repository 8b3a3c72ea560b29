from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rightrank.models import checkpoint
from rightrank.models.assemble import build as assemble
from rightrank.models.assemble import computable, integers
from rightrank.models.emit import formats
from rightrank.models.emit.format import Output
from rightrank.models.emit.precision import encoding_in
from rightrank.models.errors import PrecisionError
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template
from rightrank.models.plan.planner import Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.models import nets
from tests.models.nets import SHAPES, Attending, Cardinal, Painter, Placed, Recurring, Small


def built(kind: type[nn.Module], folder: Path, shape: tuple[int, ...] | None = None, **options: float) -> Path:
    torch.manual_seed(0)
    shape = shape or SHAPES[kind]
    program = nets.read(nets.make(kind), shape, folder)
    inputs = torch.randn(48, *shape)
    assemble.build(program, folder / "master", None, criterion="c1c2", mixed=False)
    integers.save(folder / "master", Samples.of(inputs), silent, **options)
    return folder / "master"


def test_what_is_said_of_integers_is_kept_with_the_master(tmp_path: Path) -> None:
    folder = built(Small, tmp_path)
    template = Template.open(folder)
    assert template.integers is not None and Template.from_json(template.to_json()) == template
    ranges = Master.open(folder).ranges
    assert ranges is not None
    knots = len(template.integers.knots)
    assert template.integers.knots[0] == template.params and knots > 3
    for name in template.integers.grids.values():
        assert ranges.shape(f"range/{name}") == (knots, 2)
    for layer in template.decomposed:
        if layer.weight in template.integers.layers:
            assert ranges.shape(f"inside/{layer.weight}") == (knots, layer.break_even)
    sizes = template.integers.knots
    assert [*sizes] == sorted(sizes, reverse=True)
    assert template.integers.around(1) == (knots - 1,) and template.integers.around(10**9) == (0,)
    assert template.integers.around(sizes[1]) == (1,) and template.integers.around(sizes[1] - 1) == (1, 2)


@pytest.mark.parametrize("kind", [Small, Painter, Cardinal, Attending, Recurring])
def test_layers_that_there_are_kernels_for_could_compute_so(kind: type[nn.Module], tmp_path: Path) -> None:
    folder = built(kind, tmp_path, most=float("inf"))
    template = Template.open(folder)
    assert template.integers is not None
    left = {layer.weight for layer in template.layers} - {*template.integers.layers}
    wanted = {
        Small: {"grouped.weight"},  # its factors' first has groups, and bases along two axes
        Painter: {"wide.weight", "apart.weight"},  # there are no transposed convolutions of integers
        Cardinal: {"middle.0.weight", "middle.1.weight"},
        Attending: set(),
    }
    if kind is Recurring:
        assert {*template.integers.layers} == {"head.weight"}
    else:
        assert left == wanted[kind]


class Delicate(nn.Module):
    """The second convolution reads values of which one in a thousand is a thousand times the others, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 6)
        with torch.no_grad():
            self.first.weight[0] *= 5000
            self.second.weight[:, 0] = 0  # nothing comes of the channel that needs all the range

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.third(torch.relu(self.second(x)))).mean((2, 3)))


def test_layers_that_it_breaks_compute_as_before(tmp_path: Path) -> None:
    folder = built(Delicate, tmp_path, (3, 10, 10))
    template = Template.open(folder)
    assert template.integers is not None
    assert "second.weight" not in template.integers.layers
    assert {"third.weight", "head.weight"} <= {*template.integers.layers}
    everything = built(Delicate, tmp_path, (3, 10, 10), most=float("inf"))
    all_of_them = Template.open(everything).integers
    assert all_of_them is not None and "second.weight" in all_of_them.layers


def test_a_network_without_calibration_inputs_is_told_why_it_cannot(tmp_path: Path) -> None:
    program = nets.read(nets.make(Small), SHAPES[Small], tmp_path)
    assemble.build(program, tmp_path / "master", None, mixed=False)
    template = Template.open(tmp_path / "master")
    assert template.integers is None and not (tmp_path / "master" / "ranges.safetensors").exists()
    with pytest.raises(PrecisionError, match="'w8a8': to compute in int8 wants the ranges .* They have float32"):
        encoding_in({"float32": "plain"}, "w8a8", template, "onnx")
    with pytest.raises(PrecisionError, match="'w8a8' in the format pt2: files that compute in int8 are those of onnx"):
        encoding_in({"float32": "plain"}, "w8a8", template, "pt2")


def test_a_network_of_which_no_layer_can_is_told_so(tmp_path: Path) -> None:
    folder = built(Small, tmp_path, most=0.0)
    template = Template.open(folder)
    assert template.integers is not None and template.integers.layers == ()
    with pytest.raises(PrecisionError, match="none of its layers can compute in int8"):
        encoding_in({"float32": "plain"}, "w8a8", template, "onnx")


def test_only_onnx_offers_it(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    template = Template.open(built(Small, tmp_path))
    assert list(formats.offered(template, False, Output("onnx"))) == ["float32", "float16", "int8", "int4", "w8a8"]
    for output in (Output("torchscript", 2), Output("pt2")):
        assert "w8a8" not in formats.offered(template, False, output)


def test_calibration_inputs_are_all_that_it_wants(tmp_path: Path) -> None:
    program = nets.read(nets.make(Small), SHAPES[Small], tmp_path)
    told = []
    inputs = Samples.of(torch.randn(24, *SHAPES[Small]))
    assemble.build(
        program, tmp_path / "master", inputs, criterion="c1c2", mixed=False, progress=lambda *said: told.append(said)
    )
    assert Template.open(tmp_path / "master").integers is not None
    looked = [said for said in told if said[0] == "ranges" and said[3] == "samples"]
    assert looked and looked[-1][1] == looked[-1][2]


def test_a_program_for_more_samples_than_a_size_is_looked_at_with_has_ranges(tmp_path: Path) -> None:
    batch = integers.AT_KNOTS + 8
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 16)).eval()
    torch.export.save(torch.export.export(network, (torch.randn(batch, 24),)), tmp_path / "fixed.pt2")
    assemble.build(checkpoint.read(tmp_path / "fixed.pt2"), tmp_path / "master", criterion="c1c2", mixed=False)
    inputs = Samples(((torch.randn(2 * batch, 24),),), (True,), batch)
    integers.save(tmp_path / "master", inputs, silent, float("inf"))
    found, ranges = Template.open(tmp_path / "master").integers, Master.open(tmp_path / "master").ranges
    assert found is not None and len(found.layers) == 2 and ranges is not None
    reached = ranges.array(f"inside/{found.layers[0]}", 4).view(np.float32)
    assert len(reached) == len(found.knots) > 2 and (reached > 0).all()


def test_values_are_rounded_where_levels_are_read(tmp_path: Path) -> None:
    folder = built(Small, tmp_path, most=float("inf"))
    template = Template.open(folder)
    assert template.integers is not None
    grids = template.integers.grids
    by_weight = {layer.weight: layer.calls[0] for layer in template.layers}
    nodes = {node.name: node for node in template.graph.nodes}
    stem = nodes[by_weight["stem.weight"]]
    assert stem.outputs[0] not in grids  # a norm and a rectifier follow, and end on the grid in its place
    assert computable.integers(template, [], grids).grids == {}
    assert Planner.open(folder).template.integers == template.integers


def test_a_value_that_depends_on_no_input_is_on_no_grid(tmp_path: Path) -> None:
    template = Template.open(built(Placed, tmp_path, most=float("inf")))
    assert template.integers is not None and {"inner.weight", "head.weight"} <= {*template.integers.layers}
    (looked,) = (node for node in template.graph.nodes if node.op == "aten.embedding.default")
    (added,) = (node for node in template.graph.nodes if looked.outputs[0] in node.inputs())
    assert looked.outputs[0] not in template.integers.grids and added.outputs[0] in template.integers.grids


def test_a_layer_between_whose_factors_values_are_no_numbers_stays_as_it_is(tmp_path: Path) -> None:
    """Those of a weight that is next to nothing, for which the next one makes good."""
    torch.manual_seed(0)
    first, second = nn.Linear(64, 128), nn.Linear(128, 128)
    with torch.no_grad():
        for each in first.parameters():
            each *= 1e-22
        second.weight *= 1e22
    module = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(128, 10)).eval()
    program, inputs = nets.read(module, (64,), tmp_path), Samples.of(torch.rand(200, 64))
    assemble.build(program, tmp_path / "master", inputs, criterion="logit", mixed=False)
    integers.save(tmp_path / "master", inputs, silent)
    template = Template.open(tmp_path / "master")
    assert template.integers is not None
    assert "0.weight" not in template.integers.layers and "4.weight" in template.integers.layers
