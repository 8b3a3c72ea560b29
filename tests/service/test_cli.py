import base64
import hashlib
import json
import os
import stat
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from rightrank.service import cli
from rightrank.service.api import keys
from rightrank.service.api.auth import Gate
from rightrank.service.client import tables
from rightrank.service.client.http import Client
from rightrank.service.registry.store import Store
from rightrank.service.settings import Settings

NOT_FOUND = {
    "type": "/problems/model-not-found",
    "title": "There is no such model",
    "status": 404,
    "detail": "There is no model 'x'.",
    "hint": "See GET /models.",
}


def run(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def server(monkeypatch):
    """Answers by method and path; what was asked is in `requests`."""

    class Fake:
        def __init__(self):
            self.answers, self.requests = {}, []

        def __call__(self, request):
            request.read()
            self.requests.append(request)
            answer = self.answers.get((request.method, request.url.path))
            return answer() if answer else httpx.Response(404, json=NOT_FOUND)

    fake = Fake()
    monkeypatch.setattr(cli, "connect", lambda url: Client(url, transport=httpx.MockTransport(fake)))
    return fake


def test_every_command_explains_itself():
    assert run("--help").exit_code == 0
    for command in ("serve", "worker", "push", "pull", "models", "show", "measure", "delete", "key"):
        shown = run(command, "--help")
        assert shown.exit_code == 0, command
        assert command in run("--help").stdout


def test_the_command_that_serve_uses_for_itself_is_not_advertised():
    assert " api " not in run("--help").stdout


@pytest.mark.parametrize("command", [["show", "x"], ["delete", "x"], ["pull", "x"]])
def test_a_refusal_is_told_in_the_servers_words_and_fails(server, command):
    result = run(*command)
    assert result.exit_code == 1
    assert "There is no model 'x'. See rightrank models." in result.stderr
    assert result.stdout == ""


def test_brackets_in_names_are_shown_as_they_are(server):
    server.answers["GET", "/models/x"] = lambda: httpx.Response(404, json={"detail": "No [bold]x[/bold]."})
    assert "No [bold]x[/bold]." in run("show", "x").stderr


def test_a_script_gets_the_refusal_as_the_problem_document(server):
    result = run("show", "x", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stderr)["type"] == "/problems/model-not-found"


def test_a_server_that_is_down_is_a_sentence_and_a_failure(monkeypatch):
    monkeypatch.setattr("rightrank.service.client.http.time.sleep", lambda seconds: None)
    result = run("show", "x", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "No answer from http://127.0.0.1:1" in result.stderr


def test_push_waits_for_the_model_unless_told_not_to(server, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"net")
    server.answers = {
        ("POST", "/models"): lambda: httpx.Response(202, json={"id": "abc", "operation": "ingest-abc"}),
        ("GET", "/operations/ingest-abc"): lambda: httpx.Response(200, json={"done": True, "result": {}}),
    }
    result = run("push", str(tmp_path / "net.pt2"), "--name", "net", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"id": "abc", "operation": "ingest-abc"}
    assert [request.method for request in server.requests] == ["POST", "GET"]
    server.requests.clear()
    assert run("push", str(tmp_path / "net.pt2"), "--no-wait").exit_code == 0
    assert [request.method for request in server.requests] == ["POST"]


def test_push_tells_what_of_the_file_was_left_out(server, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"net")
    notes = ["Left out: loss.weight."]
    server.answers = {
        ("POST", "/models"): lambda: httpx.Response(202, json={"id": "abc", "operation": "ingest-abc"}),
        ("GET", "/operations/ingest-abc"): lambda: httpx.Response(200, json={"done": True, "result": {"notes": notes}}),
    }
    assert "Note: Left out: loss.weight." in run("push", str(tmp_path / "net.pt")).stderr
    assert json.loads(run("push", str(tmp_path / "net.pt"), "--json").stdout)["notes"] == notes


def test_push_tells_what_is_known_on_the_way_at_once_and_once(server, tmp_path):
    (tmp_path / "net.pt").write_bytes(b"net")
    early, late = "This model cannot get below 0.9 of its parameters.", "Left out: loss.weight."
    progress = {"phase": "calibrate", "completed": 0, "total": 9, "unit": "samples", "note": early}
    states = [{"done": False, "progress": progress}] * 2 + [{"done": True, "result": {"notes": [late, early]}}]
    server.answers = {
        ("POST", "/models"): lambda: httpx.Response(202, json={"id": "abc", "operation": "ingest-abc"}),
        ("GET", "/operations/ingest-abc"): lambda: httpx.Response(200, json=states.pop(0)),
    }
    result = run("push", str(tmp_path / "net.pt"))
    assert [line for line in result.stderr.splitlines() if line] == [f"Note: {early}", f"Note: {late}"]
    states += [{"done": False, "progress": progress}, {"done": True, "result": {"notes": [early]}}]
    result = run("push", str(tmp_path / "net.pt"), "--json")
    assert json.loads(result.stdout)["notes"] == [early] and result.stderr == ""


def test_push_fails_where_the_ingest_does(server, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"net")
    problem = {"type": "/problems/checkpoint-unsafe", "status": 422, "detail": "It carries a pickle."}
    server.answers = {
        ("POST", "/models"): lambda: httpx.Response(202, json={"id": "abc", "operation": "ingest-abc"}),
        ("GET", "/operations/ingest-abc"): lambda: httpx.Response(200, json={"done": True, "error": problem}),
    }
    result = run("push", str(tmp_path / "net.pt2"))
    assert result.exit_code == 1
    assert "It carries a pickle." in result.stderr


def test_push_refuses_a_file_that_is_not_there(server, tmp_path):
    assert run("push", str(tmp_path / "none.pt2")).exit_code == 2
    assert server.requests == []


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("criterion=taylor", ("criterion", "taylor")),
        ("tune=true", ("tune", True)),
        ("epochs=3", ("epochs", 3)),
        ("note=a=b", ("note", "a=b")),
        ("empty=", ("empty", "")),
    ],
)
def test_an_option_is_json_where_it_can_be_and_text_elsewhere(text, read):
    assert cli.parse_option(text) == read


