from __future__ import annotations

import json

import pytest

from rightrank.service.settings import Settings
from tests.service.api.test_auth import bearer, line
from tests.service.conftest import Running, serving

PRECISIONS = pytest.mark.parametrize("precision", ["float32", "int8", "auto"])


@PRECISIONS
def test_sizes_are_those_that_can_be_asked_for(shared: Running, precision: str) -> None:
    found = shared.client.get("/models/demo/sizes", params={"precision": precision, "most": 20}).json()
    assert (found["precision"], found["format"], found["bounds"]) == (precision, "torchscript", False)
    sizes = found["sizes"]
    assert (
        5 < len(sizes) <= 20
        and sizes[-1]["whole"]
        and [each["bytes"] for each in sizes] == sorted(each["bytes"] for each in sizes)
    )
    for size in sizes:
        query = {"max_bytes": size["bytes"], "precision": precision}
        planned = shared.client.get("/models/demo/plan", params=query).json()
        assert {name: planned[name] for name in size} == size


@PRECISIONS
def test_a_plan_is_told_layer_by_layer(shared: Running, precision: str) -> None:
    model = shared.client.get("/models/demo").json()
    planned = shared.client.get("/models/demo/plan", params={"max_params": 5000, "precision": precision}).json()
    layers = planned["layers"]
    assert [layer["layer"] for layer in layers] == [layer["name"] for layer in model["layers"]]
    biases = model["params"] - sum(layer["original"] for layer in layers)
    assert sum(layer["params"] for layer in layers) + biases == planned["params"]
    assert any(layer["rank"] for layer in layers) and all(
        layer["rank"] is None or 0 < layer["rank"] < layer["largest"] for layer in layers
    )
    bits = [layer["bits"] for layer in layers]
    if precision == "auto":
        assert all(0 < each < 10 for each in bits)
    else:
        assert bits == [{"float32": 32, "int8": 8}[precision]] * len(bits)


def test_a_plan_is_what_a_fetch_would_be_answered_with(shared: Running) -> None:
    query = {"budget": 0.5, "precision": "float32"}
    planned, fetched = (
        shared.client.get("/models/demo/plan", params=query),
        shared.client.get("/models/demo", params=query),
    )
    assert planned.json()["plan"] == fetched.headers["RightRank-Plan"]
    made = shared.client.get("/models/demo/plan", params=query).json()["made"]
    assert f'"{made["sha256"]}"' == fetched.headers["ETag"] and made["bytes"] == len(fetched.content)
    assert repr(made["measurement"]["value"]) == fetched.headers["RightRank-Accuracy"]


def test_a_size_that_nobody_made_is_known_and_stays_unmade(shared: Running, demo: str) -> None:
    before = len(shared.parts.catalogue.records(demo))
    planned = shared.client.get("/models/demo/plan?max_params=3001").json()
    assert planned["made"] is None
    assert shared.client.get(f"/models/demo/plans/{planned['plan']}").json() == planned
    assert len(shared.parts.catalogue.records(demo)) == before


def test_the_address_of_a_size_is_answered_with_it(shared: Running) -> None:
    for point in shared.client.get("/models/demo/curve").json()["points"]:
        size = shared.client.get(f"/models/demo/plans/{point['plan']}").json()
        assert shared.client.head(size["url"]).headers["RightRank-Plan"] == point["plan"]
        assert size["made"]["measurement"]["value"] == point["accuracy"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/plan", "invalid-request"),
        ("/plan?max_bytes=1", "budget-unreachable"),
        ("/plan?budget=1&precision=float64", "precision-unavailable"),
        ("/sizes?most=1", "invalid-request"),
        ("/sizes?precision=float64", "precision-unavailable"),
        (f"/plans/{'0' * 32}", "size-not-found"),
        ("/plans/%00", "invalid-request"),
        (f"/plans/{'0' * 300}", "invalid-request"),
    ],
)
def test_what_is_not_there_is_refused_in_words(shared: Running, path: str, kind: str) -> None:
    assert shared.client.get(f"/models/demo{path}").json()["type"] == f"/problems/{kind}"


def test_another_keys_models_are_not_there(stocked: Settings, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "keys").write_text(line("narrow", "fetch:other.*"))
    with serving(stocked.model_copy(update={"keys_file": tmp_path / "keys"})) as running:
        for path in ("sizes", "plan?budget=1", f"plans/{'0' * 32}"):
            assert running.client.get(f"/models/demo/{path}", headers=bearer("narrow")).status_code == 404


def test_what_is_certified_has_to_be_measured_first(shared: Running) -> None:
    answer = shared.client.get("/models/demo/plan?min_accuracy=0.5&confidence=0.9&precision=float16")
    assert (answer.status_code, json.loads(answer.text)["type"]) == (503, "/problems/not-ready")
