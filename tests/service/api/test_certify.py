"""What is certified over HTTP, held against a walk of its own along the curve."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import httpx
import pytest

from rightrank.models.errors import BudgetError
from rightrank.models.plan.planner import COMMON
from rightrank.service.api import certify, schemas
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import record_key
from rightrank.service.settings import Settings
from tests.service.conftest import Running, at_work, serving


def passes(right: int, n: int, target: str, confidence: str) -> bool:
    """Whether so many right answers, or more, are too seldom for a share below the target: counted out."""
    least = Fraction(target)
    tail = sum(math.comb(n, k) * least**k * (1 - least) ** (n - k) for k in range(right, n + 1))
    return tail <= 1 - Fraction(confidence)


def operation_of(link: str) -> str:
    found = re.search(r"/operations/([\w-]+)", link)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("confidence", ["0.5", "0.95", "0.999"])
@pytest.mark.parametrize("target", ["0.3", "0.8", "0.9", "0.96"])
def test_the_answer_is_the_last_of_the_row_up_to_which_all_pass(
    shared: Running, demo: str, target: str, confidence: str
) -> None:
    points = {point["plan"]: point for point in shared.client.get(f"/models/{demo}/curve").json()["points"]}
    expected = None
    for budget in COMMON:
        plan = shared.client.head(f"/models/{demo}?budget={budget}").headers["RightRank-Plan"]
        found = points[plan]
        if not passes(round(found["accuracy"] * found["n"]), found["n"], target, confidence):
            break
        expected = found
    assert expected is not None
    answer = shared.client.get(f"/models/{demo}?min_accuracy={target}&confidence={confidence}")
    assert (answer.status_code, answer.headers["RightRank-Plan"]) == (200, expected["plan"])
    assert answer.headers["RightRank-Certified"] == f'top1="{target}";confidence="{confidence}";n=200'
    assert "no-cache" in answer.headers["Cache-Control"] and len(answer.content) == expected["bytes"]
    plain = shared.client.head(f"/models/{demo}?min_accuracy={target}")
    assert "RightRank-Certified" not in plain.headers
    assert int(plain.headers["Content-Length"]) <= expected["bytes"] or confidence == "0.5"


def test_what_else_was_measured_plays_no_part(shared: Running, demo: str) -> None:
    query = f"/models/{demo}?min_accuracy=0.9&confidence=0.95"
    before = shared.client.head(query).headers
    for budget in (0.95, 0.63, 0.61, 0.27, 0.26):
        shared.client.get(f"/models/{demo}?budget={budget}").raise_for_status()
    after = shared.client.head(query).headers
    assert after["RightRank-Plan"] == before["RightRank-Plan"]
    model = shared.parts.catalogue.open(demo)
    assert after["RightRank-Plan"] in {plan.digest for plan in certify.row_of(model, model.planner)}


def test_the_row_is_the_whole_network_and_what_the_upload_names(shared: Running, demo: str) -> None:
    model = shared.parts.catalogue.open(demo)
    for name in model.precisions:
        planner = model.planner_in(name)
        common = certify.row_of(model, planner)
        assert common[0] == planner.largest and len({plan.digest for plan in common}) == len(common)
        sizes = [plan.bytes for plan in common]
        assert sizes == sorted(sizes, reverse=True)
        named = replace(model, manifest={**model.manifest, "options": {"budgets": [0.6, 0.35]}})
        expected = [planner.largest, planner.plan(0.6), planner.plan(0.35)]
        # Where all of it is small enough for a share of the bytes, that is the whole network again.
        assert certify.row_of(named, planner) == list({plan.digest: plan for plan in expected}.values())


@pytest.fixture
def gap(stocked: Settings) -> Iterator[Running]:
    """A service without a worker, in which the half and what is smaller are not measured."""
    with serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        planner = running.parts.catalogue.open(id).planner
        for budget in COMMON[2:]:
            running.parts.store.delete(record_key(id, planner.plan(budget).digest))
        running.parts.catalogue.forget(id)
        yield running


def test_a_size_of_the_row_that_is_not_measured_is_measured_before_there_is_an_answer(
    gap: Running, stocked: Settings
) -> None:
    id = gap.parts.catalogue.resolve("demo")
    planner = gap.parts.catalogue.open(id).planner
    seventh, half = planner.plan(COMMON[1]), planner.plan(COMMON[2])

    def ask(more: str = "", target: float = 0.1, **headers: str) -> httpx.Response:
        return gap.client.get(f"/models/demo?min_accuracy={target}&confidence=0.95{more}", headers=headers)

    waiting = ask(Prefer="wait=0")
    assert waiting.status_code == 503 and waiting.json()["operation"] == f"/operations/cut-{id}-{half.digest}"
    assert ask(Prefer="respond-async").json()["id"] == f"cut-{id}-{half.digest}"
    # What lies behind one that does not pass is not asked for.
    assert ask(target=0.999, Prefer="wait=0").json()["type"] == "/problems/uncertified"
    assert ask("&ready=1").status_code == 503  # nothing is in the cache yet
    with at_work(stocked):
        gap.client.get(f"/models/demo?max_params={seventh.params}").raise_for_status()
        gap.end(f"cut-{id}-{half.digest}")
    for record in gap.parts.catalogue.records(id):
        if record.plan == half:
            gap.parts.store.delete(record_key(id, half.digest))
    gap.parts.catalogue.forget(id)
    ready = ask("&ready=1")
    assert (ready.status_code, ready.headers["RightRank-Ready"]) == (200, "nearest")
    assert ready.headers["RightRank-Plan"] == seventh.digest and "RightRank-Certified" in ready.headers
    assert operation_of(ready.headers["Link"]) == f"cut-{id}-{half.digest}"
    with at_work(stocked):
        answer = ask(Prefer="wait=60")
        assert answer.status_code == 200 and int(answer.headers["Content-Length"]) < half.bytes
        again = ask("&ready=1")
        assert (again.headers["RightRank-Ready"], again.headers["ETag"]) == ("exact", answer.headers["ETag"])
    measured = {record.plan.digest for record in gap.parts.catalogue.records(id)}
    row = [plan.digest for plan in certify.row_of(gap.parts.catalogue.open(id), planner)]
    reached = row.index(answer.headers["RightRank-Plan"])
    # All up to the answer, and the one after it, which was tested and did not pass.
    assert set(row[: reached + 2]) <= measured


def test_a_certificate_is_of_files_in_the_precision(shared: Running, demo: str) -> None:
    answer = shared.client.get(f"/models/{demo}?min_accuracy=0.8&confidence=0.9&precision=int8")
    assert answer.status_code == 200, answer.text
    assert answer.headers["RightRank-Precision"] == "int8" and "RightRank-Certified" in answer.headers
    points = {point["plan"] for point in shared.client.get(f"/models/{demo}/curve?precision=int8").json()["points"]}
    assert answer.headers["RightRank-Plan"] in points


def test_the_certified_size_is_within_the_other_limits(shared: Running, demo: str) -> None:
    query = f"/models/{demo}?min_accuracy=0.9&confidence=0.95"
    least = shared.client.head(query).headers
    bytes_ = int(least["Content-Length"])
    assert shared.client.head(f"{query}&max_bytes={bytes_}").headers["ETag"] == least["ETag"]
    problem = shared.client.get(f"{query}&max_bytes={bytes_ - 1}").json()
    assert (problem["type"], problem["parameter"]) == ("/problems/budget-unreachable", "max_bytes")
    assert problem["nearest"] == bytes_ and "certified" in problem["detail"]
    impossible = shared.client.get(f"{query}&max_bytes=1").json()
    assert "is below what this model can be cut to" in impossible["detail"]


def test_where_nothing_is_certified_it_is_said_how_many_samples_would_do(shared: Running, demo: str) -> None:
    answer = shared.client.get(f"/models/{demo}?min_accuracy=0.999&confidence=0.95")
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "/problems/uncertified")
    # Of the original all answers are right: 0.999 to the power of n.
    assert problem["samples"] == math.ceil(math.log(0.05) / math.log(0.999)) == 2995
    assert "2,995 samples would show it" in problem["hint"]
    assert "top1 of 1 on 200 samples does not show one of 0.999" in problem["detail"]
    schemas.Problem.model_validate(problem, strict=True)
    described = shared.client.get("/openapi.json").json()
    assert "samples" in described["components"]["schemas"]["Problem"]["properties"]
    headers = described["paths"]["/models/{reference}"]["get"]["responses"]["200"]["headers"]
    assert "dictionary (RFC 9651)" in headers["RightRank-Certified"]["description"]


@pytest.mark.parametrize(
    ("value", "target", "told"),
    [
        (0.9, 0.95, "no number of samples shows it"),
        (0.95, 0.95, "no number of samples shows it"),
        (0.95, 0.9499, "more samples than anybody has"),
    ],
)
def test_where_no_samples_would_do_none_are_named(
    shared: Running, demo: str, value: float, target: float, told: str
) -> None:
    whole = next(record for record in shared.parts.catalogue.records(demo) if record.plan.original)
    assert whole.measurement is not None
    counted = {"answers": 200_000 if target == 0.9499 else 200, "most": 1}
    measurement = {**whole.measurement, "value": value, "n": counted["answers"], "counted": counted}
    found = certify.uncertified(replace(whole, measurement=measurement), target, 0.95)
    if target == 0.9499 and "samples" in found.members:
        assert found.members["samples"] > 200_000
    else:
        assert told in found.hint and "samples" not in found.members


def test_a_measure_that_is_no_share_is_not_certified(shared: Running, demo: str) -> None:
    model = shared.parts.catalogue.open(demo)
    baseline = dict(model.manifest["baseline"])
    for metric in ("miou", "mse", "auc", "cosine"):
        other = replace(model, manifest={**model.manifest, "baseline": {**baseline, "metric": metric}})
        with pytest.raises(Problem, match=f"The {metric} that this model is measured by is no share") as refused:
            certify.walk(shared.parts.catalogue, other, model.planner, 0.5, 0.95)
        assert refused.value.hint.endswith("Shares are top1, top5, agreement, accuracy.")
    without = replace(model, manifest={**model.manifest, "baseline": None})
    with pytest.raises(BudgetError, match="No accuracy of this model has been measured"):
        certify.walk(shared.parts.catalogue, without, model.planner, 0.5, 0.95)


def test_what_was_measured_before_answers_were_counted_is_not_certified(stocked: Settings) -> None:
    with serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        for record in running.parts.catalogue.records(id):
            older: dict[str, Any] = record.to_json()
            del older["measurement"]["counted"]
            running.parts.store.delete(record_key(id, record.plan.digest))
            running.parts.store.create_json(record_key(id, record.plan.digest), older)
        running.parts.catalogue.forget(id)
        answer = running.client.get("/models/demo?min_accuracy=0.5&confidence=0.95").json()
        assert answer["type"] == "/problems/uncertified" and "upload it again" in answer["hint"]
        assert running.client.head("/models/demo?min_accuracy=0.5", headers={"If-None-Match": "*"}).status_code == 304


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("confidence=0.95", "Give `min_accuracy`"),
        ("budget=0.5&confidence=0.95", "Give `min_accuracy`"),
        ("max_error=0.1&confidence=0.95", "the answer has an interval"),
        ("max_error=0.1&confidence=0.95&metric=wer", "the answer has an interval"),
        ("min_accuracy=0.1&confidence=0.95&metric=map", "Leave one of them out"),
        ("min_accuracy=0.1&confidence=0", "greater than 0"),
        ("min_accuracy=0.1&confidence=1", "less than 1"),
        ("min_accuracy=0.1&confidence=nan", "confidence"),
        ("min_accuracy=0.1&confidence=sure", "confidence"),
    ],
)
def test_what_confidence_does_not_go_with_is_refused(shared: Running, demo: str, query: str, told: str) -> None:
    answer = shared.client.get(f"/models/{demo}?{query}")
    assert answer.status_code == 422 and answer.json()["type"] == "/problems/invalid-request"
    assert told in f"{answer.json()['detail']} {answer.json().get('hint')}"
