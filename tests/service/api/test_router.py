"""What holds for every route: whatever is asked, the answer is one that the description has; HEAD is answered where GET
is. Routes that come are covered by themselves.

`make test-api` asks far more, with a program made for that; this is what every run of the tests can afford.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import httpx
import pytest

from rightrank.service.api import schemas
from rightrank.service.settings import Settings
from tests.service.api.test_auth import bearer, line
from tests.service.conftest import Files, Running, at_work, serving

# An operation of the description: path, method, and what is said of it.
Operation: TypeAlias = tuple[str, str, dict[str, Any]]

# What nobody means, where a text, a whole number or a number is wanted.
TEXTS = ("", "x", "*", "..", "../secret", "null", "é", '"', "a" * 300, "m" + "0" * 24, "digits@99", "bytes=9-1", "{}")
WHOLE = ("0", "1", "-1", "200", "201", str(10**30), "1.5", "x", "")
NUMBERS = ("0", "1", "0.5", "1e-9", "2", "-1", "nan", "inf", "x", "")
BODIES = (
    b"",
    b"{",
    b"[]",
    b"{}",
    b'{"value": 0.5}',
    b'{"value": NaN}',
    b'{"model": "digits"}',
    b'{"model": 1}',
    b"\xff",
)
FORMS: tuple[dict[str, Any], ...] = (
    {"files": {"checkpoint": ("a.pt2", b"anything")}},
    {"files": {"checkpoint": ("a.pt2", b"")}},
    {"files": {"other": ("a.pt2", b"anything")}},
    {"files": {"checkpoint": ("a.pt2", b"anything")}, "data": {"name": "No Name"}},
    {"files": {"checkpoint": ("a.pt2", b"anything")}, "data": {"options": '{"effort": "polish"}'}},
    {"files": {"checkpoint": ("a.pt2", b"anything")}, "data": {"architecture": '{"name": 1}'}},
    {"files": {"checkpoint": ("a.pt2", bytes(9_000_000))}},
    {"content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
)
HONEST = (501, 503, 507)


def operations(running: Running) -> list[Operation]:
    """All that are described; what deletes comes last, so that before it there is something."""
    paths = running.client.get("/openapi.json").json()["paths"]
    found = [(path, method, said) for path, methods in paths.items() for method, said in methods.items()]
    return sorted(found, key=lambda operation: operation[1] == "delete")


def hold(operation: Operation, answer: httpx.Response) -> None:
    """The answer has a status that the operation names, the kind of content that it names for it, and that form."""
    path, method, said = operation
    where = f"{answer.request.method} {answer.request.url}: {answer.status_code}"
    assert answer.status_code < 500 or answer.status_code in HONEST, where
    described = said["responses"].get(str(answer.status_code))
    assert described is not None, f"{where} is not described for {method} {path}"
    kind = answer.headers.get("content-type", "").partition(";")[0]
    content = described.get("content", {})
    assert kind in content or (not content and not answer.content), f"{where}: {kind}"
    if reference := content.get(kind, {}).get("schema", {}).get("$ref"):
        model = getattr(schemas, reference.rpartition("/")[2])
        found = model.model_validate(answer.json(), strict=True).model_dump(exclude_unset=True, by_alias=True)
        assert found == answer.json(), where


def text_for(schema: dict[str, Any], draw: random.Random) -> str:
    """A value for a parameter: of its examples or its enumeration, or one that nobody means."""
    if "anyOf" in schema:
        forms = [form for form in schema["anyOf"] if form.get("type") != "null"]
        schema = {**draw.choice(forms), **{key: value for key, value in schema.items() if key != "anyOf"}}
    meant = [*schema.get("examples", ()), *schema.get("enum", ())]
    if meant and draw.random() < 0.5:
        return str(draw.choice(meant))
    kinds = {"integer": WHOLE, "number": NUMBERS, "boolean": ("true", "false", "1", "x")}
    return draw.choice(kinds.get(schema.get("type", ""), TEXTS))


def ask(running: Running, operation: Operation, draw: random.Random, headers: dict[str, str]) -> httpx.Response:
    """A request to the operation that has some of its parameters."""
    path, method, said = operation
    query: dict[str, str] = {}
    headers = dict(headers)
    for parameter in said.get("parameters", ()):
        value = text_for(parameter["schema"], draw)
        if parameter["in"] == "path":
            # An empty one, and one of dots, would be another address.
            path = path.replace(f"{{{parameter['name']}}}", quote(value.replace("..", "-") or "-", safe="@"))
        elif draw.random() < 0.3:
            if parameter["in"] == "query":
                query[parameter["name"]] = value
            else:
                headers[parameter["name"]] = value.encode("ascii", "replace").decode()
    more: dict[str, Any] = {}
    kinds = said.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in kinds:
        more = dict(draw.choice(FORMS))
    elif kinds:
        more = {"content": draw.choice(BODIES), "headers": {"Content-Type": next(iter(kinds))}}
    more["headers"] = headers | more.get("headers", {})
    return running.client.request(method.upper(), path, params=query, **more)


@pytest.fixture
def digits(stocked: Settings) -> Iterator[Running]:
    """A service with a worker and the model that the description's examples name."""
    with at_work(stocked), serving(stocked) as running:
        running.parts.catalogue.publish("digits", running.parts.catalogue.resolve("demo"))
        yield running


