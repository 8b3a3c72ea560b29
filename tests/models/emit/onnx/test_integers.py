from __future__ import annotations

import hashlib
import io
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rightrank.models.assemble import build as assemble
from rightrank.models.assemble import integers
from rightrank.models.emit import formats
from rightrank.models.emit.encoding.w8a8 import MOST
from rightrank.models.emit.format import Network, Output
from rightrank.models.emit.onnx.writer import Onnx
from rightrank.models.improve import ranges as improved
from rightrank.models.improve.choose import improve
from rightrank.models.master.master import Master
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.samples import Samples
from rightrank.models.progress import silent
from tests.models import nets
from tests.models.nets import SHAPES, Cardinal, Painter, Placed, Separable, Shared, Small

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

INTEGERS, EXACT = Output("onnx", 1, "w8a8"), Output("onnx")


def written(folder: Path, plan: Plan, changes: Path | None = None) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file, changes)
    return file.getvalue()


def loaded(data: bytes, folder: Path) -> Network:
    path = folder / "file.onnx"
    path.write_bytes(data)
    return Onnx().load(path)


def built(kind: type[nn.Module], folder: Path, shape: tuple[int, ...] | None = None, most: float = math.inf) -> Path:
    """A master whose layers all compute in int8, if that changes outputs by `most` at the most."""
    torch.manual_seed(0)
    shape = shape or SHAPES[kind]
    program = nets.read(nets.make(kind), shape, folder)
    inputs = Samples.of(torch.randn(48, *shape))
    assemble.build(program, folder / "master", None, criterion="c1c2", mixed=False)
    integers.save(folder / "master", inputs, silent, most)
    return folder / "master"


def outputs(folder: Path, plan: Plan, inputs: Tensor, scratch: Path, changes: Path | None = None) -> Tensor:
    found = loaded(written(folder, plan, changes), scratch)(inputs)
    return found if isinstance(found, Tensor) else found[0]


def kernels(data: bytes, folder: Path) -> Counter[str]:
    """What onnxruntime runs for a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 4
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("kind", [Small, Shared, Separable, Painter, Cardinal, Placed])
def test_a_file_has_the_planned_bytes_is_sound_and_is_near_the_one_without_rounding(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    folder = built(kind, tmp_path)
    planners = [Planner.open(folder, each) for each in (INTEGERS, EXACT)]
    torch.manual_seed(1)
    inputs = torch.randn(32, *SHAPES[kind])
    most = None
    for count in (len(planners[0]) - 1, len(planners[0]) // 2, len(planners[0]) // 4):
        plan, exact = (each._at(count) for each in planners)
        assert plan.ranks == exact.ranks
        data = written(folder, plan)
        assert len(data) == plan.bytes
        onnx.checker.check_model(data, full_check=True)
        wanted = outputs(folder, exact, inputs, tmp_path)
        most = most or allowed(wanted)
        assert float((loaded(data, tmp_path)(inputs) - wanted).square().mean()) < most


def allowed(wanted: Tensor) -> float:
    """Of a mean square error: some of what outputs vary by, which of a random network may be next to nothing."""
    return 0.1 * float((wanted - wanted.mean(0)).square().mean()) + 1e-3 * float(wanted.square().mean())


@pytest.mark.parametrize("kind", [Small, Cardinal])
def test_every_plan_on_the_path_has_the_predicted_size(kind: type[nn.Module], tmp_path: Path) -> None:
    folder = built(kind, tmp_path)
    found = Planner.open(folder, INTEGERS)
    for count in range(0, len(found), 7):
        plan = found._at(count)
        assert len(written(folder, plan)) == plan.bytes


class Square(nn.Module):
    """Layers whose ranks may be as many as their channels, and whose channels are of very different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.over, self.flat = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 8)
        with torch.no_grad():
            for layer in (self.wide, self.over, self.flat):
                # What is rounded as one tensor bears less than what has a scale for each output.
                scale = (10.0 if layer is self.flat else 1.4) ** torch.arange(-4, 4)
                layer.weight *= scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.over(self.wide(x)).amax((2, 3)))


