"""What a device gets, seen with nothing but curl and torch."""

import concurrent.futures
import hashlib
import json
import re
import subprocess
import sys
import time

import httpx
import pytest

from tests.system.processes import ENVIRONMENT, curl, rightrank

BUDGETS = ("1", "0.7", "0.43", "0.3", "0.11")

# Run without this project in reach: what a device needs to count, run and score a file.
DEVICE = """
import json, sys
import torch
from safetensors.torch import load_file
data = load_file(sys.argv[1])
found = {}
for path in sys.argv[2:]:
    module = torch.jit.load(path)
    with torch.inference_mode():
        right = (module(data["inputs"]).argmax(1) == data["targets"]).sum().item()
    found[path] = {
        "params": sum(tensor.numel() for tensor in module.parameters()),
        "accuracy": right / len(data["targets"]),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def fetched(service, net, tmp_path_factory):
    """Every budget's headers, its file, and what a device finds in it."""
    folder = tmp_path_factory.mktemp("fetched")
    files, headers = {}, {}
    with httpx.Client(base_url=service.url, timeout=120) as http:
        for budget in BUDGETS:
            answer = http.get("/models/net", params={"budget": budget}, headers={"Prefer": "wait=100"})
            assert answer.status_code == 200, answer.text
            headers[budget] = answer.headers
            files[budget] = folder / f"{budget}.pt"
            files[budget].write_bytes(answer.content)
    done = subprocess.run(
        [sys.executable, "-I", "-c", DEVICE, net / "evaluation.safetensors", *files.values()],
        env=ENVIRONMENT,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    return {budget: (headers[budget], files[budget], found[str(files[budget])]) for budget in BUDGETS}


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_file_has_no_more_parameters_than_its_budget(fetched, budget):
    headers, _, found = fetched[budget]
    whole = fetched["1"][2]["params"]
    # But in the network as uploaded the batch norm of 16 channels is part of the layer before it: no weight of its own,
    # and one bias for both.
    assert int(headers["rightrank-params"]) - found["params"] == (0 if budget == "1" else 2 * 16)
    assert found["params"] <= float(budget) * whole
    assert int(headers["rightrank-params"]) / whole == float(headers["rightrank-budget"])


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_accuracy_announced_is_the_files_own_to_the_last_digit(fetched, budget):
    headers, _, found = fetched[budget]
    assert float(headers["rightrank-accuracy"]) == found["accuracy"]
    assert headers["rightrank-accuracy-samples"] == "500"
    assert float(headers["rightrank-baseline-accuracy"]) == fetched["1"][2]["accuracy"]


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_bytes_are_those_of_the_etag_and_the_digest(fetched, budget):
    headers, file, _ = fetched[budget]
    digest = hashlib.sha256(file.read_bytes())
    assert digest.hexdigest() in headers["etag"]
    assert int(headers["content-length"]) == file.stat().st_size


def test_smaller_budgets_have_smaller_files(fetched):
    sizes = [fetched[budget][1].stat().st_size for budget in BUDGETS]
    assert sizes == sorted(set(sizes), reverse=True)


def test_the_whole_budget_gives_the_originals_outputs_bit_for_bit(fetched, net):
    script = """
import sys, torch
from safetensors.torch import load_file
inputs = load_file(sys.argv[1])["inputs"]
original, served = torch.export.load(sys.argv[2]).module(), torch.jit.load(sys.argv[3])
with torch.no_grad():
    assert torch.equal(original(inputs), served(inputs))
    assert torch.equal(original(inputs[:2]), served(inputs[:2]))
"""
    paths = [net / "evaluation.safetensors", net / "net.pt2", fetched["1"][1]]
    done = subprocess.run([sys.executable, "-I", "-c", script, *paths], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def header(text, name):
    return re.search(rf"^{name}: (.*?)\r?$", text, re.IGNORECASE | re.MULTILINE)[1]


def test_head_says_what_get_would(service, fetched):
    shown = curl("--head", f"{service.url}/models/net?budget=0.3").decode()
    headers = fetched["0.3"][0]
    for name in ("etag", "content-length", "repr-digest", "rightrank-accuracy", "rightrank-plan", "content-type"):
        assert header(shown, name) == headers[name], name


def test_a_device_that_has_the_file_downloads_nothing(service, fetched, tmp_path):
    url, etag = f"{service.url}/models/net?budget=0.3", fetched["0.3"][0]["etag"]
    status = curl("--output", tmp_path / "f", "--write-out", "%{http_code} %{size_download}", url, "-H",
                  f"If-None-Match: {etag}")  # fmt: skip
    assert status == b"304 0"


def test_curl_resumes_to_the_same_bytes(service, fetched, tmp_path):
    _, file, _ = fetched["0.3"]
    whole = file.read_bytes()
    part = tmp_path / "part.pt"
    part.write_bytes(whole[:12345])
    status = curl("--continue-at", "-", "--output", part, "--write-out", "%{http_code}",
                  f"{service.url}/models/net?budget=0.3")  # fmt: skip
    assert status == b"206"
    assert hashlib.sha256(part.read_bytes()).digest() == hashlib.sha256(whole).digest()


def test_a_range_of_another_version_gets_the_whole(service, fetched, tmp_path):
    url = f"{service.url}/models/net?budget=0.3"
    status = curl("--range", "100-", "-H", f'If-Range: "{"0" * 64}"', "--output", tmp_path / "f", "--write-out",
                  "%{http_code}", url)  # fmt: skip
    assert status == b"200"
    assert (tmp_path / "f").read_bytes() == fetched["0.3"][1].read_bytes()


def test_the_command_line_continues_a_broken_download(service, fetched, tmp_path):
    headers, file, _ = fetched["0.3"]
    whole = file.read_bytes()
    (tmp_path / "net.pt.part").write_bytes(whole[:5000])
    (tmp_path / "net.pt.part.etag").write_text(headers["etag"])
    options = ("--budget", 0.3, "-o", tmp_path / "net.pt", "--url", service.url, "--json")
    pulled = rightrank("pull", "net", *options)
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "net.pt").read_bytes() == whole
    assert json.loads(pulled.stdout)["accuracy"] == float(headers["rightrank-accuracy"])
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_a_budget_that_cannot_be_met_is_refused_with_one_that_can(service):
    refused = rightrank("pull", "net", "--budget", 0.0001, "--url", service.url, "--json")
    assert refused.returncode == 1
    problem = json.loads(refused.stderr)
    assert problem["type"] == "/problems/budget-unreachable"
    size = {"budget": problem["nearest"]}
    with httpx.Client(base_url=service.url, timeout=120) as http:
        answer = http.get("/models/net", params=size, headers={"Prefer": "wait=100"})
    assert answer.status_code == 200
    assert float(answer.headers["rightrank-budget"]) <= problem["nearest"]


def done_cuts(http):
    """How many cuts the workers have done."""
    pattern = r'^rightrank_jobs_total\{kind="cut",outcome="done"\} (\S+)$'
    found = re.search(pattern, http.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def settled_cuts(service, http):
    """The same once nothing is under way and no worker still has something to report."""
    seen = -1.0
    while seen != (now := done_cuts(http)):
        service.rest()
        time.sleep(3)
        seen = now
    return seen


def test_twenty_devices_that_want_the_same_new_size_cost_one_cut(service, fetched):
    with httpx.Client(base_url=service.url, timeout=120) as http:
        before = settled_cuts(service, http)

        def fetch(_):
            return http.get("/models/net", params={"budget": "0.271"}, headers={"Prefer": "wait=100"})

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(fetch, range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.headers["etag"] for answer in answers}) == 1
        assert len({answer.content for answer in answers}) == 1
        assert settled_cuts(service, http) == before + 1


def test_a_cache_that_was_emptied_changes_no_byte(service, fetched):
    service.redis().flushall()
    headers, file, _ = fetched["0.3"]
    with httpx.Client(base_url=service.url, timeout=120) as http:
        answer = http.get("/models/net", params={"budget": "0.3"}, headers={"Prefer": "wait=100"})
    assert answer.status_code == 200
    assert answer.headers["etag"] == headers["etag"]
    assert answer.headers["rightrank-accuracy"] == headers["rightrank-accuracy"]
    assert answer.content == file.read_bytes()
