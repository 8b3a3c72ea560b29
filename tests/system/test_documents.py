"""Every block of code in the README and in docs is run, here or by the test that is named for it."""

import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from rightrank.service.client.http import Client
from tests.system.processes import ENVIRONMENT, ROOT, until

FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Documents whose blocks are run elsewhere, and by what.
ELSEWHERE = {
    "README.md": (
        "tests/service/client/test_publish.py",
        "tests/benchmarks/test_tasks.py",
        "tests/models/test_face.py",
        "tests/system/test_curl.py",
        "tests/system/test_measure.py",
    ),
    "docs/curl.md": ("tests/system/test_curl.py",),
    "docs/publish.md": ("tests/benchmarks/test_kinds.py", "benchmarks/kinds/__main__.py"),
}
# Run where what they need is installed, by a target of their own.
APART = {
    ("docs/fetch.md", "cpp"): "test-cpp",
    ("docs/fetch.md", "g++"): "test-cpp",
    ("docs/formats.md", "executorch"): "test-executorch",
}


def blocks(name):
    """(language, code) of each block of a document."""
    return FENCED.findall((ROOT / name).read_text())


def documents():
    return ["README.md", "SECURITY.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def apart(name, language, code):
    return [target for (where, what), target in APART.items() if where == name and (what == language or what in code)]


def here(name, *languages):
    """The code of those blocks of a document that are run here."""
    return [code for language, code in blocks(name) if language in languages and not apart(name, language, code)]


RUN_HERE = ("docs/api.md", "docs/fetch.md", "docs/formats.md", "docs/learning.md", "docs/onnx.md", "docs/operate.md")


def test_every_block_has_a_test():
    for name in documents():
        found = blocks(name)
        assert not found or name in RUN_HERE or name in ELSEWHERE, name
        for tests in ELSEWHERE.get(name, ()):
            assert name.rpartition("/")[2] in (ROOT / tests).read_text()
        for language, code in found:
            for target in apart(name, language, code):
                assert f"\n{target}: " in (ROOT / "Makefile").read_text()
        assert {language for language, _ in found} <= {"cpp", "json", "python", "sh"}


def test_every_link_between_documents_leads_somewhere():
    for name in [*documents(), "ARCHITECTURE.md", "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(#[^)]*)?\)", (ROOT / name).read_text()):
            assert ((ROOT / name).parent / target[0]).exists(), f"{name}: {target[0]}"
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", (ROOT / name).read_text()):
            page = ((ROOT / name).parent / target if target else ROOT / name).read_text()
            headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, anchor


@pytest.fixture
def folder(net, tmp_path):
    """A reader's folder: their files, and what they call `rightrank` and `python`."""
    (tmp_path / "bin").mkdir()
    for name, more in (("python", ""), ("rightrank", " -m rightrank.service")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{more} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    for path in net.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def shell(folder, code, **environment):
    """What lines print that end with 0."""
    path = f"{folder / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}"
    done = subprocess.run(
        ["sh", "-euc", code],
        cwd=folder,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT), **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_api_goes_as_it_is_printed(service, folder):
    lines = here("docs/api.md", "sh")
    said = [shell(folder, code, RIGHTRANK_URL=service.url) for code in lines]
    (printed,) = [json.loads(code) for language, code in blocks("docs/api.md") if language == "json"]
    assert set(json.loads((folder / "accepted.json").read_text())) == set(printed)
    assert torch.jit.load(folder / "small.pt")(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    (refused,) = [json.loads(text) for text in said if '"hint"' in text]
    assert refused["status"] == 422 and {"type", "title", "detail", "hint"} <= set(refused)


def test_files_are_fetched_and_run_as_it_is_printed(service, folder, monkeypatch):
    for code in here("docs/fetch.md", "sh"):
        shell(folder, code, RIGHTRANK_URL=service.url)
    images = load_file(folder / "evaluation.safetensors")["inputs"].numpy()
    monkeypatch.chdir(folder)
    shell(folder, "rightrank pull net --budget 0.5 --format pt2 -o net.pt2", RIGHTRANK_URL=service.url)
    outputs = []
    for name in ("docs/fetch.md", "docs/formats.md", "docs/onnx.md"):
        for code in here(name, "python"):
            (folder / "block.py").write_text(code.replace("http://127.0.0.1:8000", service.url))
            found = runpy.run_path("block.py", {"images": images, "onnxruntime": sys.modules.get("onnxruntime")})
            if "output" in found:
                outputs.append(torch.as_tensor(found["output"]))
    assert len(outputs) == 4
    # Of one budget, though not of the same ranks: a file's description counts, and each format has its own.
    for each in outputs:
        assert (each.argmax(1) == outputs[0].argmax(1)).float().mean() > 0.95


def test_a_network_learns_to_be_cut_as_it_is_printed(folder, monkeypatch, capsys):
    (code,) = here("docs/learning.md", "python")
    monkeypatch.chdir(folder)
    (folder / "block.py").write_text(code)
    runpy.run_path("block.py")
    assert capsys.readouterr().out.count("L(low-rank)") == 5
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    found = torch.export.load("digits.pt2").module()(images).argmax(1)
    assert (found == torch.tensor(labels)).float().mean() > 0.8


@contextlib.contextmanager
def serving(folder, command, port, **environment):
    """What a line serves, until it is left."""
    path = f"{folder / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}"
    given = {**ENVIRONMENT, "PYTHONPATH": str(ROOT), "PORT": str(port), **environment, "PATH": path}
    with (folder / "log").open("a") as log:
        # A shell that is ended leaves what it has started.
        lines = f"{command} & echo $! > served; wait"
        process = subprocess.Popen(["sh", "-euc", lines], cwd=folder, env=given, stdout=log, stderr=log)
    try:
        with Client(f"http://127.0.0.1:{port}") as client:
            until(lambda: process.poll() is not None or client.ready(), "readiness")
        assert process.poll() is None, (folder / "log").read_text()
        yield
    finally:
        if process.poll() is None:
            os.kill(int((folder / "served").read_text()), signal.SIGTERM)
        process.wait(60)


def test_a_store_is_served_backed_up_and_restored_as_it_is_printed(folder):
    lines, copied, restored = here("docs/operate.md", "sh")
    create, serve = lines.splitlines()
    key = shell(folder, create).split()[-1]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, data = f"http://127.0.0.1:{port}", str(folder / "data")
    with serving(folder, serve, port, RIGHTRANK_WORKERS="1"):
        with Client(url, key) as client:
            answer = client.push(folder / "net.pt2", name="net")
            client.wait(str(answer["operation"]))
        shell(folder, copied, RIGHTRANK_DATA=data)
    shell(folder, restored, RIGHTRANK_DATA=data)
    with serving(folder, serve, port, RIGHTRANK_WORKERS="0"), Client(url, key) as client:
        assert client.show("net")["id"] == answer["id"]