def test_an_option_without_a_value_is_refused(server, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"net")
    assert run("push", str(tmp_path / "net.pt2"), "--option", "tune").exit_code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ('{"licence": "MIT"}', "Known are description, license"), ("[" * 9999, "JSON")],
)
def test_a_card_is_looked_at_before_anything_is_sent(server, tmp_path, text, words):
    (tmp_path / "net.pt2").write_bytes(b"net")
    (tmp_path / "card.json").write_text(text)
    refused = run("push", str(tmp_path / "net.pt2"), "--card", str(tmp_path / "card.json"))
    assert refused.exit_code == 2 and words in " ".join(refused.stderr.replace("│", " ").split())
    assert server.requests == []


def test_a_card_is_sent_as_it_is_kept_and_shown(server, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"net")
    names = [f"class {number}" for number in range(12)]
    card = {
        "preprocessing": {"size": [8, 8]},
        "license": "MIT",
        "labels": {"0": names, "2": ["a", "b"]},
        "description": None,
    }
    (tmp_path / "card.json").write_text(json.dumps(card, indent=2))
    described = {"id": "m1", "names": [], "params": 1, "macs": 1, "criterion": "c1", "layers": [], "card": card}
    del card["description"]
    described |= {"min_budget": {"params": 0.05, "macs": 0.05}}
    server.answers = {
        ("POST", "/models"): lambda: httpx.Response(202, json={"id": "abc", "operation": "ingest-abc"}),
        ("GET", "/models/net"): lambda: httpx.Response(200, json=described),
        ("GET", "/models/net/curve"): lambda: httpx.Response(200, json={"points": []}),
    }
    assert run("push", str(tmp_path / "net.pt2"), "--card", str(tmp_path / "card.json"), "--no-wait").exit_code == 0
    sent = server.requests[-1].content
    assert b'name="card"' in sent and json.dumps(card, sort_keys=True, separators=(",", ":")).encode() in sent
    shown = run("show", "net").stdout
    assert "12: class 0, class 1" in shown and "class 9 and 2 more" in shown and "2: a, b" in shown
    assert 'Preprocessing  {"size": [8, 8]}' in shown and "License        MIT" in shown


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


def test_every_command_that_fetches_or_publishes_names_a_precision(server, tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"net")
    server.answers = {
        ("POST", "/models"): lambda: httpx.Response(202, json={"id": "abc", "operation": "ingest-abc"}),
        ("GET", "/models/net/curve"): lambda: httpx.Response(200, json={"points": []}),
        ("GET", "/models/net"): lambda: httpx.Response(
            422, json={"detail": "It cannot have it.", "hint": "Ask for a `budget` with `precision=int8`."}
        ),
    }
    assert run("push", str(tmp_path / "net.pt2"), "--precision", "int8", "--no-wait").exit_code == 0
    assert b'{"precision": "int8"}' in server.requests[-1].content
    refused = run("pull", "net", "--precision", "int8", "-o", str(tmp_path / "net.pt"))
    assert dict(server.requests[-1].url.params) == {"budget": "1", "precision": "int8"}
    assert "Ask for a --budget with --precision int8." in refused.stderr
    run("measure", "net", str(tmp_path / "net.pt2"), "--budget", "0.5", "--precision", "float16")
    assert dict(server.requests[-1].url.params) == {"budget": "0.5", "precision": "float16"}


