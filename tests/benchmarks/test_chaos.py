"""`make chaos`: that it is repeatable, leaves nothing running, and finds each kind of broken promise."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from benchmarks.chaos import family, faults, settle, verdict
from benchmarks.chaos.__main__ import TEMPLATE
from benchmarks.chaos.clients import Device, awaited
from benchmarks.chaos.family import MARK, Process
from benchmarks.chaos.journal import AFTERMATH, Accepted, Answer, Fault, Journal, Received
from benchmarks.chaos.material import Material
from benchmarks.chaos.setups import Cluster, Machine, Setup
from rightrank.models import checkpoint

ROOT = Path(__file__).parents[2]
A, B = "a" * 64, "b" * 64


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "clients")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A quick run, and the folder that has all of it."""
    folder = tmp_path_factory.mktemp("chaos")
    command = [sys.executable, "-m", "benchmarks.chaos", "--quick", "--results", str(folder), "--logs", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900), folder


def kinds(journal: Journal) -> list[str]:
    return [trouble.kind for trouble in journal.troubles]


def accepted(kind: str = "sound", model: str = "m1", error: str = "", **more: Any) -> Accepted:
    """Something accepted that has ended."""
    end = {"done": True, **({"error": {"type": f"/problems/{error}"}} if error else {"result": {}})}
    operation = f"cut-{model}-p" if kind == "cut" else f"ingest-{model}"
    return Accepted("publisher-1", 1.0, kind, model, operation, end=end, ended=2.0, **more)


def problem(status: int, **members: str) -> httpx.Response:
    return httpx.Response(
        status,
        headers={"Content-Type": "application/problem+json"},
        content=json.dumps({"type": "/problems/x", **members}),
    )


def test_a_quick_run_finds_nothing_and_leaves_nothing(run: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, folder = run
    assert done.returncode == 0, done.stderr
    with (folder / "chaos.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["setup"], row["events"], row["models"], row["troubles"]) == ("machine", "4", "0", "0")
    assert int(row["accepted"]) > 0 and int(row["ready"]) > 0 and int(row["files"]) > 0
    assert not [each for each in map(family.look, running()) if each and str(folder) in " ".join(each.command)]


def running() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def test_what_a_killed_run_leaves_is_ended_by_its_guard() -> None:
    """What it has seen below the run, though it has no mark, and what has the mark, though it is elsewhere."""
    run = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
    marked = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: "of-this-test"})
    other = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: "of-another"})
    assert run.stdout is not None
    below = int(run.stdout.readline())
    try:
        # Its standard input ends as that of a run that was killed does.
        command = [sys.executable, "-m", "benchmarks.chaos.guard", str(run.pid), "of-this-test"]
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=60, check=True)
        assert family.look(below) is None
        assert marked.wait(60) == -9
        assert other.poll() is None
    finally:
        run.stdout.close()
        for process in (run, marked, other):
            process.kill()
            process.wait()


@pytest.mark.parametrize("setup", [Machine, Cluster])
def test_a_seed_gives_one_schedule_in_which_no_process_is_spared(setup: type[Setup]) -> None:
    drawn = faults.draw(3, 60, setup.targets, 3.0)
    assert drawn == faults.draw(3, 60, setup.targets, 3.0) != faults.draw(4, 60, setup.targets, 3.0)
    counts = Counter((event.target, event.action) for event in drawn)
    assert set(counts) == {(target, action) for target in setup.targets for action in ("kill", "freeze")}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(0.5 <= event.seconds <= faults.LONGEST_FREEZE for event in drawn if event.action == "freeze")
    assert [event.at for event in drawn] == sorted(event.at for event in drawn)


