import base64
import hashlib
import json
import sys

import httpx
import pytest

from rightrank.service.client import tables
from tests.service.cli.conftest import run


def test_pull_asks_for_the_size_and_tells_what_it_got(server, tmp_path):
    body = b"artifact"
    digest = hashlib.sha256(body).digest()
    server.answers["GET", "/models/net"] = lambda: httpx.Response(
        200,
        stream=httpx.ByteStream(body),
        headers={
            "ETag": f'"{digest.hex()}"',
            "Repr-Digest": "sha-256=:" + base64.b64encode(digest).decode() + ":",
            "RightRank-Budget": "0.29876",
            "RightRank-Params": "20970",
            "RightRank-Precision": "int8",
            "RightRank-Macs": "98944",
            "RightRank-Metric": "top1",
            "RightRank-Accuracy": "0.9712",
            "RightRank-Accuracy-Samples": "1000",
            "RightRank-Baseline-Accuracy": "0.9801",
        },
    )
    file = tmp_path / "small.pt"
    result = run("pull", "net", "--budget", "0.3", "--of", "macs", "-o", str(file))
    assert result.exit_code == 0, result.stderr
    assert dict(server.requests[0].url.params) == {"budget": "0.3", "of": "macs"}
    assert file.read_bytes() == body
    assert "20,970 parameters, 98,944 MACs, int8 (29.9% of the original's MACs)" in result.stdout
    assert "top1 0.9712 on 1000 samples; the original 0.9801" in result.stdout
    facts = json.loads(run("pull", "net", "-o", str(file), "--json").stdout)
    assert facts["budget"] == 0.29876 and facts["params"] == 20970 and facts["accuracy"] == 0.9712
    assert facts["precision"] == "int8" and facts["accuracy-samples"] == 1000
    assert facts["etag"] == f'"{digest.hex()}"'
    assert dict(server.requests[-1].url.params) == {"budget": "1"}


def test_what_is_ready_is_pulled_and_said_to_be_so(server, tmp_path):
    body = b"artifact"
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    facts = {"Params": "5", "Macs": "9", "Budget": "0.2", "Accuracy": "unmeasured", "Ready": "nearest"}
    headers = {"ETag": '"x"', "Repr-Digest": f"sha-256=:{digest}:"}
    headers |= {f"RightRank-{name}": value for name, value in facts.items()}
    server.answers["GET", "/models/net"] = lambda: httpx.Response(200, stream=httpx.ByteStream(body), headers=headers)
    result = run("pull", "net", "--budget", "0.3", "--max-macs", "9", "--ready", "-o", str(tmp_path / "f"))
    assert result.exit_code == 0, result.stderr
    assert dict(server.requests[0].url.params) == {"budget": "0.3", "max_macs": "9", "ready": "1"}
    assert "what was asked for is being made" in result.stdout
    problem = {"type": "/problems/not-ready", "status": 503, "detail": "Being cut.", "operation": "/operations/cut-1"}
    server.answers["GET", "/models/net"] = lambda: httpx.Response(503, json=problem)
    result = run("pull", "net", "--budget", "0.3", "--ready", "-o", str(tmp_path / "f"))
    assert result.exit_code == 1 and "Being cut." in result.stderr
    assert (tmp_path / "f").read_bytes() == body


@pytest.fixture
def measured(server, tmp_path, monkeypatch):
    """A server that has the file `artifact` at every size, a script that prints what it is told, and how it is run."""
    body = b"artifact"
    digest = hashlib.sha256(body)
    facts = {"Model": f"m{'a' * 24}", "Params": "5", "Macs": "9", "Budget": "0.2987", "Accuracy": "unmeasured"}
    headers = {"ETag": f'"{digest.hexdigest()}"'}
    headers |= {"Repr-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"}
    headers |= {f"RightRank-{name}": value for name, value in facts.items()}
    server.answers["GET", "/models/net"] = lambda: httpx.Response(200, stream=httpx.ByteStream(body), headers=headers)
    place = f"/models/{facts['Model']}/reports/{digest.hexdigest()}/wer"

    def reported():
        number = json.loads(server.requests[-1].read())
        return httpx.Response(200, json={"metric": "wer", "model": facts["Model"], **number})

    server.answers["PUT", place] = reported
    monkeypatch.chdir(tmp_path)

    def measure(source, *arguments, name="script.py"):
        (tmp_path / name).write_text(source)
        return run("measure", "net", "--budget", ".3", name, "--python", sys.executable, *arguments)

    return measure