def test_show_lists_the_precisions_and_what_was_measured_in_one(server):
    rows = [
        {"precision": "float32", "bytes": 400_000, "smallest": 20_000, "min_budget": 0.05},
        {"precision": "int8", "bytes": 101_000, "smallest": 7_000, "min_budget": 0.04},
    ]
    description = {"id": "m1", "names": [], "params": 1, "macs": 1, "criterion": "c1", "layers": []}
    description |= {"min_budget": {"params": 0.05, "macs": 0.05}, "precision": "int8", "precisions": rows}
    server.answers = {
        ("GET", "/models/net"): lambda: httpx.Response(200, json=description),
        ("GET", "/models/net/curve"): lambda: httpx.Response(200, json={"points": []}),
    }
    shown = run("show", "net", "--precision", "float32").stdout
    assert dict(server.requests[-1].url.params) == {"precision": "float32"}
    assert "float32: 20.0 kB to 400.0 kB" in shown and "int8: 7.0 kB to 101.0 kB, unless another is named" in shown


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


def test_what_is_reported_is_told_as_the_publishers():
    facts = {"params": "5", "macs": "9", "budget": "0.5", "accuracy": "unmeasured", "reported": 'wer="0.083"'}
    assert tables.sentence(facts, "params").endswith('unmeasured; its publisher reports wer="0.083"')
    point = {"budget": 0.3, "params": 5, "macs": 9, "bytes": 88666, "metric": None, "accuracy": None, "low": None}
    point |= {"method": "cut", "reported": [{"metric": "wer", "value": 0.083, "n": 20}, {"metric": "cer", "value": 2}]}
    with cli.out.capture() as captured:
        cli.out.print(tables.table_of_sizes([point, {**point, "reported": []}]))
    assert "wer 0.083 (n=20)," in captured.get() and "cer 2" in captured.get() and "None" not in captured.get()


def test_an_accuracy_that_nobody_measured_is_not_shown_as_a_number():
    facts = {"params": "5", "macs": "9", "budget": "0.5", "accuracy": "unmeasured"}
    assert tables.sentence(facts, "params") == (
        "5 parameters, 9 MACs (50.0% of the original's parameters), accuracy unmeasured"
    )


def test_show_prints_the_model_and_the_sizes_measured(server):
    description = {
        "id": "m1",
        "names": ["net@1"],
        "params": 71786,
        "macs": 149760,
        "criterion": "logit",
        "min_budget": {"params": 0.0167, "macs": 0.03},
        "layers": [{"decomposed": True}, {"decomposed": False}],
    }
    point = {"budget": 0.292, "params": 20970, "macs": 98944, "bytes": 88666, "metric": "top1"}
    point |= {"accuracy": 0.83, "low": 0.79, "high": 0.86, "method": "refit+bn"}
    server.answers = {
        ("GET", "/models/net"): lambda: httpx.Response(200, json=description),
        ("GET", "/models/net/curve"): lambda: httpx.Response(200, json={"points": [point]}),
    }
    shown = run("show", "net").stdout
    model, size = ("net@1", "71,786", "1 of 2 can be cut", "0.0167"), ("0.292", "88.7 kB", "0.8300 top1", "refit+bn")
    for words in (*model, *size):
        assert words in shown
    assert "Removed" not in shown
    assert json.loads(run("show", "net", "--json").stdout) == {**description, "curve": [point]}


