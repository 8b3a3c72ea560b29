"""What the API says of its answers, held to the answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from rightrank.service.api import schemas
from rightrank.service.api.artifacts import HEADERS
from rightrank.service.settings import Settings
from tests.service.conftest import Files, Running, serving

# Paths as the description has them, how to fill them, and what comes back.
ANSWERS = (
    ("/models", {}, schemas.Page),
    ("/models/{reference}", {"reference": "demo"}, schemas.Description),
    ("/models/{reference}/curve", {"reference": "demo"}, schemas.Curve),
    ("/models/{reference}/importance", {"reference": "demo"}, schemas.Importance),
    ("/healthz", {}, schemas.Status),
    ("/readyz", {}, schemas.Ready),
)


def hold(model: type[BaseModel], body: Any) -> None:
    """The body has everything that the model says, of that type, and nothing else."""
    assert model.model_validate(body, strict=True).model_dump(exclude_unset=True, by_alias=True) == body


@pytest.mark.parametrize(("path", "filled", "model"), ANSWERS, ids=[path for path, _, _ in ANSWERS])
def test_answers_are_what_the_description_says(
    shared: Running, path: str, filled: dict[str, str], model: type[BaseModel]
) -> None:
    hold(model, shared.client.get(path.format(**filled)).json())


@pytest.mark.parametrize(
    ("method", "path", "status", "model"),
    [
        *(("get", path, "200", model) for path, _, model in ANSWERS),
        ("post", "/models", "202", schemas.Accepted),
        ("get", "/models/{reference}", "202", schemas.Operation),
        ("get", "/operations/{id}", "200", schemas.Operation),
        ("delete", "/operations/{id}", "202", schemas.Operation),
    ],
)
def test_the_description_says_what_is_answered(
    shared: Running, method: str, path: str, status: str, model: type[BaseModel]
) -> None:
    described = shared.client.get("/openapi.json").json()
    content = described["paths"][path][method]["responses"][status]["content"]
    assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}
    assert model.__name__ in described["components"]["schemas"]


def test_a_tuned_model_and_its_operations_are_what_the_description_says(service: Running, files: Files) -> None:
    inputs = files.checkpoint.with_name("unlabelled.safetensors")
    save_file({"inputs": torch.randn(320, 1, 8, 8)}, inputs)
    options = '{"effort": "tune", "tune_steps": 2, "budgets": []}'
    paths = {"checkpoint": files.checkpoint, "evaluation": files.evaluation, "calibration": inputs}
    answer = service.push(paths, name="net", options=options).json()
    hold(schemas.Accepted, answer)
    hold(schemas.Operation, service.client.get(f"/operations/{answer['operation']}").json())
    service.end(answer["operation"])
    ended = service.client.get(f"/operations/{answer['operation']}").json()
    hold(schemas.Operation, ended)
    assert ended["result"]["name"] == "net"
    described = service.client.get("/models/net").json()
    hold(schemas.Description, described)
    assert described["tuned"]
    cut = service.client.get("/models/net?budget=0.4", headers={"Prefer": "respond-async"})
    assert cut.status_code == 202
    hold(schemas.Operation, cut.json())
    service.end(cut.json()["operation"])
    ended = service.client.get(f"/operations/{cut.json()['operation']}").json()
    hold(schemas.Operation, ended)
    assert ended["result"]["sha256"]


def test_zero_channels_and_no_evaluation_data_are_what_the_description_says(service: Running, halved: Files) -> None:
    answer = service.push({"checkpoint": halved.checkpoint}, name="halved").json()
    service.end(answer["operation"])
    described = service.client.get("/models/halved").json()
    hold(schemas.Description, described)
    assert described["eliminated"]["layers"] and described["baseline"] is None


def test_a_model_that_is_not_ready_is_what_the_description_says(web: Running) -> None:
    id = web.client.post("/models", files={"checkpoint": ("a.pt2", b"anything")}).json()["id"]
    answer = web.client.get(f"/models/{id}")
    hold(schemas.Problem, answer.json())
    assert answer.json()["operation"] == f"/operations/ingest-{id}"


def test_a_failed_operation_is_what_the_description_says(service: Running) -> None:
    answer = service.client.post("/models", files={"checkpoint": ("a.pt2", b"anything")}).json()
    assert service.end(answer["operation"])["error"] is not None
    hold(schemas.Operation, service.client.get(f"/operations/{answer['operation']}").json())


@pytest.mark.parametrize(
    ("path", "headers", "member"),
    [
        ("/models/nothing", {}, "detail"),
        ("/models/demo?budget=2", {}, "detail"),
        ("/models/demo?budget=1e-9", {}, "nearest"),
        ("/models/demo?budget=1&max_macs=1", {}, "parameter"),
        ("/models/demo?budget=1", {"Range": "bytes=99999999-"}, "size"),
    ],
)
def test_problems_are_what_the_description_says(
    shared: Running, path: str, headers: dict[str, str], member: str
) -> None:
    answer = shared.client.get(path, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    hold(schemas.Problem, answer.json())
    assert answer.json()[member] is not None


def test_a_size_that_is_not_ready_is_what_the_description_says(stocked: Settings) -> None:
    with serving(stocked) as running:
        hold(schemas.Problem, running.client.get("/models/demo?budget=0.45", headers={"Prefer": "wait=0"}).json())
        answers = running.client.get("/openapi.json").json()["paths"]["/models/{reference}"]["get"]
    assert {"202", "206", "304", "412", "416", "503"} <= set(answers["responses"])
    assert {"Prefer", "If-Match", "ready", "max_macs"} <= {each["name"] for each in answers["parameters"]}
    assert "RightRank-Ready" in answers["responses"]["200"]["headers"]


def test_every_route_says_that_it_may_answer_with_a_problem(shared: Running) -> None:
    described = shared.client.get("/openapi.json").json()
    for path, operations in described["paths"].items():
        for operation in operations.values():
            # Those that have a status of their own too: FastAPI would describe a 422 of another form.
            for status, answer in operation["responses"].items():
                if status == "default" or int(status) >= 400:
                    problem = answer["content"]["application/problem+json"]
                    assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}, (path, status)
                    assert len(answer["content"]) == 1
            assert "default" in operation["responses"], path
    assert "Problem" in described["components"]["schemas"]
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_an_artifact_has_the_headers_that_the_description_names(shared: Running) -> None:
    given = shared.client.get("/models/demo?budget=0.5").headers
    assert {name for name in HEADERS if name not in given} == set()
    assert {name for name in given if name.startswith("rightrank-")} <= {name.lower() for name in HEADERS}


def test_every_answer_says_that_it_has_the_requests_name(shared: Running) -> None:
    described = shared.client.get("/openapi.json").json()
    without = {
        (path, status)
        for path, operations in described["paths"].items()
        for operation in operations.values()
        for status, answer in operation["responses"].items()
        # What becomes of a connection before there is a request has none.
        if status != "default" and "X-Request-Id" not in answer.get("headers", {})
    }
    assert without == set()
    for path in ("/models/demo", "/models/demo?budget=0.5", "/models/none", "/healthz", "/metrics"):
        assert shared.client.get(path).headers["X-Request-Id"]