def test_faults_strike_the_process_that_has_the_part_now(journal: Journal) -> None:
    victim = subprocess.Popen(["sleep", "600"])

    class Target:
        def find(self, target: str) -> Process | None:
            return family.look(victim.pid)

        def pause(self, target: str, seconds: float) -> None: ...

    events = [faults.Event(0.0, "api", "freeze", 0.2), faults.Event(0.4, "api", "kill", 0.1)]
    faults.inflict(events, cast(Setup, Target()), journal, threading.Event())
    assert victim.wait(60) == -9
    assert [(fault.action, fault.outcome) for fault in journal.faults] == [
        ("freeze", str(victim.pid)),
        ("kill", str(victim.pid)),
    ]
    assert journal.near(journal.faults[0].at) and not journal.near(journal.faults[1].until + AFTERMATH + 1)


def test_every_network_is_another_and_reads_as_one(
    run: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    material = Material(run[1] / TEMPLATE, 1)
    assert len({material.network(number) for number in range(5)}) == 5
    assert material.network(1) == material.network(1)
    (tmp_path / "net.pt2").write_bytes(material.network(7))
    program = checkpoint.read(tmp_path / "net.pt2")
    assert sorted(tensor.numel() for tensor in program.tensors.values())[-1] == 512 * 64
    titles = {material.broken(number).title.split("(")[1] for number in range(80)}
    assert len(titles) == 7 and not any(material.broken(number).sound for number in range(80))


@pytest.mark.parametrize(
    ("received", "found"),
    [
        ([("p", A, A, A), ("p", A, A, A), ("q", B, B, B)], []),
        ([("p", A, A, B)], ["damaged-file"]),
        ([("p", A, B, A)], ["damaged-file"]),
        ([("p", A, A, A), ("p", B, B, B)], ["etag-changed"]),
    ],
)
def test_files_must_be_what_they_were_announced_as(
    journal: Journal, received: list[tuple[str, str, str, str]], found: list[str]
) -> None:
    for plan, etag, announced, actual in received:
        journal.receive(Received("device-1", 1.0, "m1", plan, f'"{etag}"', announced, actual))
    verdict.files(journal)
    assert kinds(journal) == found


def test_only_503_may_blame_the_service(journal: Journal) -> None:
    for status in (200, 404, 422, 503, 500):
        journal.answer(Answer("device-1", 1.0, "GET", "/models", status, ""))
    verdict.answers(journal)
    assert kinds(journal) == ["answered-500"]


@pytest.mark.parametrize(
    ("each", "found"),
    [
        (accepted(), ""),
        (accepted(error="internal"), "ended-internal"),
        (accepted(error="gave-up"), "failed-without-a-fault"),
        (accepted(error="checkpoint-unsafe"), "sound-upload-blamed"),
        (accepted(error="upload-incomplete"), "sound-failed"),
        (accepted(error="forgotten"), "sound-forgotten"),
        (accepted(error="cancelled"), "sound-failed"),
        (accepted(error="cancelled", cancelled=True), ""),
        (accepted(error="model-not-found", deleted=True), ""),
        (accepted("broken"), "nonsense-became-a-model"),
        (accepted("broken", error="checkpoint-malformed"), ""),
        (accepted("broken", error="upload-incomplete"), "wrong-reason"),
        (accepted("cut", error="model-not-found"), "cut-failed"),
        (accepted("cut", error="forgotten"), "cut-forgotten"),
    ],
)
def test_an_end_must_be_right_for_what_was_accepted(journal: Journal, each: Accepted, found: str) -> None:
    journal.accept(each)
    verdict.ends(journal)
    assert kinds(journal) == ([found] if found else [])


def test_giving_up_is_right_where_a_fault_was_near(journal: Journal) -> None:
    journal.fault(Fault(1.0, 1.5, "redis", "kill", "7"))
    journal.accept(accepted(error="gave-up"))
    verdict.ends(journal)
    assert kinds(journal) == []


@pytest.mark.parametrize(("status", "found"), [(200, []), (404, ["ready-model-refused"]), (503, [])])
def test_a_model_that_is_ready_must_be_answered_for(journal: Journal, status: int, found: list[str]) -> None:
    device = Device("device-1", ["http://127.0.0.1:1"], journal, 1, threading.Event())
    request = httpx.Request("GET", "http://127.0.0.1:1/models/m1")
    device.judge(accepted(), True, httpx.Response(status, request=request))
    device.http.close()
    assert kinds(journal) == found


@pytest.mark.parametrize(
    ("response", "operation"),
    [
        (httpx.Response(202, headers={"Location": "/operations/cut-m1-p"}), "cut-m1-p"),
        (problem(503, operation="/operations/cut-m1-p"), "cut-m1-p"),
        (problem(503), ""),
        (httpx.Response(503, text="no JSON"), ""),
        (problem(404, operation="/operations/cut-m1-p"), ""),
        (problem(503, operation="/operations/ingest-m1"), ""),
    ],
)
def test_a_size_that_is_promised_for_later_has_its_operation(response: httpx.Response, operation: str) -> None:
    assert awaited(response) == operation


class Fake:
    """A set-up of which the processes and the store are given."""

    def __init__(self, processes: list[Process], store: dict[str, bytes]) -> None:
        self._processes, self.store = processes, store

    def processes(self) -> dict[int, Process]:
        return {process.pid: process for process in self._processes}

    def objects(self) -> dict[str, int]:
        return {key: len(data) for key, data in self.store.items()}

    def read(self, key: str) -> bytes:
        return self.store[key]

    def scratch(self) -> list[str]:
        return []


def part(pid: int, role: str, resident: int = 1 << 27, parent: int = 1) -> Process:
    return Process(pid, parent, ("python", "-m", "rightrank.service", role), "0", resident)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not right at once never gets right."""

    def now(condition: Callable[[], bool], seconds: float) -> bool:
        return condition()

    monkeypatch.setattr(settle, "until", now)


def reader(pid: int) -> Process:
    """What the worker 6 has started."""
    return Process(pid, 6, ("python", "-s"), "0", 1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("after", "found"),
    [
        ([part(5, "api"), part(6, "worker")], []),
        ([part(5, "api")], ["other-processes"]),
        ([part(5, "api"), part(6, "worker"), part(7, "worker")], ["other-processes"]),
        # Each worker keeps one reader ready.
        ([part(5, "api"), part(6, "worker"), reader(7)], []),
        ([part(5, "api"), part(6, "worker"), reader(7), reader(8)], ["other-processes"]),
        ([part(5, "api", 1 << 29), part(6, "worker")], ["memory-grown"]),
    ],
)
def test_processes_and_memory_must_be_as_before(journal: Journal, after: list[Process], found: list[str]) -> None:
    before = verdict.Before.of(cast(Setup, Fake([part(1, "api"), part(2, "worker")], {})))
    verdict.processes(cast(Setup, Fake(after, {})), journal, before)
    assert kinds(journal) == found


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("key", "left"),
    [
        ("models/m1/master.safetensors", False),
        ("models/m1/wanted/elm", True),
        ("models/m1/plans.npz.partial-7", True),
        ("models/m2/master.safetensors", True),
        ("models/m3/upload.json", False),
        (f"checkpoints/{B}", True),
        ("names/elm/1.json", False),
        ("else/where", True),
    ],
)
def test_what_no_model_needs_is_found_in_the_store(journal: Journal, key: str, left: bool) -> None:
    description = json.dumps({"checkpoint": A, "evaluation": None}).encode()
    store = {f"checkpoints/{A}": b"x", "models/m1/manifest.json": description, key: b"four"}
    journal.accept(accepted(model="m3", error="gave-up"))
    found = verdict.disk(cast(Setup, Fake([], store)), journal)
    assert found.leftovers == ([key] if left else [])
    assert found.spare == (4 if left else 0)
    assert kinds(journal) == (["store-leftovers"] if left else [])