def test_numbers_that_there_are_none_of_are_left_out(server):
    none = {"metric": "mse", "value": None, "low": None, "high": None}
    found = [{"id": "m1", "names": ["net@1"], "params": 1234, "bytes": 5000, "baseline": none}]
    server.answers["GET", "/models"] = lambda: httpx.Response(200, json={"models": found, "next": None})
    shown = run("models")
    assert shown.exit_code == 0 and "unmeasured" in shown.stdout and "None" not in shown.stdout
    point = {"budget": 0.3, "params": 5, "macs": 9, "bytes": 88666, "metric": "mse", "method": "cut"}
    one, nothing = ({**point, "accuracy": value, "low": None, "high": None} for value in (0.25, None))
    with cli.out.capture() as captured:
        cli.out.print(tables.table_of_sizes([one, nothing]))
    assert "0.2500 mse" in captured.get() and "unmeasured" in captured.get() and "None" not in captured.get()
    facts = {"params": "5", "macs": "9", "budget": "0.5", "accuracy": "0.25", "metric": "mse", "accuracy-samples": "1"}
    assert tables.sentence(facts, "params").endswith("mse 0.2500 on 1 samples")


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"removed": 0}, None),
        ({}, "the parameters"),
        ({"exact": True, "compared": 0}, "the parameters, without loss"),
        ({"exact": False, "compared": 0}, "the parameters, with the same outputs for random inputs"),
        ({"exact": False, "compared": 256}, "the parameters, with the same outputs for 256 calibration inputs"),
    ],
)
def test_show_says_what_was_removed_and_how_it_is_known_that_nothing_is_lost(more, shown):
    model = {"id": "m1", "names": [], "params": 4000, "macs": 9, "criterion": "logit", "layers": []}
    model["min_budget"] = {"params": 0.1}
    model["eliminated"] = {"removed": 1200, "params_before": 4000, "params_after": 1000, "rejected": "", **more}
    with cli.out.capture() as captured:
        cli.out.print(tables.summary_of(model))
    words = " ".join(captured.get().split())
    assert ("1,200 zero channels, 75.0% of " in words) == (shown is not None)
    assert shown is None or f"1,200 zero channels, 75.0% of {shown} Layers" in words


def test_show_says_what_no_layer_covers():
    model = {"id": "m1", "names": [], "params": 4000, "macs": 9, "criterion": "logit", "layers": []}
    model["min_budget"] = {"params": 0.83}
    tensors = [
        {"name": name, "params": params, "share": params / 4000, "read_by": readers, "reason": reason}
        for name, params, readers, reason in (
            ("words.weight", 2760, ["embedding", "linear"], ""),
            ("deep.weight", 400, ["convolution"], "no rank is smaller than the whole"),
            ("places", 40, ["add"], ""),
            ("bias", 20, ["add"], ""),
        )
    ]
    rest = {"params": 3240, "share": 0.81, "tensors": tensors, "others": {"tensors": 9, "params": 20}}

    def shown():
        with cli.out.capture() as captured:
            cli.out.print(tables.summary_of(model))
        return [line.strip() for line in captured.get().splitlines()]

    before = shown()
    model["uncovered"] = rest
    assert [line for line in shown() if line not in before] == [
        "Uncovered   81.0% of the parameters are in no layer that can be cut",
        "69.0% words.weight, read by embedding and linear",
        "10.0% deep.weight, no rank is smaller than the whole",
        "1.0% places, read by add",
        "1.0% in 10 more",
    ]
    model["uncovered"] = {"params": 40, "share": 0.01, "tensors": tensors[2:3], "others": {"tensors": 0, "params": 0}}
    assert len(shown()) == len(before) + 2


def test_models_prints_all_of_them(server):
    measured = {"metric": "top1", "value": 0.9876}
    found = [
        {"id": "m1", "names": ["net@1", "net@2"], "params": 1234, "bytes": 5000, "baseline": measured},
        {"id": "m2", "names": [], "params": 99, "bytes": 400, "baseline": None},
    ]
    server.answers["GET", "/models"] = lambda: httpx.Response(200, json={"models": found, "next": None})
    assert json.loads(run("models", "--json").stdout) == found
    shown = run("models").stdout
    for words in ("net@1, net@2", "1,234", "5.0 kB", "0.9876 top1", "unmeasured"):
        assert words in shown


def test_a_table_is_whole_in_a_pipe():
    names = [f"a-name-that-is-rather-long@{version}" for version in range(1, 9)]
    model = {"id": "m" + "1" * 24, "names": names, "params": 1, "bytes": 4, "baseline": None}
    script = f"from rightrank.service import cli; cli.out.print(cli.tables.table_of([{model!r}]))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert ", ".join(names) in shown and model["id"] in shown and "unmeasured" in shown


def test_the_version_is_told():
    assert run("--version").stdout.split()[0] == "rightrank"


def test_what_was_not_measured_is_no_number_for_scripts():
    facts = {"params": "5", "budget": "0.5", "accuracy": "unmeasured", "accuracy-interval": "0.5, 1.0"}
    read = {"params": 5, "budget": 0.5, "accuracy": None, "accuracy-interval": [0.5, 1.0]}
    assert tables.typed(facts) == read


def test_a_variable_that_is_no_setting_is_named(monkeypatch, capsys):
    monkeypatch.setenv("RIGHTRANK_CACHE_BYTE", "1")
    cli.name_unknown()
    assert "RIGHTRANK_CACHE_BYTE is no setting; RIGHTRANK_CACHE_BYTES is" in capsys.readouterr().err


