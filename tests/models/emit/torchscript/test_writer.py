from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TypeAlias

import pytest
import torch
from safetensors.torch import save_file

from rightrank.models.emit import archive, formats
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import SHAPES, Attending, Halved, Placed, Shared, Small, build, planner, source

Case: TypeAlias = tuple[torch.nn.Module, Path, Planner]
BUDGETS = [1.0, 0.7, 0.5, 0.45]


@pytest.fixture(scope="module", params=[Small, Shared, Halved])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return planner(request.param, tmp_path_factory.mktemp("emit"))


def share(planner: Planner, params: float) -> Plan:
    """A plan by parameters alone: code takes most of the files of nets as small as these."""
    return planner.plan(max_params=int(params * planner.template.original.params))


def emit(folder: Path, plan: Plan) -> bytes:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    return file.getvalue()


def load(data: bytes) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(data))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_whole_budget_gives_the_originals_outputs_bit_for_bit(case: Case, batch: int) -> None:
    module, folder, planner_ = case
    x = torch.randn(batch, *SHAPES[type(module)])
    with torch.no_grad():
        assert torch.equal(load(emit(folder, planner_.plan(1.0)))(x), module(x))


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_file_has_exactly_the_planned_bytes_and_parameters(case: Case, budget: float) -> None:
    _, folder, planner_ = case
    plan = share(planner_, budget)
    data = emit(folder, plan)
    assert len(data) == plan.bytes
    assert sum(p.numel() for p in load(data).parameters()) == plan.params


def test_every_plan_on_the_path_has_the_predicted_size(case: Case) -> None:
    _, folder, planner_ = case
    for count in {*range(0, len(planner_), 3), len(planner_) - 2, len(planner_) - 1}:
        plan = planner_._at(count)
        assert len(emit(folder, plan)) == plan.bytes


def test_the_outputs_approach_the_originals_as_the_budget_grows(case: Case) -> None:
    module, folder, planner_ = case
    x = torch.randn(64, *SHAPES[type(module)])
    with torch.no_grad():
        sizes = [int(share * planner_.template.params) for share in (0.45, 0.8)]
        plans = [*(planner_.plan(max_params=size) for size in sizes), planner_.plan(1.0)]
        errors = [float((load(emit(folder, plan))(x) - module(x)).norm()) for plan in plans]
    assert errors[0] > errors[1] > errors[2] == 0


