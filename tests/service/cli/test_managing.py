import json

import httpx

from rightrank.service.cli.console import out
from rightrank.service.client import tables
from tests.service.cli.conftest import run


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
    with out.capture() as captured:
        out.print(tables.table_of_sizes([one, nothing]))
    assert "0.2500 mse" in captured.get() and "unmeasured" in captured.get() and "None" not in captured.get()
    facts = {"params": "5", "macs": "9", "budget": "0.5", "accuracy": "0.25", "metric": "mse", "accuracy-samples": "1"}
    assert tables.sentence(facts, "params").endswith("mse 0.2500 on 1 samples")


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
