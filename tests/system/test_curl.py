"""The lines that the README and docs/curl.md print, run by a shell and the real curl: whatever happens, the exit status
tells, and `model.pt` is a whole model or what it was before."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

from tests.system.processes import DEADLINE, ENVIRONMENT, ROOT, Service, rightrank, until

BEFORE = b"the model of yesterday"


def printed(document):
    """The lines of a document's sh blocks that fetch, by the first words of each."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return [block for block in blocks if "$URL" in block]


ONCE, CHANGED, CONTINUED = printed("docs/curl.md")


class Device:
    """A folder with the model of yesterday, in which the lines are run."""

    def __init__(self, folder):
        self.folder = folder
        self.file = folder / "model.pt"
        self.file.write_bytes(BEFORE)

    def start(self, line, url, *more, wait=100):
        """The line under way; `more` are further options of curl."""
        line = line.replace("curl -fsSL", " ".join(["curl -fsSL", *more, f"-H 'Prefer: wait={wait}'"]))
        return subprocess.Popen(
            ["sh", "-c", line],
            env={**ENVIRONMENT, "URL": url},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, line, url, *more, **options):
        """The line's exit status."""
        running = self.start(line, url, *more, **options)
        _, self.said = running.communicate(timeout=DEADLINE)
        return running.returncode

    @property
    def unchanged(self):
        return self.file.read_bytes() == BEFORE

    def has(self, whole):
        """Whether it has the whole file, and nothing that did not get its name."""
        return self.file.read_bytes() == whole and not (self.folder / "model.part").exists()


class Line:
    """A line to the service, which breaks after so many bytes of each answer in `breaks`, and then holds."""

    def __init__(self, port, breaks):
        self.port, self.breaks = port, list(breaks)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                device, _ = self.listening.accept()
                with device, socket.create_connection(("127.0.0.1", self.port)) as service:
                    service.sendall(device.recv(65536))
                    self._answer(device, service, self.breaks.pop(0) if self.breaks else None)

    def _answer(self, device, service, left):
        service.settimeout(5)
        with contextlib.suppress(TimeoutError, OSError):
            while piece := service.recv(4096 if left is None else min(4096, left)):
                device.sendall(piece)
                if left is not None and (left := left - len(piece)) <= 0:
                    return
                if b"\r\n\r\n" in piece:
                    service.settimeout(0.5)


@pytest.fixture
def device(tmp_path):
    (tmp_path / "device").mkdir()
    return Device(tmp_path / "device")


@pytest.fixture(scope="module")
def whole(service):
    """The bytes of each of two sizes."""
    with httpx.Client(base_url=service.url, timeout=DEADLINE) as http:
        answers = {size: http.get(f"/models/net?budget={size}", headers={"Prefer": "wait=100"}) for size in (0.3, 0.5)}
    assert {answer.status_code for answer in answers.values()} == {200}
    return {size: answer.content for size, answer in answers.items()}


@pytest.fixture
def asleep(service):
    """A service whose workers do nothing for now: what is asked for anew stays queued."""
    service.rest()
    workers = service.pids("worker")
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    yield service
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


@pytest.fixture
def line(service):
    lines = []

    def make(*breaks):
        lines.append(Line(service.port, breaks))
        return f"{lines[-1].url}/models/net?budget=0.3"

    yield make
    for each in lines:
        each.listening.close()


@pytest.fixture(scope="module")
def guarded(service, whole, tmp_path_factory):
    """A service of its own with the same models, and a key: for what leaves it otherwise than it was."""
    folder = tmp_path_factory.mktemp("guarded")
    key = rightrank("key", "create", "dev", "--scope", "admin", "--keys-file", folder / "keys").stdout.strip()
    service.rest()
    shutil.copytree(service.data / "store", folder / "data" / "store")
    guarded = Service(folder / "data", workers=1, RIGHTRANK_KEYS_FILE=str(folder / "keys"))
    guarded.key = key
    try:
        yield guarded.start()
    finally:
        guarded.end()


def test_the_readme_prints_the_same_lines():
    (readme,) = printed("README.md")
    assert ONCE in readme and CHANGED in readme


def test_a_size_that_is_ready(service, whole, device):
    assert device.run(ONCE, f"{service.url}/models/net?budget=0.3") == 0
    assert device.has(whole[0.3])


def test_a_size_that_is_not_ready_and_stays_so(asleep, device):
    line = ONCE.replace("--retry 10", "--retry 1")
    assert device.run(line, f"{asleep.url}/models/net?budget=0.57", wait=0) == 22
    assert "503" in device.said and device.unchanged


def test_a_size_that_becomes_ready_meanwhile(service, device):
    assert device.run(ONCE, f"{service.url}/models/net?budget=0.23", wait=0) == 0
    assert not device.unchanged and device.file.read_bytes()[:2] == b"PK"


