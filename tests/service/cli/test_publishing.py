import json

import httpx

from tests.service.cli.conftest import run


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