def test_every_answer_is_described(digits: Running) -> None:
    draw = random.Random(1)
    found: dict[str, set[int]] = {}
    for operation in operations(digits):
        draws = 40 if operation[2].get("parameters") or "requestBody" in operation[2] else 2
        # With many parameters few draws mean anything.
        for _ in range(2 * draws if operation[2]["operationId"] == "models_fetch" else draws):
            answer = ask(digits, operation, draw, {})
            hold(operation, answer)
            found.setdefault(operation[2]["operationId"], set()).add(answer.status_code)
    assert {200, 404, 422} <= found["models_fetch"] and {202, 413, 422} <= found["models_publish"]
    assert all(statuses for statuses in found.values()) and len(found) == len(operations(digits))


@pytest.mark.parametrize("who", ["narrow", "nobody"])
def test_every_refusal_is_described(stocked: Settings, tmp_path: Path, who: str) -> None:
    (tmp_path / "keys").write_text(line("narrow", "fetch:other.*"))
    draw, statuses = random.Random(2), set()
    with serving(stocked.model_copy(update={"keys_file": tmp_path / "keys"})) as running:
        for operation in operations(running):
            for _ in range(4):
                answer = ask(running, operation, draw, bearer(who))
                hold(operation, answer)
                statuses.add(answer.status_code)
    assert ({401} if who == "nobody" else {403, 404}) <= statuses


def resolve(expression: Any, request: dict[str, str], body: Any) -> Any:
    """What a link's parameter stands for (OpenAPI's runtime expressions); None where there is nothing."""
    if not str(expression).startswith("$"):
        return expression
    if match := re.fullmatch(r"\$request\.path\.(\w+)", expression):
        return request[match[1]]
    match = re.fullmatch(r"\$response\.body#/(.*)", expression)
    assert match is not None, f"{expression} is not understood here"
    for part in match[1].split("/"):
        try:
            body = body[int(part) if isinstance(body, list) else part]
        except (KeyError, IndexError):
            return None
    return body


