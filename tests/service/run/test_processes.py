import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rightrank.service.run import processes
from rightrank.service.run.processes import Child, StartError, Supervisor

FOREVER = [sys.executable, "-c", "import time; time.sleep(1000)"]
DEADLINE = 30.0


def until(condition):
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "this never became true"
        time.sleep(0.01)


def child(command, name="A child"):
    return Child(name, command, {})


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(processes, "FIRST", 0.01)
    monkeypatch.setattr(processes, "TICK", 0.01)


def supervised(supervisor, ready=lambda: True, then=lambda: None):
    thread = threading.Thread(target=supervisor.run, args=(ready, then))
    thread.start()
    return thread


def test_the_wait_before_a_restart_doubles_and_has_a_limit():
    waits = [processes.back_off(failures) for failures in (*range(1, 20), 5000)]
    assert waits[:3] == [0.2, 0.4, 0.8]
    assert waits == sorted(waits)
    assert waits[-1] == processes.LONGEST


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "ended with status 0"), (3, "ended with status 3"), (-9, "was killed by SIGKILL")],
)
def test_an_exit_status_is_told_in_words(status, words):
    assert processes.ending(status) == words


def test_a_worker_that_is_killed_is_replaced(quick):
    said = []
    worker = child(FOREVER, "Worker 1")
    supervisor = Supervisor(child(FOREVER), [worker], said.append)
    thread = supervised(supervisor)
    try:
        until(worker.alive)
        first = worker.process.pid
        os.kill(first, signal.SIGKILL)
        until(lambda: worker.process is not None and worker.process.pid != first and worker.alive())
    finally:
        supervisor.end.set()
        thread.join(DEADLINE)
    assert any(f"Worker 1 (process {first}) was killed by SIGKILL" in line for line in said)


def test_nothing_runs_once_the_supervisor_has_ended(quick):
    supervisor = Supervisor(child(FOREVER), [child(FOREVER), child(FOREVER)], print)
    thread = supervised(supervisor)
    everyone = [supervisor.api, *supervisor.workers]
    until(lambda: all(one.alive() for one in everyone))
    supervisor.on_signal(signal.SIGTERM, None)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert not any(one.alive() for one in everyone)


def test_a_second_signal_kills_what_ignores_the_first(quick):
    stubborn = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);print(flush=True); time.sleep(1000)",
    ]
    process = subprocess.Popen(stubborn, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        one = child(stubborn)
        one.process = process
        hurry = threading.Event()
        thread = threading.Thread(target=processes.stop, args=([one], hurry.is_set, 3600.0))
        thread.start()
        until(lambda: process.poll() is None)
        hurry.set()
        thread.join(DEADLINE)
        assert process.returncode == -signal.SIGKILL


def test_an_api_that_ends_before_it_was_ready_stops_everything(quick):
    worker = child(FOREVER)
    supervisor = Supervisor(child([sys.executable, "-c", "raise SystemExit(3)"]), [worker], print)
    with pytest.raises(StartError, match="ended with status 3 before it was ready"):
        supervisor.run(ready=lambda: False, then=lambda: None)
    assert not worker.alive()


def test_a_service_that_does_not_get_ready_says_what_may_be_missing_once(quick, monkeypatch):
    monkeypatch.setattr(processes, "LATE", 0.0)
    said, asked = [], []
    supervisor = Supervisor(child(FOREVER), [], said.append)
    thread = supervised(supervisor, ready=lambda: asked.append(1) is not None)
    until(lambda: len(asked) > 5)
    supervisor.end.set()
    thread.join(DEADLINE)
    assert [line for line in said if "RIGHTRANK_REDIS_URL" in line] == said
    assert len(said) == 1


def test_an_api_that_was_ready_is_replaced_when_it_dies(quick):
    supervisor = Supervisor(child(FOREVER), [], lambda text: None)
    greeted = threading.Event()
    thread = supervised(supervisor, then=greeted.set)
    try:
        assert greeted.wait(DEADLINE)
        first = supervisor.api.process.pid
        supervisor.api.process.kill()
        until(lambda: supervisor.api.process is not None and supervisor.api.process.pid != first)
    finally:
        supervisor.end.set()
        thread.join(DEADLINE)


def test_a_hangup_ends_the_service_except_under_nohup():
    heard = []
    formerly = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with processes.signals(lambda number, frame: heard.append(number)):
            os.kill(os.getpid(), signal.SIGHUP)
            until(lambda: heard)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with processes.signals(lambda number, frame: heard.append(number)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: len(heard) > 1)
    finally:
        signal.signal(signal.SIGHUP, formerly)
    assert heard == [signal.SIGHUP, signal.SIGTERM]


def test_a_child_does_not_outlive_a_parent_that_was_killed():
    script = (
        "import subprocess, sys, os, time\n"
        "env = {**os.environ, 'RIGHTRANK_PARENT': str(os.getpid())}\n"
        "code = 'from rightrank.service.run.processes import die_with_parent; die_with_parent();'\n"
        "code += 'import os, time; print(os.getpid(), flush=True); time.sleep(1000)'\n"
        "subprocess.Popen([sys.executable, '-c', code], env=env)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not _alive(pid))


def test_a_child_whose_parent_is_already_gone_ends_at_once():
    code = "from rightrank.service.run.processes import die_with_parent; die_with_parent(); print('went on')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RIGHTRANK_PARENT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""


def _alive(pid):
    """Whether the process runs; one that has ended and that nobody has collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_hang_up_reaches_the_api_and_ends_nothing(quick, tmp_path):
    script = (
        "import pathlib, signal, sys, time\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "signal.signal(signal.SIGHUP, lambda *_: file.write_text('heard'))\n"
        "time.sleep(0.3)\n"  # a hang-up meanwhile is kept, not lost and not the end
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})\n"
        "while True: time.sleep(0.02)"
    )
    said = []
    api = child([sys.executable, "-c", script, str(tmp_path / "heard")], "The API")
    worker = child(FOREVER, "Worker 1")
    supervisor = Supervisor(api, [worker], said.append)
    supervisor.on_signal(signal.SIGHUP, None)
    thread = supervised(supervisor)
    try:
        until((tmp_path / "heard").exists)
        worker.process.send_signal(signal.SIGHUP)
        (tmp_path / "heard").unlink()
        supervisor.on_signal(signal.SIGHUP, None)
        until((tmp_path / "heard").exists)
        assert api.alive() and worker.alive() and said == []
    finally:
        supervisor.end.set()
        thread.join()


def test_the_end_of_the_terminal_is_the_end(quick, monkeypatch):
    monkeypatch.setattr(processes, "has_terminal", lambda: False)
    supervisor = Supervisor(child(FOREVER), [], print, terminal=True)
    thread = supervised(supervisor)
    supervisor.on_signal(signal.SIGHUP, None)
    thread.join(DEADLINE)
    assert not thread.is_alive() and supervisor.asked == [signal.SIGHUP]
