from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import rightrank
from rightrank.models.checkpoint import Limits, read, sandbox
from rightrank.models.errors import DataError, MalformedCheckpoint, UnsafeCheckpoint
from rightrank.models.program.program import Program

ROOT = Path(rightrank.__file__).parents[1]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    path = tmp_path_factory.mktemp("program") / "net"
    batch = ({0: torch.export.Dim("batch")},)
    with path.open("w+b") as file:
        torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 2, 2),), dynamic_shapes=batch), file)
    return path


def test_the_child_leaves_what_reading_in_process_gives(program: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, inputs=np.ones((4, 3, 2, 2), np.float32), targets=np.arange(4))
    out = tmp_path / "out"
    sandbox.prepare(program, out, evaluation=data, calibration=data)
    left, want = Program.open(out), read(program)
    assert left.graph == want.graph
    assert {name: t.tolist() for name, t in left.tensors.items()} == {
        name: t.tolist() for name, t in want.tensors.items()
    }
    for name in ("evaluation", "calibration"):
        found = safetensors.torch.load_file(out / f"{name}.safetensors")
        assert found["targets"].tolist() == [0, 1, 2, 3]
        assert left.run([found["inputs"]])[0].shape == (4, 3)


def test_data_that_do_not_fit_are_reported_as_such(program: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, inputs=np.ones((4, 3, 2, 5), np.float32))
    with pytest.raises(DataError, match=r"\(n, 3, 2, 2\)"):
        sandbox.prepare(program, tmp_path / "out", evaluation=data)


def test_a_file_that_needs_more_memory_than_the_limit_is_unsafe(tmp_path: Path) -> None:
    net = nn.Linear(4096, 4096)
    path = tmp_path / "net"
    with path.open("w+b") as file:
        torch.export.save(torch.export.export(net, (torch.zeros(2, 4096),)), file)
    with pytest.raises(UnsafeCheckpoint, match="more than 32 MiB"):
        sandbox.prepare(path, tmp_path / "out", limits=Limits(memory=32 << 20))


def test_a_child_that_dies_without_an_answer_is_no_traceback(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_run", lambda *_: (1, b"Traceback (most recent call last):"))
    with pytest.raises(MalformedCheckpoint) as caught:
        sandbox.prepare(program, tmp_path)
    assert "Traceback" not in str(caught.value)


def test_a_child_that_uses_up_its_time_is_unsafe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_run", lambda *_: (-24, b""))
    with pytest.raises(UnsafeCheckpoint, match="more than 7 seconds"):
        sandbox.prepare(tmp_path / "any", tmp_path, limits=Limits(seconds=7))


def confined(code: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` as the child runs, after it has given everything up."""
    script = f"from rightrank.models.checkpoint.confine import confine\nconfine(1, 64 << 20)\n{code}"
    env = {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def test_the_confined_child_cannot_take_more_memory_than_it_was_given() -> None:
    assert "MemoryError" in confined("bytearray(1 << 30)").stderr


def test_the_confined_child_is_stopped_when_its_processor_time_is_used_up() -> None:
    assert confined("while True: pass").returncode == -24


def test_the_confined_child_cannot_write_a_larger_file_than_it_may(tmp_path: Path) -> None:
    done = confined(f"f = open({str(tmp_path / 'x')!r}, 'wb')\nf.truncate(1 << 30)")
    assert done.returncode != 0
    assert os.path.getsize(tmp_path / "x") == 0


def test_the_child_has_neither_the_parents_environment_nor_its_secrets(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    original = subprocess.Popen

    def popen(*args: object, **kwargs: object) -> object:
        seen.update(kwargs["env"])  # type: ignore[call-overload]
        return original(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(subprocess, "Popen", popen)
    sandbox.prepare(program, tmp_path / "out")
    assert set(seen) == {"HOME", "TMPDIR", "OMP_NUM_THREADS", "LC_ALL"}
