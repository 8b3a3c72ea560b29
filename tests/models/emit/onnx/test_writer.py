from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rightrank.models import checkpoint
from rightrank.models.assemble import build as assemble
from rightrank.models.emit import formats
from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.format import Network, Output
from rightrank.models.emit.onnx import writer as module
from rightrank.models.emit.onnx.versions import COMMON, FOUR_BITS
from rightrank.models.emit.onnx.writer import Onnx
from rightrank.models.errors import PrecisionError, UnsupportedCheckpoint
from rightrank.models.master.master import Master
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.program import Program
from tests.models import nets
from tests.models.nets import SHAPES, Halved, Recurring, Small, encoded, encoder, make, planner, recurring

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

ENCODINGS = ("plain", "half", "int8")


def written(folder: Path, plan: Plan) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


def loaded(data: bytes, folder: Path, output: Output) -> Network:
    path = folder / f"net{formats.format_of(output).suffix}"
    path.write_bytes(data)
    return formats.format_of(output).load(path)


def same(one: Tensor | tuple[Tensor, ...], other: Tensor | tuple[Tensor, ...], error: float = 2e-6) -> bool:
    several = [each if isinstance(each, tuple) else (each,) for each in (one, other)]
    pairs = list(zip(*several, strict=True))
    return all(float((a - b).abs().max()) <= error * max(1.0, float(b.abs().max())) for a, b in pairs)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda kind: kind.__name__)
