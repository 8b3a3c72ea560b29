"""Files for other runtimes: asked for by name or by Accept, each measured in its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rightrank.models.emit.format import FIRST
from rightrank.models.emit.formats import FORMATS, format_of
from rightrank.models.errors import UnsupportedCheckpoint
from rightrank.models.plan.planner import Plan
from rightrank.service.jobs import worker
from rightrank.service.jobs.engine import SEPARATE
from rightrank.service.registry.layout import record_key
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, at_work, serving

HERE = [name for name in FORMATS if name != FIRST.format and name not in SEPARATE]


@pytest.fixture
def fresh(stocked: Settings) -> Iterator[Running]:
    """A service of its own with the model `demo`, of which nothing is known in another format."""
    with at_work(stocked), serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        others = [record.plan for record in running.parts.catalogue.records(id) if record.plan.output.format in HERE]
        running.parts.store.delete(*(record_key(id, plan.digest) for plan in others))
        running.parts.catalogue.forget(id)
        yield running


def run(running: Running, reference: str, answer: Any, folder: Path, x: torch.Tensor) -> torch.Tensor:
    """What a file puts out for `x`, in its own runtime."""
    model = running.parts.catalogue.open(running.parts.catalogue.resolve(reference))
    plan: Plan | None = model.find(answer.headers["RightRank-Plan"])
    assert plan is not None
    file = folder / f"file{format_of(plan.output).suffix}"
    file.write_bytes(answer.content)
    found = format_of(plan.output).load(file)(x)
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("format", HERE)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_comes_in_the_format_asked_for_and_is_measured_as_such(
    shared: Running, demo: str, tmp_path: Path, format: str, precision: str
) -> None:
    written = FORMATS[format][-1]
    path = f"/models/{demo}?budget=0.5&precision={precision}"
    answer = shared.client.get(f"{path}&format={format}")
    facts = answer.headers
    same = f"/models/{demo}?max_params={facts['RightRank-Params']}&precision={precision}"
    script = shared.client.get(same)  # of the same ranks
    assert (answer.status_code, facts["RightRank-Format"], facts["RightRank-Precision"]) == (200, format, precision)
    assert facts["Content-Type"] == written.media_type and written.suffix in facts["Content-Disposition"]
    assert float(facts["RightRank-Accuracy"]) == pytest.approx(float(script.headers["RightRank-Accuracy"]), abs=0.02)
    assert len(answer.content) == int(facts["Content-Length"])
    x = torch.randn(7, *_sample(shared, demo))
    # Eight bits are those of the cut, or of all bases (see `encoding.nested`): as good, and not the same.
    off = 1e-4 if precision == "float32" else 5e-3
    torch.testing.assert_close(
        run(shared, demo, answer, tmp_path, x), run(shared, demo, script, tmp_path, x), rtol=off, atol=off
    )
    again = shared.client.get(f"{path}&format={format}", headers={"If-None-Match": facts["ETag"]})
    assert again.status_code == 304


def _sample(running: Running, reference: str) -> list[int]:
    (given,) = running.client.get(f"/models/{reference}").json()["inputs"]
    return [int(size) for size in given["shape"][1:]]


@pytest.mark.parametrize("format", HERE)
def test_accept_names_a_format_by_its_media_type(shared: Running, demo: str, format: str) -> None:
    media_type = FORMATS[format][-1].media_type
    path = f"/models/{demo}?budget=0.5"
    asked = shared.client.head(path, headers={"Accept": f"{media_type}, */*;q=0.1"}).headers
    assert (asked["RightRank-Format"], asked["Vary"]) == (format, "Accept")
    assert asked["ETag"] == shared.client.head(f"{path}&format={format}").headers["ETag"]
    named = shared.client.head(f"{path}&format=torchscript", headers={"Accept": media_type}).headers
    assert named["RightRank-Format"] == "torchscript" and "Vary" not in named
    assert shared.client.get(f"/models/{demo}", headers={"Accept": media_type}).json()["id"] == demo


@pytest.mark.parametrize("format", HERE)
def test_goals_curves_limits_and_what_is_ready_are_of_the_format(fresh: Running, demo: str, format: str) -> None:
    unknown = fresh.client.get(f"/models/demo?min_accuracy=0.5&format={format}").json()
    assert unknown["type"] == "/problems/budget-unreachable" and f"format={format}" in unknown["hint"]
    assert fresh.client.get(f"/models/demo/curve?format={format}").json()["points"] == []
    first = fresh.client.get(f"/models/demo?budget=0.5&format={format}").headers
    curve = fresh.client.get(f"/models/demo/curve?format={format}").json()
    assert (curve["format"], curve["precision"]) == (format, "float32")
    assert [point["plan"] for point in curve["points"]] == [first["RightRank-Plan"]]
    for query in ("min_accuracy=0", "budget=0.6&ready=1", f"max_bytes={first['Content-Length']}"):
        found = fresh.client.get(f"/models/demo?{query}&format={format}").headers
        assert found["ETag"] == first["ETag"], query
    small = fresh.client.get(f"/models/demo?max_bytes=10&format={format}").json()
    nearest = fresh.client.head(f"/models/demo?max_bytes={small['nearest']}&format={format}")
    assert int(nearest.headers["Content-Length"]) == small["nearest"]


def test_an_operation_leads_back_to_the_file_in_its_format(fresh: Running, demo: str) -> None:
    for format in HERE:
        headers = fresh.client.get(f"/models/demo?budget=0.5&precision=int8&format={format}").headers
        operation = f"/operations/cut-{demo}-{headers['RightRank-Plan']}"
        for _ in range(2):
            result = fresh.client.get(operation).json()["result"]
            assert fresh.client.head(result["url"]).headers["ETag"] == headers["ETag"]
            fresh.parts.cache.redis.flushdb()  # and then from what the store knows


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("?budget=0.5&format=caffe", "format-unavailable"),
        ("?budget=0.5&format=", "format-unavailable"),
        ("/curve?format=caffe", "format-unavailable"),
        ("?format=torchscript", "invalid-request"),
        ("?budget=0.5&format=torchscript&format=torchscript", "invalid-request"),
        *((f"?budget=0.5&precision=auto&format={format}", "precision-unavailable") for format in HERE),
    ],
)
def test_what_there_is_not_is_refused_in_words(shared: Running, demo: str, query: str, kind: str) -> None:
    answer = shared.client.get(f"/models/{demo}{query}")
    assert answer.status_code == 422 and answer.json()["type"] == f"/problems/{kind}", answer.text
    if kind == "format-unavailable":
        assert "torchscript" in answer.json()["hint"]
    if kind == "precision-unavailable":
        assert "float32" in answer.json()["hint"]


def test_the_description_has_all_formats_and_what_their_files_can_be(shared: Running, demo: str) -> None:
    rows = {row["format"]: row for row in shared.client.get(f"/models/{demo}").json()["formats"]}
    assert [*rows] == [*FORMATS]
    assert "auto" in rows["torchscript"]["precisions"]
    for name in HERE:
        assert {"float32", "float16", "int8"} <= set(rows[name]["precisions"]) and rows[name]["reason"] is None
        assert "auto" not in rows[name]["precisions"]


def test_a_format_that_is_not_installed_is_said_and_what_is_there_goes_on(
    fresh: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    format = HERE[0]
    fresh.parts.catalogue.forget(fresh.parts.catalogue.resolve("demo"))
    monkeypatch.setattr(type(FORMATS[format][-1]), "available", lambda self: "Nothing here writes it: install it.")
    answer = fresh.client.get(f"/models/demo?budget=0.5&format={format}")
    assert answer.status_code == 501 and answer.json()["type"] == "/problems/format-missing"
    assert "install it" in answer.json()["detail"]
    rows = {row["format"]: row for row in fresh.client.get("/models/demo").json()["formats"]}
    assert rows[format]["precisions"] == [] and "install it" in rows[format]["reason"]
    assert fresh.client.get("/models/demo?budget=0.5").status_code == 200


def test_what_workers_of_their_own_make_is_said_to_be_missing_where_there_is_none(fresh: Running, demo: str) -> None:
    answer = fresh.client.get("/models/demo?budget=0.5&format=executorch")
    assert answer.status_code == 501 and answer.json()["type"] == "/problems/format-missing"
    assert "rightrank worker --queues executorch" in answer.json()["hint"]
    formats = fresh.client.get("/readyz").json()["formats"]
    assert formats == {**dict.fromkeys((FIRST.format, *HERE), True), "executorch": False}
    row = fresh.client.get("/models/demo").json()["formats"][-1]
    assert row["precisions"] == [] and "No worker here" in row["reason"]


def test_what_workers_of_their_own_make_waits_for_these(fresh: Running, demo: str) -> None:
    engine, prefer = fresh.parts.engine, {"Prefer": "respond-async"}
    assert engine.take(("executorch",), rest=0) is None
    assert fresh.client.get("/readyz").json()["formats"]["executorch"]
    assert fresh.client.get("/models/demo").json()["formats"][-1]["precisions"] == ["float32", "float16"]
    answer = fresh.client.get("/models/demo?budget=0.5&format=executorch", headers=prefer)
    assert answer.status_code == 202
    assert fresh.client.get("/models/demo?budget=0.4").status_code == 200  # the worker here is free, and leaves it
    assert engine.length("executorch") == 1
    attempt = engine.take(("executorch",), rest=0)
    assert attempt is not None and attempt.operation == answer.json()["id"]
    assert engine.give_back(attempt) and engine.length("executorch") == 1
    fresh.client.delete(f"/operations/{attempt.operation}")
    assert engine.length("executorch") == 0
    assert fresh.client.post(f"/operations/{attempt.operation}/retry").status_code == 409


def test_a_worker_without_the_package_takes_no_such_queue(fresh: Running) -> None:
    with pytest.raises(ValueError, match="executorch"):
        worker.run(fresh.parts.settings, ["executorch"])


@pytest.mark.parametrize("format", HERE)
def test_a_publisher_names_formats_that_are_made_ahead(service: Running, files: Files, format: str) -> None:
    id = service.publish(files, name="net", options=f'{{"formats": ["{format}"], "budgets": [1]}}')
    model = service.parts.catalogue.open(id)
    plan = model.planner_in(format=format).plan(budget=1)
    assert service.end(f"cut-{id}-{plan.digest}")["error"] is None
    assert service.parts.store.exists(record_key(id, plan.digest))
    for options in ('{"formats": ["caffe"]}', '{"formats": "onnx"}', '{"formats": ["torchscript"]}'):
        refused = service.push({"checkpoint": files.checkpoint, "evaluation": files.evaluation}, options=options)
        assert refused.status_code == 422 and "formats" in refused.json()["detail"]
    bare = service.push({"checkpoint": files.checkpoint}, options=f'{{"formats": ["{format}"]}}')
    assert bare.status_code == 422 and "evaluation" in bare.json()["detail"]


def test_a_format_that_cannot_hold_a_model_is_refused_before_the_work(
    service: Running, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that workers of their own make, and where there is none of these."""

    def check(self: Any, template: Any, encoding: Any) -> None:
        raise UnsupportedCheckpoint("A size has no bound.", "Give one.")

    monkeypatch.setattr(type(FORMATS["executorch"][-1]), "check", check)
    pushed = service.push(
        {"checkpoint": files.checkpoint, "evaluation": files.evaluation}, options='{"formats": ["executorch"]}'
    )
    error = service.end(pushed.json()["operation"])["error"]
    assert error["type"] == "/problems/format-unavailable" and "no bound" in error["detail"]
    id = service.publish(files, name="net")
    model = service.parts.catalogue.open(id)
    model.manifest["options"]["formats"] = ["executorch"]  # of before it was found out
    service.parts.engine.take(("executorch",), rest=0)
    service.parts.measure_ahead(model)
    assert service.parts.engine.length("executorch") == 0