def test_measure_runs_the_script_on_the_fetched_file_and_reports_its_number(server, measured):
    number = {"value": 0.083, "n": 2000, "low": 0.07, "high": 0.1, "higher_is_better": False}
    source = "import pathlib, sys\nassert pathlib.Path(sys.argv[1]).read_bytes() == b'artifact'\nprint('reading')\n"
    result = measured(source + f"print({json.dumps({'metric': 'wer', **number})!r})")
    assert result.exit_code == 0, result.stderr
    fetch, report = server.requests
    assert dict(fetch.url.params) == {"budget": "0.3"}
    assert (report.method, json.loads(report.read())) == ("PUT", number)
    assert "29.9% of the original: wer 0.083 (n=2000, 0.07 to 0.1); it is reported" in result.stdout
    assert "reading" in result.stderr


@pytest.mark.parametrize(("name", "more"), [("wer.py", []), ("script.py", ["--metric", "wer"])])
def test_a_bare_number_is_called_as_the_command_says_or_as_the_script_is(server, measured, name, more):
    result = measured("print(0.5)", "--lower-is-better", "--json", *more, name=name)
    assert result.exit_code == 0, result.stderr
    assert json.loads(server.requests[-1].read()) == {"value": 0.5, "higher_is_better": False}
    assert json.loads(result.stdout)["value"] == 0.5


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("print('NaN')", "no number"),
        ("raise SystemExit(1)", "ended with status 1"),
        ("import sys; open(sys.argv[1], 'a').write('x'); print(0.5)", "changed the file"),
    ],
)
def test_what_is_no_measure_of_the_file_is_not_reported(server, measured, source, told):
    result = measured(source, name="wer.py")
    assert result.exit_code == 1 and told in result.stderr
    assert [request.method for request in server.requests] == ["GET"]


def test_a_number_that_is_not_taken_is_not_lost(server, measured):
    result = measured("print(0.5)", "--metric", "cer")
    assert result.exit_code == 1
    assert 'cer is {"value": 0.5} of the file' in result.stderr and "There is no model 'x'." in result.stderr


def test_pull_asks_by_what_is_reported(server, measured, tmp_path):
    result = run("pull", "net", "--max-error", "0.1", "--metric", "wer", "-o", str(tmp_path / "f"))
    assert result.exit_code == 0, result.stderr
    assert dict(server.requests[0].url.params) == {"max_error": "0.1", "metric": "wer"}


def test_pull_asks_for_what_is_certified_and_tells_it(server, measured, tmp_path):
    result = run("pull", "net", "--min-accuracy", "0.9", "--confidence", "0.95", "-o", str(tmp_path / "f"))
    assert result.exit_code == 0, result.stderr
    assert dict(server.requests[0].url.params) == {"min_accuracy": "0.9", "confidence": "0.95"}
    facts = {"params": "5", "macs": "9", "budget": "0.5", "metric": "top1", "accuracy": "0.93"}
    facts |= {"accuracy-samples": "500", "certified": 'top1="0.9";confidence="0.95";n=500'}
    told = "certified with a confidence of 0.95: a top1 of 0.9 or more in truth (by 500 samples)"
    assert tables.sentence(facts, "params").endswith(f"top1 0.9300 on 500 samples; {told}")
    assert tables.sentence({**facts, "certified": "more=1"}, "params").endswith("; certified: more=1")
