import json
import subprocess
import sys

import httpx
import pytest

from tests.service.cli.conftest import run


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


def test_a_table_is_whole_in_a_pipe():
    names = [f"a-name-that-is-rather-long@{version}" for version in range(1, 9)]
    model = {"id": "m" + "1" * 24, "names": names, "params": 1, "bytes": 4, "baseline": None}
    script = f"from rightrank.service.cli.console import out, tables; out.print(tables.table_of([{model!r}]))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert ", ".join(names) in shown and model["id"] in shown and "unmeasured" in shown
