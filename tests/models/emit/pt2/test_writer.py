from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import nn

from rightrank.models.assemble.build import build
from rightrank.models.checkpoint import read
from rightrank.models.emit import archive, formats
from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.format import FIRST, Output
from rightrank.models.emit.pt2.writer import Pt2
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.graph import Graph, Node, substitute
from rightrank.models.program.program import Program
from tests.models.nets import SHAPES, Halved, Recurring, Separable, Shared, Small, encoder, planner

Case: TypeAlias = tuple[type[nn.Module], Path]
ENCODINGS = ("plain", "half", "int8")
SHARES = (1.0, 0.7, 0.5)


@pytest.fixture(scope="module", params=[Small, Shared, Halved, Separable, Recurring])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return request.param, planner(request.param, tmp_path_factory.mktemp("pt2"))[1]


def planned(folder: Path, share: float, encoding: str = "plain", format: str = "pt2") -> Plan:
    found = Planner.open(folder, Output(format, 1, encoding))
    return found.plan(max_params=int(share * found.template.original.params))


def written(folder: Path, plan: Plan) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_torch_and_the_reader_compute_what_the_torchscript_file_does_bit_for_bit(
    case: Case, encoding: str, tmp_path: Path
) -> None:
    kind, folder = case
    x = torch.randn(3, *SHAPES[kind])
    for share in SHARES:
        plan, other = planned(folder, share, encoding), planned(folder, share, encoding, "torchscript")
        assert plan.ranks == other.ranks
        path = tmp_path / f"{share}.pt2"
        path.write_bytes(written(folder, plan))
        with torch.no_grad():
            expected = torch.jit.load(io.BytesIO(written(folder, other)))(x)
            assert torch.equal(formats.format_of(plan.output).load(path)(x), expected)
            assert torch.equal(read(path).run([x])[0], expected)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_plan_on_the_path_has_the_predicted_size(case: Case, encoding: str) -> None:
    _, folder = case
    found = Planner.open(folder, Output("pt2", 1, encoding))
    for count in {*range(0, len(found), 5), len(found) - 2, len(found) - 1}:
        plan = found._at(count)
        assert len(written(folder, plan)) == plan.bytes


def renamed(graph: Graph) -> Graph:
    """Values by the order in which they are made, and calls by theirs: all that a graph says but for its names."""
    order = [spec.name for spec in graph.inputs] + [name for node in graph.nodes for name in node.outputs if name]
    names = {name: f"v{number}" for number, name in enumerate(order)} | dict(graph.tensors)
    nodes = []
    for number, node in enumerate(graph.nodes):
        args = tuple(substitute(each, names) for each in node.args)
        kwargs = tuple((key, substitute(each, names)) for key, each in node.kwargs)
        nodes.append(Node(str(number), node.op, args, kwargs, tuple(map(names.get, node.outputs)), node.listed))  # type: ignore[arg-type]
    tensors = {name: name for name in graph.tensors.values()}
    inputs = tuple(replace(spec, name=names[spec.name]) for spec in graph.inputs)
    outputs = tuple(names[name] for name in graph.outputs)
    return Graph(inputs, tensors, graph.parameters, tuple(nodes), outputs, graph.ranges)


def test_the_reader_finds_the_program_that_was_uploaded(case: Case, tmp_path: Path) -> None:
    _, folder = case
    plan = planned(folder, 1.0)
    (tmp_path / "a.pt2").write_bytes(written(folder, plan))
    back = read(tmp_path / "a.pt2")
    uploaded = Planner.open(folder).template.original
    live = uploaded.graph.replace(parameters=frozenset(uploaded.graph.parameters & uploaded.graph.read)).live()
    assert renamed(back.graph) == renamed(live)
    assert {name: tuple(tensor.shape) for name, tensor in back.tensors.items()} == {
        name: uploaded.tensors[name].shape for name in back.tensors
    }


