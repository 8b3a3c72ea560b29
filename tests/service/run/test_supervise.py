import os
import socket
import subprocess
import sys

import pytest

from rightrank.service.run import processes, supervise
from rightrank.service.run.processes import StartError
from rightrank.service.settings import Settings


def test_a_data_folder_in_use_is_refused_and_its_owner_named(tmp_path):
    with supervise.sole(tmp_path), pytest.raises(StartError, match=rf"process {os.getpid()}.*--data"):
        supervise.sole(tmp_path).__enter__()


def test_a_data_folder_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with supervise.sole(tmp_path / "new" / "folder"):
            assert (tmp_path / "new" / "folder" / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_of_a_process_that_was_killed_is_gone(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from rightrank.service.run.supervise import sole\n"
        "with sole(Path(sys.argv[1])): print(flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(StartError, match=str(owner.pid)), supervise.sole(tmp_path):
            pass
        owner.kill()
    with supervise.sole(tmp_path):
        pass


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot be used as the data folder"):
        supervise.sole(tmp_path / "file" / "data").__enter__()


def test_a_port_in_use_is_refused_by_its_number():
    with supervise.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=rf"{port}.*--port"):
            supervise.listen("127.0.0.1", port)


def test_a_host_that_does_not_exist_is_refused():
    with pytest.raises(StartError, match=r"nowhere\.invalid"):
        supervise.listen("nowhere.invalid", 0)


def test_a_client_can_connect_before_anybody_accepts():
    with supervise.listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        pass


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_the_address_shown_is_one_that_this_machine_can_reach(host, address):
    with supervise.listen(host, 0) as listener:
        port = listener.getsockname()[1]
        assert supervise.web_address(listener) == f"http://{address}:{port}"


def test_only_the_api_inherits_the_listening_socket(tmp_path):
    with supervise.listen("127.0.0.1", 0) as listener:
        api, workers = supervise.children(Settings(data=tmp_path), listener, 2)
        assert api.descriptors == (listener.fileno(),)
        assert api.environment["RIGHTRANK_PORT"] == str(listener.getsockname()[1])
        assert [worker.descriptors for worker in workers] == [(), ()]
        assert {child.environment["RIGHTRANK_DATA"] for child in (api, *workers)} == {str(tmp_path)}


def test_one_of_several_workers_never_ingests():
    assert supervise.duties(1) == [()]
    first, *others = supervise.duties(3)
    assert "ingest" not in first[1]
    assert others == [(), ()]


def test_the_workers_share_the_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [processes.threads(n) for n in (0, 1, 2, 3, 16)] == ["8", "8", "4", "2", "1"]


def test_the_operators_own_number_of_threads_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert processes.threads(2) == "5"


@pytest.mark.parametrize(("said", "wanted"), [("", "4"), ("4", "2"), ("many", "4")])
def test_a_command_that_computes_takes_as_many_threads_as_a_worker(monkeypatch, said, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # so that what is set here is gone afterwards
    monkeypatch.setenv("RIGHTRANK_WORKERS", said)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setitem(sys.modules, "torch", None)
    processes.compute_as_a_worker()
    assert os.environ["OMP_NUM_THREADS"] == "5"
    monkeypatch.delenv("OMP_NUM_THREADS")
    processes.compute_as_a_worker()
    assert "OMP_NUM_THREADS" not in os.environ  # torch is here, and has its threads
    monkeypatch.delitem(sys.modules, "torch")
    processes.compute_as_a_worker()
    assert os.environ["OMP_NUM_THREADS"] == wanted


def test_a_service_that_says_nothing_has_the_workers_that_a_command_counts_on(monkeypatch):
    monkeypatch.delenv("RIGHTRANK_WORKERS", raising=False)
    assert Settings().workers == processes.WORKERS
