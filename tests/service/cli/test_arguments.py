import httpx
import pytest

from rightrank.service.cli.arguments import parse_option
from tests.service.cli.conftest import run


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
    assert parse_option(text) == read


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