def master(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type[nn.Module], Path]:
    return request.param, planner(request.param, tmp_path_factory.mktemp("onnx"))[1]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_has_the_planned_bytes_is_sound_and_computes_what_torchscripts_does(
    master: tuple[type[nn.Module], Path], encoding: str, tmp_path: Path
) -> None:
    kind, folder = master
    output, other = Output("onnx", 1, encoding), Output("torchscript", 2, encoding)
    planners = [Planner.open(folder, each) for each in (output, other)]
    inputs = torch.randn(5, *SHAPES[kind])
    for count in (0, len(planners[0]) // 2, len(planners[0]) - 1):
        plan, script = (each._at(count) for each in planners)
        assert plan.ranks == script.ranks
        data = written(folder, plan)
        assert len(data) == plan.bytes
        onnx.checker.check_model(data, full_check=True)
        with torch.no_grad():
            wanted = loaded(written(folder, script), tmp_path, other)(inputs)
            assert same(loaded(data, tmp_path, output)(inputs), wanted)


def test_four_bits_are_what_the_exact_files_numbers_round_to(
    master: tuple[type[nn.Module], Path], tmp_path: Path
) -> None:
    kind, folder = master
    four, exact = Output("onnx", 1, "int4"), Output("onnx", 1)
    planners = [Planner.open(folder, each) for each in (four, exact)]
    # Of many rows of odd length other runtimes have kernels of their own.
    inputs = torch.randn(64, *SHAPES[kind])
    encoding, odd = encoding_of("int4"), 0
    for count in (0, len(planners[0]) // 2, len(planners[0]) - 1):
        plan, other = (each._at(count) for each in planners)
        data = written(folder, plan)
        assert len(data) == plan.bytes
        onnx.checker.check_model(data, full_check=True)
        packed = {each.name: each for each in onnx.load_from_string(data).graph.initializer if each.data_type == 22}
        model = onnx.load_from_string(written(folder, other))
        for each in model.graph.initializer:
            if each.name in packed:
                parts = encoding.encode(onnx.numpy_helper.to_array(each).view(np.uint32), "float32")
                levels = onnx.numpy_helper.to_array(packed[each.name]).astype(np.int8)
                assert np.array_equal(levels, parts[""]) and np.abs(levels).max() == 7
                odd += levels.size % 2
                assert len(packed[each.name].raw_data) == (levels.size + 1) // 2
                rounded = (levels * parts["scale"]).astype(np.float32)
                each.CopyFrom(onnx.numpy_helper.from_array(rounded, each.name))
        with torch.no_grad():
            wanted = loaded(model.SerializeToString(), tmp_path, exact)(inputs)
            assert packed and same(loaded(data, tmp_path, four)(inputs), wanted)
    assert odd or kind is not Small


@pytest.mark.parametrize("encoding", [*ENCODINGS, "int4"])
def test_every_plan_on_the_path_has_the_predicted_size(master: tuple[type[nn.Module], Path], encoding: str) -> None:
    found = Planner.open(master[1], Output("onnx", 1, encoding))
    for count in range(0, len(found), 5):
        plan = found._at(count)
        assert len(written(master[1], plan)) == plan.bytes


class Square(nn.Module):
    """Layers whose ranks may be as many as their channels, and whose channels are of very different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.wide, self.turned = nn.Linear(8, 8), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 2)
        self.table = nn.Parameter(torch.randn(8, 8))
        with torch.no_grad():
            for weight in (self.flat.weight, self.wide.weight, self.turned.weight, self.table):
                scale = 10.0 ** torch.arange(-3, 5)
                weight *= scale.reshape(-1, *(1,) * (weight.ndim - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.turned(torch.tanh(self.wide(x))))
        return self.flat(torch.tanh(x.mean((2, 3)))) @ self.table


def test_scales_lie_along_the_first_axis_even_where_both_have_one_size(tmp_path: Path) -> None:
    """Of a factor of 8 ranks and 8 channels a scale along the wrong axis would run, and be wrong."""
    torch.manual_seed(0)
    program = nets.read(Square(), (8, 6, 6), tmp_path)
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    template = Master.open(tmp_path / "master").template
    output, other = Output("onnx", 1, "int8"), Output("torchscript", 2, "int8")
    inputs = torch.randn(4, 8, 6, 6)
    square = 0
    for ranks in ([min(8, layer.rank) for layer in template.decomposed], [0] * len(template.decomposed)):
        square += sum(layer.factor_shapes(8)["up"][:2] == (8, 8) for layer in template.decomposed if max(ranks))
        files = []
        for each in (output, other):
            made = formats.writer_of(template, each)
            data = b"".join(made.pieces(Master.open(tmp_path / "master").file, ranks, None))
            files.append(loaded(data, tmp_path, each))
            if each is output:
                graph = onnx.load_from_string(data).graph
                scales = [each for each in graph.initializer if each.name.endswith(".scale")]
                assert all(set(each.dims[1:]) == {1} for each in scales) and len(scales) >= 4
                # Older versions of onnxruntime lose its axis where they move or copy it.
                assert "DequantizeLinear" not in {node.op_type for node in graph.node}
        with torch.no_grad():
            assert same(files[0](inputs), files[1](inputs), 2e-5)
    assert square >= 3


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path)
    code = (
        "import io, sys, hashlib\nfrom pathlib import Path\nfrom rightrank.models.emit import formats\n"
        "from rightrank.models.emit.format import Output\nfrom rightrank.models.plan.planner import Planner\n"
        "for encoding in ('plain', 'int8', 'int4', 'half'):\n"
        # Halves are rounded by torch, when they are written.
        "    assert 'torch' not in sys.modules\n"
        "    file = io.BytesIO()\n"
        "    plan = Planner.open(Path(sys.argv[1]), Output('onnx', 1, encoding)).plan(0.5)\n"
        "    formats.write(Path(sys.argv[1]), plan, file)\n"
        "    print(plan.bytes, hashlib.sha256(file.getvalue()).hexdigest())\n"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            capture_output=True,
            check=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]
    plans = [Planner.open(folder, Output("onnx", 1, each)).plan(0.5) for each in ("plain", "int8", "int4", "half")]
    own = [f"{plan.bytes} {hashlib.sha256(written(folder, plan)).hexdigest()}" for plan in plans]
    assert found[0] == found[1] == "\n".join(own) + "\n"


def test_the_network_as_uploaded_keeps_its_norms_and_its_zero_channels(tmp_path: Path) -> None:
    network, folder, _ = planner(Halved, tmp_path)
    output = Output("onnx")
    plan = Planner.open(folder, output).plan(1.0)
    assert plan.original
    data = written(folder, plan)
    assert len(data) == plan.bytes
    assert "BatchNormalization" in {node.op_type for node in onnx.load_from_string(data).graph.node}
    inputs = torch.randn(3, *SHAPES[Halved])
    with torch.no_grad():
        assert same(loaded(data, tmp_path, output)(inputs), network(inputs))


def test_names_free_sizes_and_versions_stand_in_the_file(tmp_path: Path) -> None:
    _, program = encoder(tmp_path)
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    output = Output("onnx")
    plan = Planner.open(tmp_path / "master", output).smallest
    model = onnx.load_from_string(written(tmp_path / "master", plan))
    given = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in model.graph.input
    }
    assert given == {"input_ids": ["batch", "input_ids_1"], "attention_mask": ["batch", "attention_mask_1"]}
    (result,) = model.graph.output
    assert result.name == program.graph.outputs[0]
    assert [dim.dim_param or dim.dim_value for dim in result.type.tensor_type.shape.dim] == ["batch", 3]
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    nodes = [node.name for node in model.graph.node]
    assert all(nodes) and len(set(nodes)) == len(nodes)
    assert {each.name for each in model.graph.initializer} >= {"words.weight.down", "words.weight.up"}


def test_a_free_length_is_measured_in_the_formats_own_runtime(tmp_path: Path) -> None:
    module, program = encoder(tmp_path)
    data = encoded(20)
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    output = Output("onnx")
    network = loaded(
        written(tmp_path / "master", Planner.open(tmp_path / "master", output).plan(1.0)), tmp_path, output
    )
    for group in data.samples.groups:
        with torch.no_grad():
            assert same(network(*group), module(*group))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_accuracy_is_that_of_the_files_own_bytes(encoding: str, tmp_path: Path) -> None:
    network, folder, _ = planner(Small, tmp_path)
    inputs = torch.randn(200, *SHAPES[Small])
    with torch.no_grad():
        save_file({"inputs": inputs, "targets": network(inputs).argmax(1)}, tmp_path / "evaluation.safetensors")
    output = Output("onnx", 1, encoding)
    plan = Planner.open(folder, output).largest
    (tmp_path / "net.onnx").write_bytes(written(folder, plan))
    found = measure(tmp_path / "net.onnx", tmp_path / "evaluation.safetensors", output=output)
    assert found.value > 0.9 and found.n == 200


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("options", [{"levels": 2, "both": True}, {"biased": False, "batch_first": False}])
@pytest.mark.parametrize("encoding", ["plain", "int8"])
def test_recurrent_calls_are_cut_as_torchscripts_are(
    cell: str, options: dict[str, bool], encoding: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    program: Program = recurring(cell, **options)  # type: ignore[arg-type]
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    inputs = torch.randn(*(2, 7, 9) if options.get("batch_first", True) else (7, 2, 9))
    for count in (0, 30, -1):
        results, ranks = [], set()
        for output in (Output("onnx", 1, encoding), Output("torchscript", 2, encoding)):
            found = Planner.open(tmp_path / "master", output)
            plan = found._at(count % len(found))
            ranks.add(plan.ranks)
            data = written(tmp_path / "master", plan)
            assert len(data) == plan.bytes
            with torch.no_grad():
                results.append(loaded(data, tmp_path, output)(inputs))
        assert len(ranks) == 1 and same(*results)


def test_levels_that_a_runtime_has_no_kernel_for_come_by_way_of_32_bits(tmp_path: Path) -> None:
    """OpenVINO takes an int8 tensor that becomes float32 at once for weights of its own kernels."""

    def levels(folder: Path, encoding: str) -> dict[str, list[int]]:
        """By the tensor, the types that levels are cast to, one after the other."""
        plan = Planner.open(folder, Output("onnx", 1, encoding)).smallest
        graph = onnx.load_from_string(written(folder, plan)).graph
        casts = {node.input[0]: node for node in graph.node if node.op_type == "Cast"}
        found: dict[str, list[int]] = {}
        for tensor in graph.initializer:
            value, types = tensor.name, []
            while value in casts:
                value, types = casts[value].output[0], [*types, casts[value].attribute[0].i]
            if types:
                found[tensor.name] = types
        return found

    floats, by_way = [onnx.TensorProto.FLOAT], [onnx.TensorProto.INT32, onnx.TensorProto.FLOAT]
    folder = planner(Recurring, tmp_path)[1]
    eight = levels(folder, "int8")
    assert {name: types for name, types in eight.items() if not name.startswith("cells.")}.keys() == {
        "head.weight.down",
        "head.weight.up",
    }
    for name, types in eight.items():
        assert types == (by_way if name.startswith("cells.weight") else floats), name
    assert {*map(tuple, levels(folder, "int4").values())} == {tuple(by_way)}


def test_a_network_in_half_precision_stays_so(tmp_path: Path) -> None:
    program = nets.read(make(Small).half(), SHAPES[Small], tmp_path, torch.float16)
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    output = Output("onnx")
    plan = Planner.open(tmp_path / "master", output).plan(0.6)
    data = written(tmp_path / "master", plan)
    assert len(data) == plan.bytes
    model = onnx.load_from_string(data)
    assert {each.data_type for each in model.graph.initializer} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    found = loaded(data, tmp_path, output)(torch.randn(2, *SHAPES[Small]).half())
    assert isinstance(found, Tensor) and found.dtype == torch.float16 and bool(found.isfinite().all())


def test_what_onnx_has_not_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder, _ = planner(Recurring, tmp_path)
    template = Master.open(folder).template
    with pytest.raises(PrecisionError, match="no coded levels.*float32, float16 or int8.*torchscript"):
        formats.check(template, Output("onnx", 1, "levels"))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert Onnx().available() == "onnx and onnxruntime are not installed here"
    with pytest.raises(UnsupportedCheckpoint, match=r"This server has no ONNX\. Install rightrank\[onnx\]"):
        Onnx().writer(template, encoding_of("plain"))


def test_it_says_that_it_is_available() -> None:
    assert Onnx().available() == ""


class Unheard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(self.layer(x))


def test_a_program_with_an_operator_without_a_row_is_refused_by_name(tmp_path: Path) -> None:
    program = nets.read(Unheard(), (3, 3), tmp_path)
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    with pytest.raises(UnsupportedCheckpoint, match=r"calls aten\.linalg_inv.*in ONNX.*another format"):
        formats.check(Master.open(tmp_path / "master").template, Output("onnx"))


class Added(Unheard):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + 1)


def test_a_network_that_computes_in_bfloat16_is_refused(tmp_path: Path) -> None:
    program = nets.read(Added().to(torch.bfloat16), (3, 3), tmp_path, torch.bfloat16)
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    with pytest.raises(UnsupportedCheckpoint, match="computes in bfloat16.*another format"):
        formats.check(Master.open(tmp_path / "master").template, Output("onnx"))


class Several(nn.Module):
    """An input that is an output, one that comes twice, a stored tensor, and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(x)
        return y, y, x, self.layer.weight, y * scale * x.shape[0], torch.arange(3)


def test_outputs_of_every_kind_have_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Several().eval()
    inputs = torch.randn(2, 4), torch.tensor(2.0)
    exported = torch.export.export(network, inputs, dynamic_shapes=({0: torch.export.Dim("batch")}, None))
    torch.export.save(exported, tmp_path / "net.pt2")
    program = checkpoint.read(tmp_path / "net.pt2")
    assemble.build(program, tmp_path / "master", None, criterion="c1c2", mixed=False)
    output = Output("onnx")
    for count in (0, 1, -1):
        found = Planner.open(tmp_path / "master", output)
        plan = found._at(count % len(found))
        data = written(tmp_path / "master", plan)
        assert len(data) == plan.bytes
        onnx.checker.check_model(data, full_check=True)
        got: Sequence[Tensor] = loaded(data, tmp_path, output)(torch.randn(5, 4), torch.tensor(2.0))  # type: ignore[assignment]
        assert len(got) == 6 and torch.equal(got[0], got[1]) and got[0].shape == (5, 4)
        assert torch.allclose(got[4], got[0] * 10)
        assert got[5].tolist() == [0, 1, 2]


def test_large_tensors_are_views_into_the_master(tmp_path: Path) -> None:
    _, folder, found = planner(Small, tmp_path)
    master = Master.open(folder)
    plan = Planner.open(folder, Output("onnx")).plan(1.0)
    pieces = list(formats.pieces(master, plan))
    whole = np.asarray(master.file._data)
    views = [each for each in pieces if isinstance(each, memoryview) and np.shares_memory(np.asarray(each), whole)]
    assert sum(map(len, views)) > 0.8 * plan.bytes


def test_the_least_runtime_is_named() -> None:
    assert (COMMON.runtime, FOUR_BITS.runtime) == ("1.15", "1.23")
    assert COMMON.runtime in Path(module.__file__).resolve().parents[3].joinpath("ARCHITECTURE.md").read_text()
