from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from rightrank.models.checkpoint import __main__ as child
from rightrank.models.checkpoint import readers, sandbox
from rightrank.models.checkpoint.limits import LOST, Limits
from rightrank.models.checkpoint.reader import read
from rightrank.models.checkpoint.readers import ReaderLost, Readers
from rightrank.models.checkpoint.sandbox import NotConfined
from rightrank.models.confinement import layers
from rightrank.models.errors import DataError, MalformedCheckpoint, RightRankError, UnsafeCheckpoint
from rightrank.models.program.program import Program
from tests import reading
from tests.hostile import acts


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Readers]:
    """Readers of one test, which says what they do."""
    with contextlib.closing(Readers(tmp_path)) as made:
        yield made


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
    sandbox.prepare(program, out, evaluation=data, calibration=data, readers=reading.shared())
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
        sandbox.prepare(program, tmp_path / "out", evaluation=data, readers=reading.shared())


def test_a_file_that_needs_more_memory_than_the_limit_is_unsafe(tmp_path: Path) -> None:
    net = nn.Linear(4096, 4096)
    path = tmp_path / "net"
    with path.open("w+b") as file:
        torch.export.save(torch.export.export(net, (torch.zeros(2, 4096),)), file)
    with pytest.raises(UnsafeCheckpoint, match="more than 32 MiB"):
        sandbox.prepare(path, tmp_path / "out", limits=Limits(memory=32 << 20), readers=reading.shared())


HELD = json.dumps(dict.fromkeys(layers.LAYERS, True)).encode() + b"\n"


@pytest.mark.parametrize(
    ("code", "answer", "error"),
    [
        (1, HELD + b"Traceback (most recent call last):", MalformedCheckpoint),
        (-signal.SIGFPE, HELD, MalformedCheckpoint),
        (-signal.SIGABRT, HELD, UnsafeCheckpoint),
        (-signal.SIGSEGV, HELD, UnsafeCheckpoint),
        (-signal.SIGXCPU, HELD, UnsafeCheckpoint),
        (None, HELD, UnsafeCheckpoint),
        (-signal.SIGKILL, HELD, ReaderLost),
        (-signal.SIGBUS, HELD, ReaderLost),
        (LOST, HELD, ReaderLost),
        (0, HELD + b'{"kind": "lost", "detail": "The disk is full."}\n', ReaderLost),
        # Nothing that happens before the file is opened is the file's fault.
        (1, b"", ReaderLost),
        (-signal.SIGSEGV, b"", ReaderLost),
        (None, b"", ReaderLost),
        (LOST, HELD[:-1], ReaderLost),
    ],
)
def test_how_a_child_ended_tells_whose_fault_it_was(
    own: Readers,
    code: int | None,
    answer: bytes,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Readers, "ask", lambda *_: (code, answer))
    with pytest.raises(error) as caught:
        sandbox.prepare(tmp_path / "any", tmp_path / "out", limits=Limits(seconds=7), readers=own)
    assert "Traceback" not in str(caught.value)
    assert isinstance(caught.value, RightRankError) == (error is not ReaderLost)


def doing(code: str, monkeypatch: pytest.MonkeyPatch, before: str = "") -> None:
    """Has the child do this, once it is confined, in place of reading; and `before` at its start."""
    script = f"import errno, os, signal\nfrom pathlib import Path\n{before}\ndef do(request):\n    {code}"
    monkeypatch.setattr(readers, "COMMAND", acts.child(script))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ReaderLost),
        ("raise OSError(errno.ENOSPC, 'full')", ReaderLost),
        ("os.abort()", UnsafeCheckpoint),
        ("raise OSError(errno.EFBIG, 'large')", UnsafeCheckpoint),
        ("os._exit(0)", MalformedCheckpoint),
        ("os.symlink('/etc/passwd', request['out'] + '/program.json')", MalformedCheckpoint),
    ],
)
def test_a_child_that_does_not_come_to_its_end(
    own: Readers, code: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(code, monkeypatch)
    with pytest.raises(error):
        sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=own)
    assert not (tmp_path / "out" / "program.json").exists()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EDQUOT, "full"), "lost"),
        (SafetensorError('IoError(Os { code: 28, message: "No space left on device" })'), "lost"),
        (MalformedCheckpoint("The header does not fit."), "checkpoint-malformed"),
        (MemoryError(), "checkpoint-unsafe"),
        (OSError(errno.ENOENT, "gone"), "checkpoint-malformed"),
        (ValueError("of the file's"), "checkpoint-malformed"),
    ],
)
def test_what_the_child_says_of_an_error(error: Exception, kind: str) -> None:
    assert child._failure(error, 1 << 30)["kind"] == kind


def test_a_disk_that_cannot_be_read_is_not_the_uploads_fault_whatever_came_of_it() -> None:
    try:
        try:
            raise OSError(errno.EIO, "broken")
        except OSError as error:
            raise MalformedCheckpoint("The header does not fit the file.") from error
    except MalformedCheckpoint as error:
        assert child._failure(error, 1 << 30)["kind"] == "lost"


def test_a_child_that_cannot_be_started_is_lost(own: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "COMMAND", (str(tmp_path / "nothing"),))
    with pytest.raises(ReaderLost, match="could not be started"):
        sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=own)


def test_without_a_required_layer_nothing_is_opened(
    own: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(
        "Path(request['out'], 'opened').touch()",
        monkeypatch,
        "from rightrank.models.confinement import landlock\nlandlock.restrict = lambda *_: False",
    )
    with pytest.raises(NotConfined, match="landlock"):
        sandbox.prepare(tmp_path / "any", tmp_path / "required", required=True, readers=own)
    held = sandbox.prepare(tmp_path / "any", tmp_path / "best", readers=own)
    assert list(map(os.listdir, (tmp_path / "required", tmp_path / "best"))) == [[], ["opened"]]
    assert held == {**layers.available(), "landlock": False}


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, Path.mkdir])
def test_what_is_left_has_to_be_plain_files(make: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "program.json").touch()
    sandbox._check_left(tmp_path)
    make(tmp_path / "weights.safetensors")
    with pytest.raises(UnsafeCheckpoint, match="plain file"):
        sandbox._check_left(tmp_path)


def test_the_child_knows_the_processor_that_it_runs_on(
    own: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch looks for it in files that are then out of reach, and where it sees none takes its slowest kernels."""
    code = "import torch; Path(request['out'], 'found').write_text(torch.backends.cpu.get_cpu_capability())"
    doing(code, monkeypatch, "from rightrank.models.checkpoint import work\nwork.do = lambda request: do(request)")
    sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=own)
    assert (tmp_path / "out" / "found").read_text() == torch.backends.cpu.get_cpu_capability()


def test_the_child_has_neither_the_parents_environment_nor_its_secrets(
    own: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing("Path(request['out'], 'found').write_text(' '.join(os.environ))", monkeypatch)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=own)
    found = {*(tmp_path / "out" / "found").read_text().split()}
    assert found == {"HOME", "TMPDIR", "USER", "OMP_NUM_THREADS", "LC_ALL"}


def test_the_child_looks_for_no_other_folder_for_temporary_files(
    own: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would find none on a full disk, and say so in words that name the machine's folders."""
    code = "import tempfile; Path(request['out'], 'found').write_text(f'{tempfile.tempdir} {os.environ[\"HOME\"]}')"
    doing(code, monkeypatch)
    sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=own)
    chosen, scratch = (tmp_path / "out" / "found").read_text().split()
    assert chosen == scratch and Path(chosen).parent == tmp_path
