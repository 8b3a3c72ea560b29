from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rightrank.service.api.forms import FIELD_LIMIT, PIECE, Receiver
from rightrank.service.problems import Problem
from rightrank.service.settings import Settings
from tests.service.conftest import Running, serving

FILES, FIELDS = frozenset({"file", "other"}), frozenset({"text"})


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    tail = f'; filename="{filename}"' if filename is not None else ""
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{tail}\r\n\r\n'.encode() + content + b"\r\n"


def receive(folder: Path, *pieces: bytes) -> Receiver:
    receiver = Receiver(b"B", folder, FILES, FIELDS)
    for piece in pieces:
        receiver.write(piece)
    receiver.close()
    return receiver


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), cut=st.integers(1, 60))
def test_a_file_arrives_whole_however_the_body_is_cut(tmp_path: Path, content: bytes, cut: int) -> None:
    body = part("file", content, "a.pt2") + part("text", "ünïcode".encode()) + b"--B--\r\n"
    form = receive(tmp_path, *(body[n : n + cut] for n in range(0, len(body), cut))).finish()
    upload = form.files["file"]
    assert upload.path.read_bytes() == content
    assert (upload.size, upload.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (upload.filename, form.fields) == ("a.pt2", {"text": "ünïcode"})


def test_a_files_name_says_nothing_about_where_it_is_written(tmp_path: Path) -> None:
    form = receive(tmp_path, part("file", b"x", "../../etc/passwd"), b"--B--\r\n").finish()
    assert form.files["file"].path == tmp_path / "file"


@pytest.mark.parametrize(
    "body",
    [part("unknown", b"x"), part("file", b"x") + part("file", b"y"), part("text", b"x" * (FIELD_LIMIT + 1)),
     part("text", b"\xff\xfe"), b"--B\r\nno header\r\n\r\n", b"--C\r\n", part("", b"x"),
     b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n", b"--B\r\n" + b"a: b\r\n" * 20 + b"\r\n"],
)  # fmt: skip
def test_a_form_that_is_not_as_it_should_be_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(Problem):
        receive(tmp_path, body + b"--B--\r\n").finish()


@pytest.mark.parametrize("end", [b"", b"--B", b"--B\r\n"])
def test_a_form_that_breaks_off_is_refused(tmp_path: Path, end: bytes) -> None:
    with pytest.raises(Problem) as caught:
        receive(tmp_path, part("file", b"x" * 100), end).finish()
    assert caught.value.kind == "upload-incomplete"


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "multipart/mixed; boundary=B", ""])
def test_what_is_no_form_is_refused(shared: Running, kind: str) -> None:
    answer = shared.client.post("/models", content=b"{}", headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")


def left(running: Running) -> list[str]:
    """What an upload has left behind."""
    scratch = running.parts.store.scratch
    return [*running.parts.store.keys(""), *(str(path) for path in scratch.iterdir())]


def test_an_upload_for_which_there_is_no_room_is_refused_before_it_comes(stocked: Settings) -> None:
    reserve = shutil.disk_usage("/").free
    with serving(stocked.model_copy(update={"disk_reserve": 10 * reserve})) as running:
        before = left(running)
        answer = running.client.post("/models", files={"checkpoint": ("a", b"anything")})
        assert (answer.status_code, answer.json()["type"]) == (507, "/problems/insufficient-storage")
        assert f"and {10 * reserve} are kept" in answer.json()["detail"]
        assert left(running) == before
        assert running.client.get("/models").status_code == 200


def test_an_upload_that_fills_the_disk_as_it_comes_is_refused(
    web: Running, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def usage(folder: Path) -> object:
        size = sum(path.stat().st_size for path in Path(folder).rglob("*"))
        written.append(size)
        return SimpleNamespace(free=settings.disk_reserve + 2 * PIECE - size)

    def body() -> Iterator[bytes]:  # without a length, and without an end
        yield b'--B\r\nContent-Disposition: form-data; name="checkpoint"; filename="a"\r\n\r\n'
        while True:
            yield bytes(PIECE // 4)

    monkeypatch.setattr("rightrank.service.api.forms.shutil.disk_usage", usage)
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = web.client.post("/models", content=body(), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/insufficient-storage")
    assert PIECE <= max(written) <= 2 * PIECE
    assert left(web) == []


def test_a_disk_that_is_full_is_told_and_leaves_nothing(web: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_for_work = web.parts.store.folder_for_work

    @contextlib.contextmanager
    def full() -> Iterator[Path]:
        with folder_for_work() as folder:
            (folder / "checkpoint").symlink_to("/dev/full")  # the kernel's own ENOSPC
            yield folder

    monkeypatch.setattr(web.parts.store, "folder_for_work", full)
    answer = web.client.post("/models", files={"checkpoint": ("a", bytes(3 * PIECE))})
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/insufficient-storage")
    assert left(web) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_when_the_upload_is_put_away_is_told_too(
    web: Running, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def broken(*_: object) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr("rightrank.service.api.models.accept", broken)
    answer = web.client.post("/models", files={"checkpoint": ("a", b"anything")})
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/insufficient-storage")
