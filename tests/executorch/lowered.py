"""Files of ExecuTorch, made and run: needs its package, so `make test-executorch` runs it in an environment apart."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rightrank.models import architectures
from rightrank.models.assemble.build import build
from rightrank.models.checkpoint import read
from rightrank.models.emit import formats
from rightrank.models.emit.executorch.writer import BATCH, ExecuTorch
from rightrank.models.emit.format import Output
from rightrank.models.errors import FormatError, PrecisionError
from rightrank.models.measure.accuracy import measure
from rightrank.models.plan.planner import Plan, Planner
from tests.models.nets import SHAPES, Attending, Small, planner


def planned(folder: Path, share: float, format: str, encoding: str) -> Plan:
    found = Planner.open(folder, Output(format, 1, encoding))
    return found.plan(max_params=int(share * found.template.original.params))


def written(folder: Path, plan: Plan, path: Path) -> Path:
    file = io.BytesIO()
    formats.write(folder, plan, file)
    path.write_bytes(file.getvalue())
    return path


@pytest.fixture(scope="module", params=[Small, Attending])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[type[nn.Module], Path]:
    return request.param, planner(request.param, tmp_path_factory.mktemp("pte"))[1]


@pytest.mark.parametrize(("share", "encoding", "near"), [(1.0, "plain", 1e-5), (0.5, "half", 5e-3)])
def test_a_file_computes_what_the_pt2_file_does_for_any_number_of_samples(
    case: tuple[type[nn.Module], Path], share: float, encoding: str, near: float, tmp_path: Path
) -> None:
    kind, folder = case
    plan = planned(folder, share, "executorch", encoding)
    path = written(folder, plan, tmp_path / "a.pte")
    assert formats.as_planned(plan, path.stat().st_size)
    same = planned(folder, share, "pt2", "plain")
    exact = formats.format_of(same.output).load(written(folder, same, tmp_path / "a.pt2"))
    run = ExecuTorch().load(path)
    for samples in (1, 3, BATCH, 2 * BATCH + 3):
        x = torch.randn(samples, *SHAPES[kind])
        with torch.inference_mode():
            torch.testing.assert_close(run(x), exact(x), rtol=near, atol=near)


def test_a_file_is_measured_in_its_own_runtime(case: tuple[type[nn.Module], Path], tmp_path: Path) -> None:
    kind, folder = case
    x = torch.randn(50, *SHAPES[kind])
    plan = planned(folder, 1.0, "executorch", "plain")
    path = written(folder, plan, tmp_path / "a.pte")
    with torch.inference_mode():
        targets = ExecuTorch().load(path)(x).argmax(1)  # type: ignore[union-attr]
    save_file({"inputs": x, "targets": targets}, tmp_path / "evaluation.safetensors")
    found = measure(path, tmp_path / "evaluation.safetensors", output=plan.output)
    assert (found.value, found.n) == (1, 50)


def test_another_process_makes_the_same_bytes(tmp_path: Path) -> None:
    _, folder, _ = planner(Small, tmp_path)
    script = (
        "import hashlib, io, sys; from pathlib import Path; "
        "from rightrank.models.emit import formats; from rightrank.models.emit.format import Output; "
        "from rightrank.models.plan.planner import Planner; f = io.BytesIO(); d = Path(sys.argv[1]); "
        "formats.write(d, Planner.open(d, Output('executorch', 1, 'half')).plan(max_params=int(sys.argv[2])), f); "
        "print(hashlib.sha256(f.getvalue()).hexdigest())"
    )
    plan = planned(folder, 0.5, "executorch", "half")
    here = hashlib.sha256(written(folder, plan, tmp_path / "a.pte").read_bytes()).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", script, str(folder), str(plan.params)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.strip().split("\n")[-1] == here, done.stderr


def test_a_file_of_one_batch_size_takes_that(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(4, 16),)), tmp_path / "a.pt2")
    build(read(tmp_path / "a.pt2"), tmp_path / "master", mixed=False)
    plan = planned(tmp_path / "master", 1.0, "executorch", "plain")
    run = ExecuTorch().load(written(tmp_path / "master", plan, tmp_path / "a.pte"))
    x = torch.randn(4, 16)
    with torch.inference_mode():
        torch.testing.assert_close(run(x), module(x))


def test_a_program_whose_batch_gets_fixed_on_the_way_takes_one_sample_at_once(tmp_path: Path) -> None:
    sizes = {"image_size": 32, "depth": 1, "heads": 2, "dim": 32, "mlp_dim": 64, "num_classes": 10}
    module, x = architectures.build("vit", **sizes).eval(), torch.randn(3, 3, 32, 32)
    free = {0: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=(free,)), tmp_path / "a.pt2")
    build(read(tmp_path / "a.pt2"), tmp_path / "master", mixed=False)
    plan = planned(tmp_path / "master", 1.0, "executorch", "plain")
    run = ExecuTorch().load(written(tmp_path / "master", plan, tmp_path / "a.pte"))
    with torch.inference_mode():
        torch.testing.assert_close(run(x), module(x), rtol=1e-4, atol=1e-4)


def test_what_its_runtime_has_no_kernel_for_is_refused_in_words(tmp_path: Path) -> None:
    class Sorting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(self.inner(x).reshape(-1, 2, 4))

    free = {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(Sorting().eval(), (torch.randn(2, 16),), dynamic_shapes=(free,))
    torch.export.save(exported, tmp_path / "a.pt2")
    build(read(tmp_path / "a.pt2"), tmp_path / "master", mixed=False)
    plan = planned(tmp_path / "master", 1.0, "executorch", "plain")
    with pytest.raises(FormatError, match="ExecuTorch"):
        ExecuTorch().load(written(tmp_path / "master", plan, tmp_path / "a.pte"))


def test_names_that_begin_with_a_number_are_no_hindrance(tmp_path: Path) -> None:
    """As those of a Sequential do, whose norms ExecuTorch makes part of what is before them."""
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    exported = torch.export.export(net, (torch.randn(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(exported, tmp_path / "a.pt2")
    build(read(tmp_path / "a.pt2"), tmp_path / "master", mixed=False)
    path = written(tmp_path / "master", planned(tmp_path / "master", 1.0, "executorch", "plain"), tmp_path / "a.pte")
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(ExecuTorch().load(path)(x), net(x).detach(), rtol=1e-5, atol=1e-5)


def test_numbers_beyond_half_precision_are_refused_for_it(tmp_path: Path) -> None:
    module = nn.Linear(16, 12).eval()
    with torch.no_grad():
        module.weight[0, 0] = 1e5
    free = {0: torch.export.Dim.DYNAMIC}
    torch.export.save(torch.export.export(module, (torch.randn(2, 16),), dynamic_shapes=(free,)), tmp_path / "a.pt2")
    build(read(tmp_path / "a.pt2"), tmp_path / "master", mixed=False)
    with pytest.raises(PrecisionError, match="has 100000"):
        written(tmp_path / "master", planned(tmp_path / "master", 1.0, "executorch", "half"), tmp_path / "a.pte")


def test_it_is_available_here() -> None:
    assert ExecuTorch().available() == ""