def test_another_process_writes_the_same_bytes(case: Case) -> None:
    _, folder, planner_ = case
    script = (
        "import hashlib, io, sys; from pathlib import Path; "
        "from rightrank.models.emit import formats; "
        "from rightrank.models.plan.planner import Planner; f = io.BytesIO(); d = Path(sys.argv[1]); "
        "formats.write(d, Planner.open(d).plan(max_params=int(sys.argv[2])), f); "
        "print(hashlib.sha256(f.getvalue()).hexdigest()); "
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.getcwd()}
    plan = share(planner_, 0.5)
    command = [sys.executable, "-c", script, str(folder), str(plan.params)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == hashlib.sha256(emit(folder, plan)).hexdigest(), done.stderr


def test_the_file_is_a_sound_zip_without_paths_or_dates(case: Case) -> None:
    _, folder, planner_ = case
    data = emit(folder, share(planner_, 0.5))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            if entry.filename.startswith("variant/data/"):
                extra = int.from_bytes(data[entry.header_offset + 28 : entry.header_offset + 30], "little")
                start = entry.header_offset + 30 + len(entry.filename) + extra
                assert start % 64 == 0
        assert not any(word in data for word in (b"/site-packages", b"tests/", os.getcwd().encode()))


def test_torch_can_save_and_freeze_what_was_written(case: Case) -> None:
    module, folder, planner_ = case
    x = torch.randn(3, *SHAPES[type(module)])
    loaded = load(emit(folder, share(planner_, 0.5))).eval()
    again = io.BytesIO()
    torch.jit.save(loaded, again)
    with torch.no_grad():
        assert torch.equal(load(again.getvalue())(x), loaded(x))
        assert torch.allclose(torch.jit.freeze(loaded)(x), loaded(x), atol=1e-5)


def test_without_zero_channels_the_whole_network_computes_the_same(tmp_path: Path) -> None:
    module, folder, planner_ = planner(Halved, tmp_path)
    plan, x = share(planner_, 0.99), torch.randn(8, *SHAPES[Halved])
    data = emit(folder, plan)
    assert plan.reduced and len(data) == plan.bytes < planner_.plan(1.0).bytes
    assert sum(p.numel() for p in load(data).parameters()) == plan.params
    with torch.no_grad():
        torch.testing.assert_close(load(data)(x), module(x), rtol=1e-5, atol=1e-5)


def test_what_a_plan_has_of_its_own_never_changes_the_upload(tmp_path: Path) -> None:
    module, folder, planner_ = planner(Halved, tmp_path)
    save_file({"dense/norm.running_mean": torch.full((8,), 9.0)}, tmp_path / "own.safetensors")
    written = []
    for own in (None, tmp_path / "own.safetensors"):
        file = io.BytesIO()
        formats.write(folder, planner_.plan(1.0), file, own)
        written.append(file.getvalue())
    assert written[0] == written[1]


def test_a_weight_shared_by_two_calls_is_stored_once(tmp_path: Path) -> None:
    _, folder, planner_ = planner(Shared, tmp_path)
    names = [name for name, _ in load(emit(folder, share(planner_, 0.5))).named_parameters()]
    assert len([name for name in names if name.startswith("twice_weight")]) in (1, 2)
    layer = next(layer for layer in planner_.template.layers if layer.name == "twice")
    assert len(layer.calls) == 2 and layer.positions == 2


def test_freezing_folds_a_batch_norm_into_the_convolution_before_it(tmp_path: Path) -> None:
    module, folder, found = planner(Small, tmp_path)
    x = torch.randn(2, *SHAPES[Small])
    for plan in (found.plan(1.0), found.smallest):
        frozen = torch.jit.freeze(load(emit(folder, plan)).eval())
        assert "batch_norm" not in str(frozen.graph)
        with torch.no_grad():
            torch.testing.assert_close(frozen(x), load(emit(folder, plan))(x), rtol=1e-4, atol=1e-5)


def test_einsum_runs_from_the_file_as_it_was_written(tmp_path: Path) -> None:
    module, folder, found = planner(Attending, tmp_path)
    x = torch.randn(3, *SHAPES[Attending])
    with torch.no_grad():
        assert torch.equal(load(emit(folder, found.plan(1.0)))(x), module(x))
        assert load(emit(folder, found.smallest))(x).shape == (3, 10)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_file_runs_on_the_device_that_it_is_loaded_to(kind: type[torch.nn.Module], tmp_path: Path) -> None:
    """Of what every machine has, on torch's meta device; outputs are compared on a GPU where there is one."""
    _, folder, found = planner(kind, tmp_path)
    x = torch.randn(3, *SHAPES[kind])
    for plan in (found.plan(1.0), found.smallest):
        data = emit(folder, plan)
        with torch.no_grad():
            expected = load(data)(x)
            for device in ["meta", *(["cuda"] if torch.cuda.is_available() else [])]:
                result = torch.jit.load(io.BytesIO(data), map_location=device)(x.to(device))
                assert (result.device.type, result.shape) == (device, expected.shape)
                if device != "meta":
                    torch.testing.assert_close(result.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_freezing_folds_what_a_program_makes_of_numbers_alone(tmp_path: Path) -> None:
    _, folder, found = planner(Placed, tmp_path)
    for plan in (found.plan(1.0), found.smallest):
        loaded = load(emit(folder, plan)).eval()
        assert "aten::arange" in str(loaded.graph) and "aten::arange" not in str(torch.jit.freeze(loaded).graph)


def test_a_program_whose_only_tensor_is_cut_runs_where_its_input_is(tmp_path: Path) -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = torch.nn.Linear(16, 12, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.only(x + torch.ones(16, device=x.device))

    module, x = Bare(), torch.randn(3, 16)
    build(source(module, (16,), tmp_path / "source"), tmp_path / "master")
    found = Planner.open(tmp_path / "master")
    for plan in (found.plan(1.0), found.smallest):
        data = emit(tmp_path / "master", plan)
        assert torch.jit.load(io.BytesIO(data), map_location="meta")(x.to("meta")).device.type == "meta"
    with torch.no_grad():
        assert torch.equal(load(emit(tmp_path / "master", found.plan(1.0)))(x), module(x))


class Sum(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(64, 24)) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        products = [torch.mm(x[:, 64 * at : 64 * at + 64], part) for at, part in enumerate(self.parts)]
        return products[0] + products[1] + products[2] + products[3]


def test_the_outputs_stay_the_originals_once_torch_has_optimised_the_file(tmp_path: Path) -> None:
    """It knows a sum of four products from the second call on."""
    module = Sum().eval()
    build(source(module, (256,), tmp_path / "source"), tmp_path / "master")
    loaded = load(emit(tmp_path / "master", Planner.open(tmp_path / "master").plan(1.0)))
    with torch.no_grad():
        for _ in range(4):
            x = torch.randn(8, 256)
            assert torch.equal(loaded(x), module(x))


@pytest.mark.parametrize("name", ["NoneType", "Ellipsis", "None", "class", "torch"])
def test_a_tensor_may_have_a_name_that_the_language_keeps_for_itself(name: str, tmp_path: Path) -> None:
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter(name, torch.nn.Parameter(torch.randn(6, 6)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.get_parameter(name)

    module, x = Named(), torch.randn(3, 6)
    build(source(module, (6,), tmp_path / "source"), tmp_path / "master")
    loaded = load(emit(tmp_path / "master", Planner.open(tmp_path / "master").plan(1.0)))
    assert torch.equal(loaded(x), module(x))


def test_a_network_whose_file_the_format_cannot_hold_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST", 5000)
    folder = source(torch.nn.Linear(64, 64), (64,), tmp_path / "source")
    with pytest.raises(UnsupportedCheckpoint, match=r"a file of 18,\d+ bytes"):
        build(folder, tmp_path / "master")
    assert not (tmp_path / "master").exists()