def test_scales_lie_along_the_first_axis_even_where_rank_and_channels_are_one_number(tmp_path: Path) -> None:
    """Of a factor of 8 ranks and 8 channels a scale along the wrong axis would run, and be wrong."""
    folder = built(Square, tmp_path, (8, 8, 8))
    master = Master.open(folder)
    template = master.template
    assert template.integers is not None and len(template.integers.layers) == 3
    ranks = [8] * len(template.decomposed)
    assert all(layer.factor_shapes(8)["up"][:2] == (8, 8) for layer in template.decomposed)
    assert all(layer.factor_shapes(8)["down"][0] == 8 for layer in template.decomposed)
    # Beyond what a plan would cut to, so the ranges of the bases are given here.
    torch.manual_seed(2)
    inputs = torch.randn(64, 8, 8, 8)
    changes = tmp_path / "changes.safetensors"
    improve_nothing(folder, ranks, inputs, changes)
    files = []
    for output in (INTEGERS, EXACT):
        encoding = formats.encoding_of(output.encoding)
        own = formats.TensorFile(changes) if output is INTEGERS else None
        data = b"".join(formats.format_of(output).writer(template, encoding).pieces(master.file, ranks, own))
        files.append(loaded(data, tmp_path)(inputs))
        if output is INTEGERS:
            model = onnx.load_from_string(data)
            scales = {each.name: each.dims for each in model.graph.initializer if each.name.endswith(".scale")}
            per_axis = [
                next((a.i for a in node.attribute if a.name == "axis"), 1)
                for node in model.graph.node
                if node.op_type == "DequantizeLinear" and list(scales[node.input[1]])
            ]
            assert per_axis == [0] * len(per_axis) and len(per_axis) >= 6
    whole, exact = files
    for channel in range(8):  # the smallest as good as the largest
        error = float((whole - exact)[:, channel].square().mean())
        assert error < 0.02 * float(exact[:, channel].var())


def improve_nothing(folder: Path, ranks: list[int], inputs: Tensor, out: Path) -> None:
    """A file of changes that has nothing but the ranges of a plan."""
    from safetensors.torch import load_file, save_file

    from rightrank.models.master import entries

    kept = load_file(folder / entries.REFIT) if (folder / entries.REFIT).exists() else {}
    save_file({**kept, "inputs": inputs}, folder / entries.REFIT)
    save_file({}, out, {"method": "cut"})
    improved.add(folder, ranks, out, silent)


