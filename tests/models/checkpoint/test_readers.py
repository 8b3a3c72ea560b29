from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rightrank.models.checkpoint import readers as module
from rightrank.models.checkpoint import sandbox
from rightrank.models.checkpoint.readers import Reader, ReaderLost, Readers
from rightrank.models.confinement.reach import ROOT
from tests.hostile import acts

# In place of reading, a child leaves its process's id and what was in the scratch folder.
TELLS = acts.child(
    "import os\nfrom pathlib import Path\ndef do(request):\n"
    "    left = os.listdir(os.environ['TMPDIR'])\n"
    "    Path(os.environ['TMPDIR'], 'left').touch()\n"
    "    Path(request['out'], 'found').write_text(f'{os.getpid()} {left}')"
)
PARENT = f"""
import sys, time
from pathlib import Path
from rightrank.models.checkpoint import readers
readers.COMMAND = {TELLS!r}
ahead = readers.Readers(Path(sys.argv[1]))
ahead.make_ready()
print(ahead._spare.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Readers]:
    monkeypatch.setattr(module, "COMMAND", TELLS)
    (tmp_path / "work").mkdir()
    with contextlib.closing(Readers(tmp_path / "work")) as made:
        yield made


def spare(readers: Readers) -> Reader:
    assert readers._spare is not None
    return readers._spare


def found(readers: Readers, folder: Path) -> list[str]:
    """The process that read in `folder`, and what it found."""
    sandbox.prepare(folder / "any", folder / "out", readers=readers)
    return (folder / "out" / "found").read_text().split(" ", 1)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Whether a process is gone, or nothing but its status is left."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_reader_that_was_started_ahead_reads_one_upload_and_no_other(readers: Readers, tmp_path: Path) -> None:
    readers.make_ready()
    first = spare(readers)
    readers.make_ready()
    assert spare(readers) is first
    assert found(readers, tmp_path / "a") == [str(first.pid), "['answer']"]
    # The next is started when that is asked for, or else for the next upload; what the first left is gone.
    assert readers._spare is None and ended(first.pid) and os.listdir(tmp_path / "work") == []
    readers.make_ready()
    second = spare(readers).pid
    assert found(readers, tmp_path / "b") == [str(second), "['answer']"]
    assert len({first.pid, second, int(found(readers, tmp_path / "c")[0])}) == 3


@pytest.mark.parametrize("how", ["killed", "without its folder"])
def test_another_is_started_for_one_that_has_come_to_harm_while_it_waited(
    readers: Readers, tmp_path: Path, how: str
) -> None:
    readers.make_ready()
    harmed = spare(readers)
    if how == "killed":
        harmed.kill()
        wait_for(lambda: ended(harmed.pid))
    else:
        shutil.rmtree(harmed.scratch)
    assert found(readers, tmp_path / "a")[0] != str(harmed.pid)
    assert ended(harmed.pid)


def test_where_none_can_be_started_ahead_the_upload_is_told(
    readers: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "COMMAND", (str(tmp_path / "nothing"),))
        readers.make_ready()
        assert os.listdir(tmp_path / "work") == []
        with pytest.raises(ReaderLost, match="could not be started"):
            found(readers, tmp_path / "a")
    assert found(readers, tmp_path / "b")


def test_killed_is_the_one_that_reads_and_not_the_one_that_waits(readers: Readers) -> None:
    readers.make_ready()
    waiting = spare(readers)
    readers.kill()
    with readers.one() as reader:
        readers.kill()
        assert reader is waiting
        wait_for(lambda: not reader.waits())


def test_one_is_killed_with_all_that_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os, subprocess, time\nfrom pathlib import Path\n"
        "other = subprocess.Popen(['sleep', '60'])\n"
        "Path(os.environ['TMPDIR'], 'new').write_text(str(other.pid))\n"
        "Path(os.environ['TMPDIR'], 'new').rename(Path(os.environ['TMPDIR'], 'other'))\n"
        "time.sleep(60)"
    )
    monkeypatch.setattr(module, "COMMAND", (sys.executable, "-c", script))
    reader = Reader(tmp_path)
    wait_for((reader.scratch / "other").exists)
    other = int((reader.scratch / "other").read_text())
    reader.end()
    wait_for(lambda: ended(other))
    assert os.listdir(tmp_path) == []


def test_one_that_waits_ends_with_its_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        waiting = int(parent.stdout.readline())
        assert not ended(waiting)
        parent.kill()
    wait_for(lambda: ended(waiting))


def test_one_that_is_told_of_no_upload_says_nothing(readers: Readers) -> None:
    """Where the kernel does not end it with its parent, it is its parent's pipe, which closes, that does."""
    readers.make_ready()
    waiting = spare(readers)
    assert waiting._process.communicate(b"", 60) == (None, None)
    assert waiting._process.returncode == 0
    assert (waiting.scratch / "answer").read_bytes() == b""