def test_a_files_own_file_is_the_same_file(tmp_path: Path) -> None:
    """What was read back is written as it was, but for the space left for ranks."""
    _, folder, _ = planner(Small, tmp_path)
    first = written(folder, planned(folder, 1.0))
    (tmp_path / "a.pt2").write_bytes(first)
    build(read(tmp_path / "a.pt2"), tmp_path / "again", mixed=False)
    assert written(tmp_path / "again", planned(tmp_path / "again", 1.0)) == first


def test_another_process_writes_the_same_bytes_without_torch(case: Case) -> None:
    _, folder = case
    script = (
        "import hashlib, io, sys; from pathlib import Path; "
        "from rightrank.models.emit import formats; from rightrank.models.emit.format import Output; "
        "from rightrank.models.plan.planner import Planner; f = io.BytesIO(); d = Path(sys.argv[1]); "
        "formats.write(d, Planner.open(d, Output('pt2', 1, 'half')).plan(max_params=int(sys.argv[2])), f); "
        "print(hashlib.sha256(f.getvalue()).hexdigest()); "
        "assert 'torch' not in sys.modules"
    )
    plan = planned(folder, 0.5, "half")
    command = [sys.executable, "-c", script, str(folder), str(plan.params)]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == hashlib.sha256(written(folder, plan)).hexdigest(), done.stderr


def test_the_archive_is_stored_aligned_and_without_dates(case: Case) -> None:
    _, folder = case
    data = written(folder, planned(folder, 0.5))
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        for entry in file.infolist():
            assert (entry.date_time, entry.compress_type) == ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED)
            if "/weight_" in entry.filename:
                extra = int.from_bytes(data[entry.header_offset + 28 : entry.header_offset + 30], "little")
                assert (entry.header_offset + 30 + len(entry.filename) + extra) % 64 == 0


def test_sizes_that_are_free_stay_free_and_the_same_ones_the_same(tmp_path: Path) -> None:
    module, program = encoder(tmp_path)
    build(program, tmp_path / "master", mixed=False)
    for share in (1.0, 0.6):
        path = tmp_path / "a.pt2"
        path.write_bytes(written(tmp_path / "master", planned(tmp_path / "master", share)))
        assert read(path).graph.inputs == program.graph.inputs
        run = Pt2().load(path)
        for batch, length in ((1, 3), (5, 11)):
            ids = torch.randint(0, 20, (batch, length))
            with torch.no_grad():
                found = run(ids, torch.ones_like(ids))
            assert isinstance(found, torch.Tensor) and found.shape == (batch, 3)
            assert share < 1 or torch.equal(found, module(ids, torch.ones_like(ids)))


