from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rightrank.models.checkpoint import readers as module
from rightrank.models.checkpoint import sandbox
from rightrank.models.checkpoint.limits import Limits
from rightrank.models.checkpoint.readers import ForkServer, ReaderLost, Readers
from rightrank.models.confinement.reach import ROOT
from rightrank.models.errors import UnsafeCheckpoint
from tests.hostile import acts

# In place of reading, a child leaves its process's id, its parent's, what was in the scratch folder, and what those
# before it have left in its memory.
TELLS = acts.child(
    "import os\nfrom pathlib import Path\nbefore = []\ndef do(request):\n"
    "    before.append(os.getpid())\n"
    "    left = os.listdir(os.environ['TMPDIR'])\n"
    "    Path(os.environ['TMPDIR'], 'left').touch()\n"
    "    Path(request['out'], 'found').write_text(f'{os.getpid()} {os.getppid()} {left} {len(before)}')"
)
# One that tells its process's id and reads for ever, having started another where it may.
STAYS = acts.child(
    "import os, subprocess, time\nfrom pathlib import Path\n"
    "from rightrank.models.confinement import landlock, limits, seccomp\n"
    "limits.bound = landlock.restrict = seccomp.restrict = lambda *_: False\ndef do(request):\n"
    "    other = subprocess.Popen(['sleep', '600'])\n"
    "    Path(request['out'], 'new').write_text(f'{os.getpid()} {other.pid}')\n"
    "    Path(request['out'], 'new').rename(Path(request['out'], 'found'))\n"
    "    if request['architecture'] is None:\n"
    "        time.sleep(600)"
)
PARENT = f"""
import sys, time
from pathlib import Path
from rightrank.models.checkpoint import readers
readers.COMMAND = {TELLS!r}
ahead = readers.Readers(Path(sys.argv[1]))
ahead.make_ready()
print(ahead._server.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Readers]:
    monkeypatch.setattr(module, "COMMAND", TELLS)
    (tmp_path / "work").mkdir()
    with contextlib.closing(Readers(tmp_path / "work")) as made:
        yield made


def server(readers: Readers) -> ForkServer:
    assert readers._server is not None
    return readers._server


def found(readers: Readers, folder: Path) -> tuple[int, int, str]:
    """The process that read in `folder`, its parent, and what it found."""
    sandbox.prepare(folder / "any", folder / "out", readers=readers)
    pid, parent, left = (folder / "out" / "found").read_text().split(" ", 2)
    return int(pid), int(parent), left


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


def test_each_upload_has_a_reader_of_its_own_that_knows_nothing_of_the_others(readers: Readers, tmp_path: Path) -> None:
    readers.make_ready()
    made_by = server(readers)
    readers.make_ready()
    assert server(readers) is made_by
    read = [found(readers, tmp_path / name) for name in "abc"]
    assert {(parent, left) for _, parent, left in read} == {(made_by.pid, "[] 1")}
    assert len({pid for pid, _, _ in read}) == 3 and all(ended(pid) for pid, _, _ in read)
    # Of the readers nothing is left, and of what made them its own scratch folder.
    assert len(os.listdir(tmp_path / "work")) == 1
    readers.close()
    assert ended(made_by.pid) and os.listdir(tmp_path / "work") == []


def test_another_is_started_for_a_fork_server_that_has_come_to_harm_while_it_waited(
    readers: Readers, tmp_path: Path
) -> None:
    readers.make_ready()
    harmed = server(readers).pid
    server(readers).kill()
    wait_for(lambda: ended(harmed))
    assert found(readers, tmp_path / "a")[1] == server(readers).pid != harmed


def test_a_fork_server_that_is_killed_takes_the_upload_for_which_it_was_asked_with_it(
    readers: Readers, tmp_path: Path
) -> None:
    readers.make_ready()
    harmed = server(readers)
    harmed.lives = lambda: True  # type: ignore[method-assign]
    harmed.kill()
    with pytest.raises(ReaderLost, match="was killed by SIGKILL before it opened"):
        found(readers, tmp_path / "a")
    assert found(readers, tmp_path / "b")


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


def test_after_one_that_broke_the_next_has_other_addresses(
    readers: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND", acts.child("import os\ndo = lambda request: os.abort()"))
    readers.make_ready()
    first = server(readers).pid
    with pytest.raises(UnsafeCheckpoint):
        sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=readers)
    assert ended(first) and server(readers).pid != first


@pytest.mark.parametrize("how", ["killed", "late"])
def test_one_that_reads_is_ended_with_all_that_it_has_started(
    readers: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(module, "COMMAND", STAYS)
    monkeypatch.setattr(sandbox, "_START_SECONDS", 5 if how == "late" else 600)
    readers.kill()
    # Nothing reads yet, so what waits goes on waiting.
    readers.make_ready()
    readers.kill()
    there = tmp_path / "out" / "found"

    def kill() -> None:
        wait_for(there.exists)
        readers.kill()

    killing = threading.Thread(target=kill if how == "killed" else lambda: None)
    killing.start()
    with pytest.raises(Exception, match="was killed by SIGKILL while" if how == "killed" else "more than 0 seconds"):
        sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=readers, limits=Limits(seconds=0))
    killing.join()
    for pid in map(int, there.read_text().split()):
        wait_for(lambda: ended(pid))  # noqa: B023
    # The next is started at once.
    assert server(readers).lives() and len(os.listdir(tmp_path / "work")) == 1


def test_what_one_leaves_where_seccomp_is_missing_is_ended(
    readers: Readers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND", STAYS)
    sandbox.prepare(tmp_path / "any", tmp_path / "out", readers=readers, architecture={})
    for pid in map(int, (tmp_path / "out" / "found").read_text().split()):
        wait_for(lambda: ended(pid))  # noqa: B023


def test_one_that_waits_ends_with_its_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        waiting = int(parent.stdout.readline())
        assert not ended(waiting)
        parent.kill()
    wait_for(lambda: ended(waiting))


def test_one_that_is_told_of_no_upload_ends_by_itself(readers: Readers) -> None:
    """Where the kernel does not end it with its parent, it is its parent's socket, which closes, that does."""
    readers.make_ready()
    waiting = server(readers)
    waiting._told.shutdown(2)
    assert waiting._process.wait(60) == 0
