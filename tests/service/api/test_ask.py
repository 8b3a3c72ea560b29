"""What a query asks for: the precision of files, from the upload to what is pulled."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rightrank.models.emit.precision import PRECISIONS
from rightrank.service.client.http import Client
from rightrank.service.registry.layout import improved_key, record_key
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, at_work, exported, serving

OTHERS = [name for name in PRECISIONS if name != "float32"]


def weights(content: bytes) -> list[Tensor]:
    module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return [each for each in module.state_dict().values() if each.ndim > 1]


@pytest.mark.parametrize(("precision", "dtype", "share"), [("float16", torch.float16, 0.5), ("int8", torch.int8, 0.25)])
def test_a_file_comes_in_the_precision_asked_for_measured_and_its_budget_bounds_parameters(
    shared: Running, demo: str, files: Files, precision: str, dtype: torch.dtype, share: float
) -> None:
    exact = shared.client.get(f"/models/{demo}?budget=1")
    answer = shared.client.get(f"/models/{demo}?budget=1&precision={precision}")
    assert answer.status_code == 200, answer.text
    facts = {name: answer.headers[f"RightRank-{name}"] for name in ("Precision", "Method", "Budget", "Params")}
    assert facts == {"Precision": precision, "Method": "rounded", "Budget": "1.0"} | {"Params": facts["Params"]}
    assert (facts["Params"], exact.headers["RightRank-Precision"]) == (exact.headers["RightRank-Params"], "float32")
    assert share * 0.95 < len(answer.content) / len(exact.content) < share + 0.1
    assert dtype in {each.dtype for each in weights(answer.content)}
    data = load_file(files.evaluation)
    module = torch.jit.load(io.BytesIO(answer.content))  # type: ignore[no-untyped-call]
    correct = (module(data["inputs"]).argmax(1) == data["targets"]).double().mean().item()
    assert float(answer.headers["RightRank-Accuracy"]) == correct
    assert answer.headers["RightRank-Baseline-Accuracy"] == "1.0"
    smaller = shared.client.get(f"/models/{demo}?budget=0.5&precision={precision}").headers
    assert float(smaller["RightRank-Budget"]) <= 0.5 and smaller["RightRank-Method"] == "cut"
    assert len({smaller["RightRank-Plan"], answer.headers["RightRank-Plan"], exact.headers["RightRank-Plan"]}) == 3


def test_the_whole_network_in_fewer_bytes_is_what_a_limit_of_bytes_gets(shared: Running, demo: str) -> None:
    most = int(shared.client.head(f"/models/{demo}?budget=1").headers["Content-Length"]) // 2
    found = {
        name: shared.client.get(f"/models/{demo}?max_bytes={most}&precision={name}").headers for name in PRECISIONS
    }
    assert all(int(headers["Content-Length"]) <= most for headers in found.values())
    params = [int(found[name]["RightRank-Params"]) for name in ("float32", "float16", "int8")]
    assert params == sorted(set(params)) or params[1] == params[2]
    assert found["int8"]["RightRank-Budget"] == "1.0"


def test_float32_is_what_comes_where_nothing_is_said(shared: Running, demo: str) -> None:
    said, unsaid = (shared.client.get(f"/models/{demo}?budget=0.5{more}") for more in ("&precision=float32", ""))
    assert said.content == unsaid.content and said.headers["ETag"] == unsaid.headers["ETag"]


def test_the_curve_is_of_one_precision(shared: Running, demo: str) -> None:
    plans = {}
    for name in PRECISIONS:
        shared.client.get(f"/models/{demo}?budget=0.4&precision={name}")
        curve = shared.client.get(f"/models/{demo}/curve?precision={name}").json()
        assert curve["precision"] == name and curve["points"]
        plans[name] = {point["plan"] for point in curve["points"]}
    unsaid = shared.client.get(f"/models/{demo}/curve").json()
    assert unsaid["precision"] == "float32" and {point["plan"] for point in unsaid["points"]} == plans["float32"]
    assert not plans["float32"] & plans["int8"] and not plans["float16"] & plans["int8"]


def test_the_least_accuracy_is_that_of_files_in_the_precision(shared: Running, demo: str) -> None:
    wanted = shared.client.get(f"/models/{demo}?budget=1&precision=int8").headers
    threshold = float(wanted["RightRank-Accuracy"])
    answer = shared.client.get(f"/models/{demo}?min_accuracy={threshold}&precision=int8")
    assert answer.headers["RightRank-Precision"] == "int8" and float(answer.headers["RightRank-Accuracy"]) >= threshold
    nearest = shared.client.get(f"/models/{demo}?min_accuracy={threshold}&budget=0.2&precision=int8")
    assert nearest.status_code == 422 and nearest.json()["nearest"] > 0


@pytest.fixture
def fresh(stocked: Settings) -> Iterator[Running]:
    """A service of its own with the model `demo`, of which nothing is known in a precision other than its own."""
    with at_work(stocked), serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        for record in running.parts.catalogue.records(id):
            if not record.plan.output.exact:
                running.parts.store.delete(record_key(id, record.plan.digest))
        running.parts.catalogue.forget(id)
        yield running


def test_what_was_not_measured_in_a_precision_is_said(fresh: Running) -> None:
    answer = fresh.client.get("/models/demo?min_accuracy=0.5&precision=int8")
    assert answer.status_code == 422 and answer.json()["type"] == "/problems/budget-unreachable"
    assert answer.json()["detail"] == "There is no measured cut of this model in int8 yet."
    assert "`precision=int8`" in answer.json()["hint"]


def test_what_is_ready_is_of_the_precision_asked_for(fresh: Running) -> None:
    first = fresh.client.get("/models/demo?budget=0.5&precision=int8&ready=1")
    assert first.status_code == 503  # others are there, and are not int8
    fresh.end(first.json()["operation"].rsplit("/", 1)[-1])
    ready = fresh.client.get("/models/demo?budget=0.6&precision=int8&ready=1")
    assert (ready.headers["RightRank-Ready"], ready.headers["RightRank-Precision"]) == ("nearest", "int8")


def test_of_what_is_ready_with_levels_the_largest_file_comes(service: Running, files: Files) -> None:
    """All may have the same parameters. The description's smallest budget is that of what comes."""
    id = service.publish(files, name="levels", options='{"precision": "auto", "budgets": [1]}')
    model = service.parts.catalogue.open(id)
    sizes = model.planner.rungs(4)
    for plan in sizes[:3]:
        answer = service.client.get(f"/models/levels?max_bytes={plan.bytes}")
        assert answer.headers["RightRank-Plan"] == plan.digest
    between = next(s for s in range(sizes[2].bytes + 1, sizes[3].bytes) if model.planner.plan(max_bytes=s) not in sizes)
    answer = service.client.get(f"/models/levels?max_bytes={between}&ready=1")
    assert (answer.headers["RightRank-Ready"], answer.headers["RightRank-Plan"]) == ("nearest", sizes[2].digest)
    described = service.client.get("/models/levels").json()
    least = described["min_budget"]["params"]
    assert [least] == [row["min_budget"] for row in described["precisions"] if row["precision"] == "auto"]
    smallest = service.client.get(f"/models/levels?budget={least}").headers
    assert smallest["RightRank-Plan"] == sizes[0].digest and float(smallest["RightRank-Budget"]) <= least
    refused = service.client.get(f"/models/levels?budget={least - 1e-6:.6f}")
    assert refused.status_code == 422 and refused.json()["nearest"] == least


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("?budget=0.5&precision=int4", "precision-unavailable"),
        ("?budget=0.5&precision=", "precision-unavailable"),
        ("?budget=0.5&precision=bfloat16", "precision-unavailable"),
        ("/curve?precision=int4", "precision-unavailable"),
        ("?precision=int8", "invalid-request"),
        ("?precision=int8&ready=1", "invalid-request"),
        ("?budget=0.5&precision=int8&precision=int8", "invalid-request"),
        ("?max_bytes=10&precision=int8", "budget-unreachable"),
        ("?budget=0.000001&precision=int8", "budget-unreachable"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(shared: Running, demo: str, path: str, kind: str) -> None:
    answer = shared.client.get(f"/models/{demo}{path}")
    assert answer.status_code == 422 and answer.json()["type"] == f"/problems/{kind}"
    if kind == "precision-unavailable":
        assert answer.json()["hint"] == "They have float32, float16, int8, auto."
    if kind == "budget-unreachable":
        limit = path[1:].partition("=")[0]
        again = shared.client.head(f"/models/{demo}?{limit}={answer.json()['nearest']:.10g}&precision=int8")
        assert again.status_code == 200


def test_the_description_says_what_there_is(shared: Running, demo: str) -> None:
    described = shared.client.get(f"/models/{demo}").json()
    assert described["precision"] == "float32"
    rows = {row.pop("precision"): row for row in described["precisions"]}
    assert list(rows) == list(PRECISIONS) and rows["float32"]["bytes"] == described["bytes"]
    assert rows["float32"]["min_budget"] == described["min_budget"]["params"]
    for name, row in rows.items():
        sizes = [
            int(shared.client.head(f"/models/{demo}?{size}&precision={name}").headers["Content-Length"])
            for size in (f"max_bytes={row['smallest']}", "budget=1")
        ]
        least = shared.client.head(f"/models/{demo}?budget={row['min_budget']}&precision={name}")
        # With ranks and steps mixed a budget bounds the file alone, and that is what is said to be reached.
        assert float(least.headers["RightRank-Budget"]) <= row["min_budget"]
        assert int(least.headers["Content-Length"]) <= row["min_budget"] * described["bytes"]
        assert sizes == [row["smallest"], row["bytes"]]


def test_a_publisher_chooses_what_comes_and_is_measured_ahead(service: Running, files: Files, tmp_path: Path) -> None:
    id = service.publish(files, name="net", options='{"precision": "int8", "budgets": [1, 0.5]}')
    model = service.parts.catalogue.open(id)
    plans = {budget: model.planner.plan(budget=budget) for budget in (1, 0.5)}
    answer = service.client.get("/models/net?budget=0.5")
    assert (answer.headers["RightRank-Precision"], answer.headers["RightRank-Plan"]) == ("int8", plans[0.5].digest)
    for plan in plans.values():
        service.end(f"cut-{id}-{plan.digest}")
    known = {record.plan.digest for record in service.parts.catalogue.records(id)}
    original = model.planner_in("float32").largest
    assert known == {original.digest, *(plan.digest for plan in plans.values())}
    described = service.client.get("/models/net").json()
    assert described["precision"] == "int8" and described["baseline"]["value"] == 1.0
    assert service.client.get("/models/net/curve").json()["precision"] == "int8"
    exact = service.client.get("/models/net?budget=1&precision=float32").headers
    assert (exact["RightRank-Method"], exact["RightRank-Plan"]) == ("original", original.digest)
    with Client(str(service.client.base_url)) as client:
        pulled = client.pull("net", {"budget": 0.5, "precision": "float16"}, tmp_path / "net.pt")
        assert pulled["rightrank-precision"] == "float16"
        assert torch.float16 in {each.dtype for each in weights((tmp_path / "net.pt").read_bytes())}
        assert {point["method"] for point in client.curve("net", "float32")} == {"original"}


def test_an_operation_leads_back_to_the_file_that_it_made(fresh: Running, demo: str) -> None:
    service, id = fresh, demo
    for query in ("budget=0.5", "budget=0.5&precision=int8", "budget=1&precision=float16"):
        headers = service.client.get(f"/models/{id}?{query}").headers
        operation = f"/operations/cut-{id}-{headers['RightRank-Plan']}"
        for _ in range(2):
            result = service.client.get(operation).json()["result"]
            assert service.client.head(result["url"]).headers["ETag"] == headers["ETag"], result
            service.parts.cache.redis.flushdb()  # and then from what the store knows


def test_bytes_come_again_after_the_cache_lost_them_and_redis_the_plan(fresh: Running, demo: str) -> None:
    service, id = fresh, demo
    url = f"/models/{id}?budget=0.5&precision=int8"
    before = service.client.get(url)
    service.parts.cache.redis.flushdb()
    service.parts.cache.forget(id)
    after = service.client.get(url)
    assert after.content == before.content and after.headers["ETag"] == before.headers["ETag"]
    plan = service.parts.catalogue.open(id).find(before.headers["RightRank-Plan"])
    assert plan is not None and plan.output.encoding == "int8-nested"


class Masked(nn.Module):
    """A buffer with numbers that float16 has none for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 48), nn.Linear(48, 10)
        self.register_buffer("mask", torch.full((2, 10), -1e9).triu(5))
        self.large = nn.Linear(64, 10)
        self.large.weight.data.fill_(-1e6)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        y: Tensor = self.last(torch.relu(self.first(x))) + self.mask.sum(0).exp()
        return y + 0 * self.large(x)  # type: ignore[no-any-return]


def test_numbers_that_a_precision_has_none_for_are_said_and_not_rounded_to_infinity(
    service: Running, tmp_path: Path
) -> None:
    files = exported(nn.Sequential(Masked()), tmp_path)
    id = service.publish(files, options='{"budgets": [1]}')
    answer = service.client.get(f"/models/{id}?budget=1&precision=float16")
    assert answer.status_code == 422 and answer.json()["type"] == "/problems/precision-unavailable"
    assert "float16 goes up to 65,504, and a tensor of this model has -1e+06" in answer.json()["detail"]
    for query in ("precision=int8", "precision=float32", ""):
        answer = service.client.get(f"/models/{id}?budget=1&{query}")
        assert float(answer.headers["RightRank-Accuracy"]) >= (0.98 if "int8" in query else 1.0)
    again = service.push({"checkpoint": files.checkpoint}, options='{"precision": "float16"}')
    error = service.end(again.json()["operation"])["error"]
    assert error["type"] == "/problems/precision-unavailable" and "float16 goes up to 65,504" in error["detail"]


def test_a_network_of_another_type_has_its_own_and_no_rounding(service: Running, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).double().eval()
    x = torch.randn(4, 1, 8, 8).double()
    dynamic = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=dynamic), tmp_path / "model.pt2")
    answer = service.push({"checkpoint": tmp_path / "model.pt2"}, name="double")
    assert service.end(answer.json()["operation"])["error"] is None
    described = service.client.get("/models/double").json()
    assert described["precision"] == "float64" and [row["precision"] for row in described["precisions"]] == ["float64"]
    assert service.client.get("/models/double?budget=1&precision=float64").headers["RightRank-Precision"] == "float64"
    refused = service.client.get("/models/double?budget=1&precision=int8").json()
    assert refused["type"] == "/problems/precision-unavailable" and refused["hint"] == "They have float64."
    again = service.push({"checkpoint": tmp_path / "model.pt2"}, options='{"precision": "int8"}')
    error = service.end(again.json()["operation"])["error"]
    assert error["type"] == "/problems/precision-unavailable" and "They have float64." in error["hint"]


def test_an_option_that_is_no_precision_is_refused_with_those_that_are(service: Running, files: Files) -> None:
    """Those that only some formats have are none for requests that name no format."""
    for name in ("int4", "w8a8", "int3"):
        answer = service.push({"checkpoint": files.checkpoint}, options=json.dumps({"precision": name}))
        assert answer.status_code == 422 and "float32, float16, int8, auto" in answer.json()["hint"]


def test_each_precision_has_an_improvement_of_its_own(service: Running, files: Files, tmp_path: Path) -> None:
    save_file({"inputs": torch.randn(400, 1, 8, 8)}, tmp_path / "calibration.safetensors")
    paths = {"checkpoint": files.checkpoint, "calibration": tmp_path / "calibration.safetensors"}
    answer = service.push(paths, name="net", options='{"effort": "refit"}')
    assert service.end(answer.json()["operation"], 120)["error"] is None
    id, found = answer.json()["id"], {}
    for name in PRECISIONS:
        found[name] = fetched = service.client.get(f"/models/{id}?max_params=6000&precision={name}").headers
        assert service.parts.store.exists(improved_key(id, fetched["RightRank-Plan"]))
        assert fetched["RightRank-Method"].split("+")[0] in ("cut", "refit")
    assert len({headers["RightRank-Params"] for name, headers in found.items() if name != "auto"}) == 1
    assert len({headers["RightRank-Plan"] for headers in found.values()}) == len(PRECISIONS)
    assert service.client.head(f"/models/{id}?budget=1&precision=int8").headers["RightRank-Method"] == "rounded"


def facts(answer: Any) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("rightrank-")}


def test_head_says_what_get_does(shared: Running, demo: str) -> None:
    url = f"/models/{demo}?budget=0.5&precision=int8"
    get, head = shared.client.get(url), shared.client.head(url)
    assert {**facts(get), "rightrank-cache": ""} == {**facts(head), "rightrank-cache": ""}
    assert shared.client.get(url, headers={"If-None-Match": get.headers["ETag"]}).status_code == 304
    part = shared.client.get(url, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == get.content[10:20]