class Strided(nn.Module):
    """Convolutions over images of any height and width within bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.second, self.head = nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.head(torch.relu(self.second(torch.relu(self.first(x)))))
        return nn.functional.interpolate(made, size=x.shape[2:], mode="nearest")


def strided(folder: Path) -> Program:
    torch.manual_seed(0)
    free = {0: torch.export.Dim.DYNAMIC} | {n: torch.export.Dim(f"d{n}", min=16, max=64) for n in (2, 3)}
    exported = torch.export.export(Strided().eval(), (torch.randn(2, 3, 32, 48),), dynamic_shapes=(free,))
    torch.export.save(exported, folder / "strided.pt2")
    return read(folder / "strided.pt2")


def test_bounds_of_free_sizes_stay_and_what_only_running_tells_is_said_to_be_so(tmp_path: Path) -> None:
    program = strided(tmp_path)
    build(program, tmp_path / "master", mixed=False)
    for share in (1.0, 0.6):
        path = tmp_path / "a.pt2"
        path.write_bytes(written(tmp_path / "master", planned(tmp_path / "master", share)))
        back = read(path)
        assert (back.graph.inputs, back.graph.ranges) == (program.graph.inputs, program.graph.ranges)
        assert sorted(program.graph.ranges.values()) == [(16, 64), (16, 64)]
        run, x = Pt2().load(path), torch.randn(1, 3, 37, 50)
        with torch.no_grad():
            assert torch.equal(run(x), back.run([x])[0])
        with pytest.raises((RuntimeError, AssertionError)):
            run(torch.randn(1, 3, 80, 50))


def test_torch_finds_the_sizes_that_the_file_says(case: Case, tmp_path: Path) -> None:
    """Decomposing traces the program anew: from the inputs alone it comes to what was written of the outputs."""
    _, folder = case
    if case[0] is Recurring:
        return
    (tmp_path / "a.pt2").write_bytes(written(folder, planned(folder, 0.5)))
    program = torch.export.load(tmp_path / "a.pt2")
    said = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "call_function"}
    values = {}

    class Noting(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            made = super().run_node(n)
            values[n.name] = made
            return made

    tensors = [*program.state_dict.values()]
    with torch.no_grad():
        Noting(program.graph_module).run(*tensors, torch.randn(2, *SHAPES[case[0]]))
    checked = 0
    for name, value in said.items():
        if isinstance(value, torch.Tensor):
            made, checked = values[name], checked + 1
            assert (made.dtype, len(made.shape)) == (value.dtype, len(value.shape))
            sizes = [*zip(made.shape, value.shape, strict=True), *zip(made.stride(), value.stride(), strict=True)]
            assert all(size == claimed for size, claimed in sizes if isinstance(claimed, int))
    assert checked > 3


def test_levels_are_refused_in_words_that_name_the_others(case: Case) -> None:
    _, folder = case
    template = Planner.open(folder).template
    with pytest.raises(UnsupportedCheckpoint, match=r"TorchScript's alone.*float32, float16 or int8"):
        Pt2().check(template, encoding_of("levels"))
    Pt2().check(template, encoding_of("int8"))


def test_a_model_of_before_is_refused_and_so_is_a_file_beyond_what_an_archive_holds(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = case
    template = Planner.open(folder).template
    with pytest.raises(UnsupportedCheckpoint, match="published before this format"):
        Pt2().check(replace(template, values=None), encoding_of("plain"))
    monkeypatch.setattr(archive, "LARGEST", 100)
    with pytest.raises(UnsupportedCheckpoint, match=r"a file of \d+,\d+ bytes"):
        Pt2().check(template, encoding_of("plain"))


def test_names_that_python_keeps_for_itself_are_others_in_the_file(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.torch, self.input = nn.Linear(16, 16), nn.Linear(16, 8)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return self.input(torch.relu(self.torch(input)))

    module, x = Odd().eval(), torch.randn(3, 16)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(exported, tmp_path / "a.pt2")
    build(read(tmp_path / "a.pt2"), tmp_path / "master", mixed=False)
    (tmp_path / "b.pt2").write_bytes(written(tmp_path / "master", planned(tmp_path / "master", 1.0)))
    with torch.no_grad():
        assert torch.equal(Pt2().load(tmp_path / "b.pt2")(x), module(x))


def test_the_graph_is_json_with_each_name_once(case: Case) -> None:
    _, folder = case
    for share in (1.0, 0.5):
        with zipfile.ZipFile(io.BytesIO(written(folder, planned(folder, share)))) as file:
            graph = json.loads(file.read("archive/models/model.json"))["graph_module"]["graph"]
        made = [each["as_tensor"]["name"] for each in graph["inputs"]]
        for node in graph["nodes"]:
            for output in node["outputs"]:
                ((kind, value),) = output.items()
                several = value if kind == "as_tensors" else [value]
                made += [each["name"] for each in several if "name" in each]
        assert len(made) == len(set(made)) and {*graph["tensor_values"]} == {*made}


def test_it_needs_nothing_besides() -> None:
    assert Pt2().available() == "" and formats.format_of(FIRST).available() == ""