def test_a_size_whose_making_failed(asleep, device):
    url = f"{asleep.url}/models/net?budget=0.61"
    with httpx.Client(timeout=DEADLINE) as http:
        operation = asleep.url + http.get(url, headers={"Prefer": "wait=0"}).json()["operation"]
        http.delete(operation).raise_for_status()
        running = device.start(ONCE, url)
        until(lambda: http.get(operation).json()["state"] == "queued", "the cut that curl waits for")
        http.delete(operation).raise_for_status()
    _, said = running.communicate(timeout=DEADLINE)
    assert running.returncode == 22
    assert "409" in said and device.unchanged


@pytest.mark.parametrize(("what", "status"), [("nothing?budget=0.3", 404), ("net?budget=0.0001", 422)])
def test_what_there_is_not_and_what_cannot_be(service, device, what, status):
    assert device.run(ONCE, f"{service.url}/models/{what}") == 22
    assert str(status) in device.said and device.unchanged


def test_a_line_that_breaks(line, whole, device):
    assert device.run(ONCE, line(20_000)) == 18
    assert device.unchanged
    assert device.run(ONCE, line()) == 0
    assert device.has(whole[0.3])


def test_a_disk_that_is_full(service, device):
    (device.folder / "model.part").symlink_to("/dev/full")
    assert device.run(ONCE, f"{service.url}/models/net?budget=0.3") == 23
    assert device.unchanged


def test_only_what_has_changed_is_fetched(service, line, whole, device):
    small, large = (f"{service.url}/models/net?budget={size}" for size in (0.3, 0.5))
    tag = device.folder / "model.etag"
    assert device.run(CHANGED, small) == 0
    assert device.has(whole[0.3]) and hashlib.sha256(whole[0.3]).hexdigest() in tag.read_text()
    before = device.file.stat().st_ino
    (device.folder / "model.part").write_bytes(whole[0.3][:1000])  # as an earlier run may have left it
    assert device.run(CHANGED, small) == 0
    assert device.has(whole[0.3]) and device.file.stat().st_ino == before
    assert device.run(CHANGED, f"{service.url}/models/net?budget=0.0001") == 22
    assert device.has(whole[0.3]) and hashlib.sha256(whole[0.3]).hexdigest() in tag.read_text()
    assert device.run(CHANGED, line(20_000).replace("0.3", "0.5")) == 18
    assert device.file.read_bytes() == whole[0.3]
    assert device.run(CHANGED, large) == 0  # and not 304
    assert device.has(whole[0.5])
    device.file.unlink()
    assert device.run(CHANGED, large) == 0
    assert device.has(whole[0.5])


def test_a_broken_download_is_continued(line, whole, device):
    part = device.folder / "model.part"
    url = line(20_000, 20_000)
    assert device.run(CONTINUED, url) == 1
    first = part.stat().st_size
    assert device.run(CONTINUED, url) == 1
    assert device.unchanged and 0 < first < part.stat().st_size < len(whole[0.3])
    assert device.run(CONTINUED, url) == 0
    assert device.has(whole[0.3])


def test_a_part_of_another_version_or_a_whole_one_is_no_file(service, line, whole, device):
    large = f"{service.url}/models/net?budget=0.5"
    assert device.run(CONTINUED, line(20_000)) == 1
    assert device.run(CONTINUED, large) == 1
    assert "412" in device.said and device.unchanged
    assert device.run(CONTINUED, large) == 0
    assert device.has(whole[0.5])
    (device.folder / "model.part").write_bytes(whole[0.5])
    device.file.write_bytes(BEFORE)
    assert device.run(CONTINUED, large) == 0  # by its SHA-256, which is its ETag
    assert device.has(whole[0.5])
    (device.folder / "model.part").write_bytes(bytes(len(whole[0.5])))
    assert [device.run(CONTINUED, large) for _ in range(2)] == [1, 0]
    assert device.has(whole[0.5])


def test_a_part_of_a_file_is_asked_for(service, whole, device):
    assert device.run(ONCE, f"{service.url}/models/net?budget=0.3", "-r 100-199") == 0
    assert device.has(whole[0.3][100:200])


def test_no_key(guarded, whole, device):
    url = f"{guarded.url}/models/net?budget=0.3"
    assert device.run(ONCE, url) == 22
    assert "401" in device.said and device.unchanged
    assert device.run(ONCE, url, f"-H 'Authorization: Bearer {guarded.key}'") == 0
    assert device.has(whole[0.3])


def test_a_service_that_restarts(guarded, whole, device):
    key = f"-H 'Authorization: Bearer {guarded.key}'"
    guarded.stop()
    running = device.start(ONCE, f"{guarded.url}/models/net?budget=0.3", key)
    time.sleep(0.2)
    assert running.poll() is None
    guarded.start()
    _, said = running.communicate(timeout=DEADLINE)
    assert running.returncode == 0, said
    assert "refused" in said or "connect" in said
    assert device.has(whole[0.3])


def test_a_model_that_was_deleted(guarded, device):
    headers = {"Authorization": f"Bearer {guarded.key}"}
    httpx.delete(f"{guarded.url}/models/net", headers=headers).raise_for_status()
    assert device.run(ONCE, f"{guarded.url}/models/net?budget=0.3", f"-H 'Authorization: Bearer {guarded.key}'") == 22
    assert "404" in device.said and device.unchanged
