"""What is killed comes back, and what was there is still there."""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from benchmarks.chaos.setups import held
from rightrank.service.client.http import Problem
from tests.system.processes import children, rightrank, runs, until

BUDGET = {"params": {"budget": "0.3"}, "headers": {"Prefer": "wait=100"}}


def etag(service, model="net"):
    answer = httpx.get(f"{service.url}/models/{model}", timeout=120, **BUDGET)
    assert answer.status_code == 200, f"{answer.text}\n{service.log.read_text()}"
    assert hashlib.sha256(answer.content).hexdigest() in answer.headers["etag"]
    return answer.headers["etag"]


def objects(service):
    """Everything in the store: path and size."""
    store = service.data / "store"
    return {str(path.relative_to(store)): path.stat().st_size for path in store.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def published(tmp_path_factory, service):
    """The data of a service that has the model `net`, as they are on disk."""
    folder = tmp_path_factory.mktemp("published") / "store"
    service.rest()
    shutil.copytree(service.data / "store", folder)
    return folder


@pytest.fixture
def stocked(fresh, published):
    """Makes services that have the model `net` from the start."""

    def make(**options):
        made = fresh(**options)
        shutil.copytree(published, made.data / "store")
        return made

    return make


@contextlib.contextmanager
def half_an_upload(service):
    """Meanwhile, a POST of which only half has arrived."""
    start = (
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nhalf\r\n'
        b'--x\r\nContent-Disposition: form-data; name="checkpoint"; filename="f.pt2"\r\n\r\n'
    )
    half = bytes(8 << 20)
    head = (
        "POST /models HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(start) + 2 * len(half)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + start + half)
        scratch = service.data / "tmp"
        until(lambda: [file for file in scratch.rglob("checkpoint") if file.stat().st_size], "half an upload")
        yield


def attempts(service, operation):
    """How often a worker has begun an operation."""
    return int(service.redis().hget(f"rightrank:operation:{operation}", "tries") or 0)


def test_a_worker_killed_amid_an_ingest_costs_nothing_but_time(fresh, wide):
    service = fresh(workers=1).start()
    answer = service.client.push(wide, name="wide")
    until(lambda: attempts(service, answer["operation"]) == 1, "the first attempt")
    (worker,) = service.pids("worker")
    servers = until(lambda: children(worker), "what makes the reader of the upload")
    readers = [*servers, *(each for server in servers for each in children(server))]
    os.kill(worker, signal.SIGKILL)
    until(lambda: not any(map(runs, readers)), "the end of the reader, which its worker no longer watches")
    state = service.client.wait(answer["operation"])
    assert state["result"]["model"] == answer["id"]
    assert attempts(service, answer["operation"]) == 2
    assert service.client.show("wide")["id"] == answer["id"]
    assert f"(process {worker}) was killed by SIGKILL" in service.log.read_text()


def test_a_job_that_kills_its_worker_again_and_again_is_given_up(fresh, wide, net):
    service = fresh(workers=1).start()
    answer = service.client.push(wide)
    for attempt in (1, 2, 3):
        until(lambda: attempts(service, answer["operation"]) == attempt, f"attempt {attempt}")  # noqa: B023
        (worker,) = service.pids("worker")
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(Problem) as caught:
        service.client.wait(answer["operation"])
    assert caught.value.kind == "worker-lost"
    assert caught.value.document["hint"]
    assert service.publish(net) == service.client.show("net")["id"]


def test_an_api_killed_amid_an_upload_leaves_nothing_of_it(stocked):
    service = stocked().start()
    before, whole = objects(service), etag(service)
    (api,) = service.pids("api")
    with half_an_upload(service):
        os.kill(api, signal.SIGKILL)
        until(lambda: service.pids("api") not in ([], [api]) and service.client.ready(), "the API's return")
    assert {path: size for path, size in objects(service).items() if "measurements" not in path} == {
        path: size for path, size in before.items() if "measurements" not in path
    }
    assert until(lambda: all(map(held, (service.data / "tmp").iterdir())), "a tidy scratch folder")
    assert etag(service) == whole


def test_a_service_killed_amid_an_upload_starts_again_with_all_it_had(stocked):
    service = stocked().start()
    before, whole = objects(service), etag(service)
    family = [*service.pids("worker"), *service.pids("api")]
    with half_an_upload(service):
        service.kill()
    until(lambda: not any(map(runs, family)), "the end of its workers and its API")
    service.start()
    assert {path for path in objects(service) if "measurements" not in path} == {
        path for path in before if "measurements" not in path
    }
    assert until(lambda: all(map(held, (service.data / "tmp").iterdir())), "a tidy scratch folder")
    assert etag(service) == whole


def test_a_service_killed_amid_an_ingest_finishes_it_after_its_next_start(fresh, wide):
    service = fresh(workers=1).start()
    answer = service.client.push(wide, name="wide")
    until(lambda: attempts(service, answer["operation"]) == 1, "the first attempt")
    service.kill()
    service.start()
    assert service.client.wait(answer["operation"])["result"]["model"] == answer["id"]
    assert service.client.show("wide")["id"] == answer["id"]


def test_a_service_killed_together_with_its_valkey_finishes_what_it_had_accepted(fresh, wide):
    service = fresh(workers=1).start()
    answer = service.client.push(wide, name="wide")
    until(lambda: attempts(service, answer["operation"]) == 1, "the first attempt")
    valkey = service.valkey()
    service.kill()
    os.kill(valkey, signal.SIGKILL)
    service.start()
    assert service.valkey() != valkey
    assert service.client.wait(answer["operation"])["result"]["model"] == answer["id"]


def test_a_killed_valkey_is_replaced_and_no_byte_changes(stocked):
    service = stocked().start()
    whole, valkey = etag(service), service.valkey()
    os.kill(valkey, signal.SIGKILL)
    until(lambda: not runs(valkey), "the end of Valkey")
    until(service.client.ready, "readiness")
    assert etag(service) == whole
    assert service.valkey() != valkey


def test_a_signal_ends_every_process_and_the_status_says_that_all_went_well(fresh):
    service = fresh(workers=1).start()
    family = {*children(service.process.pid), service.valkey()}
    assert len(family) == 3
    assert service.stop() == 0
    assert not any(map(runs, family))


def test_the_valkey_that_a_killed_service_left_is_adopted(fresh):
    service = fresh(workers=1).start()
    valkey = service.valkey()
    service.kill()
    service.start()
    assert service.valkey() == valkey
    assert service.stop() == 0
    until(lambda: not runs(valkey), "the end of Valkey")


def test_a_second_service_over_the_same_folder_is_refused(fresh):
    service = fresh(workers=0).start()
    second = rightrank("serve", "--data", service.data, "--port", 0)
    assert second.returncode == 1
    assert f"process {service.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert service.client.ready()


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = rightrank("serve", "--data", tmp_path / "data", "--port", port)
    assert refused.returncode == 1
    assert f"Port {port}" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["lock"]


def test_an_unreadable_keys_file_is_refused_at_the_start(tmp_path):
    (tmp_path / "keys").write_text("not a key\n")
    keys = {"RIGHTRANK_KEYS_FILE": str(tmp_path / "keys")}
    refused = rightrank("serve", "--data", tmp_path / "data", "--port", 0, **keys)
    assert refused.returncode == 1
    assert "keys:1" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_demo_is_published_and_the_line_it_prints_fetches_it(fresh, tmp_path):
    service = fresh().start("--demo")
    line = until(
        lambda: [line for line in service.log.read_text().splitlines() if line.strip().startswith("curl")],
        "the line with curl",
    )[0]
    assert "0.3" in line
    done = subprocess.run(line.strip(), shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "200 OK" in done.stdout
    lines = service.log.read_text().partition("import torch")[2].splitlines()
    program = "\n".join(["import torch", lines[1].strip()])
    answer = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert 0 <= int(answer.stdout) <= 9