def test_links_lead_to_what_they_say(digits: Running, halved: Files) -> None:
    """From an upload and from the list, as far as links lead: every one of them to an answer that is no problem."""
    known = {said["operationId"]: (path, method, said) for path, method, said in operations(digits)}
    digits.client.headers["Prefer"] = "wait=20"
    upload = digits.push({"checkpoint": halved.checkpoint, "evaluation": halved.evaluation}, name="halved")
    assert digits.end(upload.json()["operation"])["error"] is None
    # A size that nothing makes ahead.
    planner = digits.parts.catalogue.open(digits.parts.catalogue.resolve("halved")).planner
    ahead = {planner.plan(budget).digest for budget in planner.possible()}
    plans = (planner.plan(max_params=params) for params in range(planner.largest.params, 0, -1))
    params = next(plan.params for plan in plans if plan.digest not in ahead)
    waiting: list[tuple[str, dict[str, str], httpx.Response]] = [
        ("models_publish", {}, upload),
        ("models_list_models", {}, digits.client.get("/models?limit=1")),
        ("models_fetch", {"reference": "halved"}, digits.client.get(
            f"/models/halved?max_params={params}", headers={"Prefer": "respond-async"})),
    ]  # fmt: skip
    whole = digits.client.get("/models/halved?budget=1").headers["ETag"].strip('"')
    place = {"reference": "halved", "sha256": whole, "metric": "wer"}
    address = f"/models/halved/reports/{whole}/wer"
    waiting += [
        ("reports_report", place, digits.client.put(address, json={"value": 0.5, "higher_is_better": False})),
        ("reports_show", place, digits.client.get(address)),
        ("operations_unfinished", {}, digits.client.get("/operations")),
    ]
    assert waiting[2][2].status_code == 202
    sha256 = digits.end(waiting[2][2].json()["id"])["result"]["sha256"]
    reported = digits.client.put(f"/models/halved/reports/{sha256}/wer", json={"value": 0.5})
    waiting.append(("reports_report", {}, reported))
    seen: set[str] = set()
    followed: set[tuple[str, str]] = set()
    while waiting:
        source, request, answer = waiting.pop(0)
        hold(known[source], answer)
        described = known[source][2]["responses"][str(answer.status_code)]
        body = answer.json() if "json" in answer.headers["content-type"] else None
        for name, link in described.get("links", {}).items():
            path, method, said = known[link["operationId"]]
            given = {key: resolve(value, request, body) for key, value in link["parameters"].items()}
            followed.add((source, name))
            if None in given.values() or (address := json.dumps([link["operationId"], given])) in seen:
                continue
            seen.add(address)
            places = {each["name"]: each["in"] for each in said["parameters"]}
            assert given.keys() <= places.keys(), f"{source}, {name}: no such parameter"
            target = path.format(**given)
            query = {key: value for key, value in given.items() if places[key] == "query"}
            next_answer = digits.client.request(method.upper(), target, params=query)
            # What has not failed is not tried again.
            assert next_answer.status_code < 400 or link["operationId"] == "operations_retry", f"{source}, {name}"
            waiting.append((link["operationId"], {key: str(value) for key, value in given.items()}, next_answer))
    named = {(source, name) for source, (_, _, said) in known.items()
             for answer in said["responses"].values() for name in answer.get("links", {})}  # fmt: skip
    missed = {source for source, _ in named - followed} - {"operations_retry"}
    assert not missed and len(seen) > 12


def test_head_is_answered_wherever_get_is(shared: Running, demo: str) -> None:
    placed = {"{reference}": "demo", "{id}": f"ingest-{demo}", "{kind}": "internal"}
    walked = set()
    for path, operations in shared.client.get("/openapi.json").json()["paths"].items():
        if "get" not in operations:
            continue
        for name, value in placed.items():
            path = path.replace(name, value)
        if "{" in path:
            continue
        get, head = shared.client.get(path), shared.client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["Content-Type"] == get.headers["Content-Type"], path
        walked.add(path)
    assert walked >= {"/models", "/healthz", "/metrics", "/models/demo/curve", f"/operations/ingest-{demo}/events"}


def test_head_of_events_does_not_wait_for_the_operation(web: Running) -> None:
    operation = web.client.post("/models", files={"checkpoint": ("a", b"anything")}).json()["operation"]
    assert web.client.head(f"/operations/{operation}/events", timeout=10).status_code == 200
    assert not web.client.get(f"/operations/{operation}").json()["done"]