def test_a_key_opens_the_service_and_is_not_in_the_file(tmp_path):
    file = tmp_path / "new" / "keys"
    first = run("key", "create", "ci", "--scope", "fetch", "--scope", "publish", "--keys-file", str(file))
    second = json.loads(run("key", "create", "fleet", "--scope", "fetch", "--keys-file", str(file), "--json").stdout)
    assert first.exit_code == 0
    secret = first.stdout.strip()
    assert secret not in file.read_text()
    assert second["key"] not in file.read_text()
    assert [key.name for key in keys.read(file)] == ["ci", "fleet"]
    gate = Gate(file)
    assert gate.find(secret).scopes == {"fetch", "publish"}
    assert gate.find(second["key"]).name == "fleet"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_key_starts_a_line_of_its_own_in_a_file_written_by_hand(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"old fetch {'0' * 64}")
    assert run("key", "create", "new", "--scope", "fetch", "--keys-file", str(file)).exit_code == 0
    assert [key.name for key in keys.read(file)] == ["old", "new"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["ci", "--scope", "root"],
        ["ci", "--scope", "fetch:*"],
        ["ci", "--scope", "fetch:Acme.*"],
        ["a b", "--scope", "fetch"],
        ["ci", "--scope", "fetch", "--until", "soon"],
        ["ci"],
    ],
)
def test_a_key_that_the_service_could_not_read_is_not_made(tmp_path, arguments):
    result = run("key", "create", *arguments, "--keys-file", str(tmp_path / "keys"))
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert not (tmp_path / "keys").exists()


def test_keys_are_listed_without_being_told(tmp_path):
    file = tmp_path / "keys"
    arguments = ("--scope", "fetch:acme.*", "--scope", "publish", "--until", "2001-02-03", "--keys-file", str(file))
    made = json.loads(run("key", "create", "ci", *arguments, "--json").stdout)
    assert made["until"] == "2001-02-03"
    (listed,) = json.loads(run("key", "list", "--keys-file", str(file), "--json").stdout)
    digest = hashlib.sha256(made["key"].encode()).hexdigest()
    assert listed == {
        "name": "ci",
        "scopes": ["fetch:acme.*", "publish"],
        "until": "2001-02-03",
        "expired": True,
        "digest": digest[:12],
    }
    shown = run("key", "list", "--keys-file", str(file)).stdout
    for words in ("ci", "fetch:acme.*, publish", "2001-02-03 (expired)", digest[:12]):
        assert words in shown
    assert digest not in shown


def test_a_key_is_revoked_by_name_or_digest_and_what_is_not_there_is_said(tmp_path):
    file = tmp_path / "keys"
    for name in ("ci", "dev"):
        run("key", "create", name, "--scope", "fetch", "--keys-file", str(file))
    digest = keys.read(file)[1].digest
    assert "The key ci" in run("key", "revoke", "ci", "--keys-file", str(file)).stdout
    gone = json.loads(run("key", "revoke", digest[:8], "--keys-file", str(file), "--json").stdout)
    assert gone == {"revoked": [{"name": "dev", "digest": digest[:12]}]}
    assert keys.read(file) == ()
    again = run("key", "revoke", "ci", "--keys-file", str(file))
    assert (again.exit_code, "no key of this name" in again.stderr) == (1, True)
    assert run("key", "list", "--keys-file", str(tmp_path / "other")).exit_code == 1


def test_serve_refuses_the_open_network_without_keys(tmp_path):
    result = run("serve", "--host", "0.0.0.0", "--data", str(tmp_path))
    assert result.exit_code == 1
    assert "refusing to listen on 0.0.0.0 without keys" in result.stderr


def test_a_store_is_looked_through_and_tidied(tmp_path, monkeypatch):
    monkeypatch.setenv("RIGHTRANK_DATA", str(tmp_path))
    store = Store(Settings(data=tmp_path))
    assert run("fsck").exit_code == 0
    store.create(f"checkpoints/{'0' * 64}", b"x")
    os.utime(tmp_path / "store" / "checkpoints" / ("0" * 64), (0, 0))
    store.create("names/net/1.json", b"torn")
    done = run("fsck", "--json")
    assert done.exit_code == 1
    found = {each["key"]: each["kind"] for each in json.loads(done.stdout)}
    assert found == {f"checkpoints/{'0' * 64}": "leftover", "names/net/1.json": "lost"}
    assert run("fsck", "--repair", "--quick").exit_code == 1
    assert store.keys("") == ["damaged/names/net/1.json"]
    done = run("fsck")
    assert done.exit_code == 0 and "note: damaged/names/net/1.json" in done.stdout