class Block(nn.Module):
    """Two residual blocks, of which one is depthwise, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.one, self.deep = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pool, self.mean, self.head = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)
        self.clip = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.norm(self.stem(x))))
        x = torch.relu(x + self.one(x))
        x = x + self.clip(self.deep(x))
        return self.head(self.mean(x).flatten(1))


def test_kernels_of_integers_take_the_place_of_layers_sums_and_pools(tmp_path: Path) -> None:
    folder = built(Block, tmp_path, (3, 12, 12))
    found = Planner.open(folder, INTEGERS)
    whole = kernels(written(folder, found.largest), tmp_path)
    assert whole["QLinearConv"] == 3 and whole["QLinearAdd"] == 2 and whole["QGemm"] == 1
    assert whole["QLinearGlobalAveragePool"] == 1
    for name in ("Conv", "Gemm", "Add", "Relu", "Clip", "BatchNormalization", "DequantizeLinear"):
        assert not whole[name], (name, whole)
    assert whole["QuantizeLinear"] == 1  # of the images
    smallest = kernels(written(folder, found.smallest), tmp_path)
    assert smallest["QLinearConv"] == 5 and not smallest["Conv"] and not smallest["DequantizeLinear"]


def test_levels_are_such_that_no_processor_cuts_sums_off(tmp_path: Path) -> None:
    folder = built(Small, tmp_path)
    model = onnx.load_from_string(written(folder, Planner.open(folder, INTEGERS).largest))
    levels = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer if each.data_type == 3]
    weights = [each for each in levels if each.ndim > 1]
    assert len(weights) == 5 and 2 * 255 * MOST < 2**15
    computing = [each for each in weights if np.abs(each).max() <= MOST]
    assert len(computing) == 4  # that of a layer in groups that can be cut is kept in all levels, and not computed with


def test_a_longer_cut_begins_with_a_shorter_one(tmp_path: Path) -> None:
    """A cut is a copy: levels of a basis, and its scale, are the same at every rank between two knots."""
    folder = built(Small, tmp_path)
    master = Master.open(folder)
    template = master.template
    assert template.integers is not None
    place = next(at for at, layer in enumerate(template.decomposed) if layer.weight in template.integers.layers)
    weight, found = template.decomposed[place].weight, []
    for rank in (2, 3, 5):
        ranks = [0] * len(template.decomposed)
        ranks[place] = rank
        assert template.integers.around(template.params_at(ranks)) == (0, 1)
        encoding = formats.W8A8(master.ranges)
        data = b"".join(formats.format_of(INTEGERS).writer(template, encoding).pieces(master.file, ranks, None))
        tensors = {
            each.name: onnx.numpy_helper.to_array(each) for each in onnx.load_from_string(data).graph.initializer
        }
        found.append([tensors[f"{weight}.{part}"] for part in ("down", "down.scale", "inside.scale")])
    for shorter, longer in zip(found, found[1:], strict=False):
        for one, two in zip(shorter[:2], longer[:2], strict=True):
            assert np.array_equal(one, two[: len(one)])
        assert shorter[2] <= longer[2]


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    folder = built(Small, tmp_path)
    code = (
        "import io, sys, hashlib\nfrom pathlib import Path\nfrom rightrank.models.emit import formats\n"
        "from rightrank.models.emit.format import Output\nfrom rightrank.models.plan.planner import Planner\n"
        "file = io.BytesIO()\n"
        "plan = Planner.open(Path(sys.argv[1]), Output('onnx', 1, 'w8a8')).plan(max_params=4000)\n"
        "formats.write(Path(sys.argv[1]), plan, file)\n"
        "assert 'torch' not in sys.modules\n"
        "print(plan.bytes, hashlib.sha256(file.getvalue()).hexdigest())\n"
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
    plan = Planner.open(folder, INTEGERS).plan(max_params=4000)
    assert found[0] == found[1] == f"{plan.bytes} {hashlib.sha256(written(folder, plan)).hexdigest()}\n"


def test_a_refit_has_ranges_of_its_own(tmp_path: Path) -> None:
    """What is fitted reaches other values than what was cut, between its factors most of all."""
    torch.manual_seed(0)
    program = nets.read(nets.make(Small), SHAPES[Small], tmp_path)
    inputs = torch.randn(200, *SHAPES[Small])
    folder = tmp_path / "master"
    assemble.build(program, folder, Samples.of(inputs), criterion="logit", keep=200, mixed=False)
    integers.save(folder, Samples.of(inputs), silent, math.inf)
    plans = [Planner.open(folder, each).plan(max_params=2500) for each in (INTEGERS, EXACT)]
    changes = tmp_path / "improved.safetensors"
    assert improve(folder, plans[0].ranks, changes, silent, output=Output("torchscript", 2, "w8a8")) == "refit"
    before = written(folder, plans[0], changes)
    improved.add(folder, plans[0].ranks, changes, silent)
    data = written(folder, plans[0], changes)
    assert len(data) == plans[0].bytes and data != before
    torch.manual_seed(1)
    some = torch.randn(32, *SHAPES[Small])
    wanted = outputs(folder, plans[1], some, tmp_path, changes)
    assert float((loaded(data, tmp_path)(some) - wanted).square().mean()) < allowed(wanted)
