from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from rightrank.service.api.app import THREADS
from rightrank.service.jobs import cut
from rightrank.service.jobs.attempt import Job
from rightrank.service.jobs.engine import BACKGROUND, WAITING
from rightrank.service.jobs.operations import cut_id
from rightrank.service.registry import cache, catalogue, layout, reach, reports
from rightrank.service.registry.cache import NEARBY, Artifact, Cache
from rightrank.service.registry.nearby import Nearby
from rightrank.service.registry.pieces import digest as digest_of
from rightrank.service.settings import Settings
from tests.faulty_s3 import ABSENT, HANG, REFUSE, RESET, Bucket
from tests.service.conftest import Files, Running, at_work, frozen, serving


def test_the_file_runs_in_torch_alone(shared: Running, demo: str) -> None:
    answer = shared.client.get(f"/models/{demo}?budget=0.5")
    model = torch.jit.load(io.BytesIO(answer.content))
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == int(answer.headers["RightRank-Params"])


def test_the_headers_describe_exactly_these_bytes(shared: Running, demo: str) -> None:
    answer = shared.client.get(f"/models/{demo}?budget=0.5")
    digest = hashlib.sha256(answer.content)
    assert answer.headers["ETag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{demo}-')


def test_the_accuracy_is_that_of_the_file_that_arrives(shared: Running, demo: str, files: Files) -> None:
    answer = shared.client.get(f"/models/{demo}?budget=0.4")
    model, data = torch.jit.load(io.BytesIO(answer.content)), load_file(files.evaluation)
    correct = (model(data["inputs"]).argmax(1) == data["targets"]).double().mean().item()
    assert float(answer.headers["RightRank-Accuracy"]) == correct
    assert answer.headers["RightRank-Accuracy-Samples"] == "200"
    assert answer.headers["RightRank-Baseline-Accuracy"] == "1.0"


def test_budget_is_a_fraction_of_all_parameters(shared: Running, demo: str) -> None:
    total = shared.client.get(f"/models/{demo}").json()["params"]
    headers = shared.client.head(f"/models/{demo}?budget=0.3").headers
    assert int(headers["RightRank-Params"]) <= 0.3 * total
    assert float(headers["RightRank-Budget"]) == int(headers["RightRank-Params"]) / total


def test_a_budget_of_macs_reports_what_was_reached_of_them(shared: Running, demo: str) -> None:
    total = shared.client.get(f"/models/{demo}").json()["macs"]
    headers = shared.client.head(f"/models/{demo}?budget=0.3&of=macs").headers
    assert int(headers["RightRank-Macs"]) <= 0.3 * total
    assert float(headers["RightRank-Budget"]) == int(headers["RightRank-Macs"]) / total


@pytest.mark.parametrize(
    ("limit", "header"),
    [("max_params", "RightRank-Params"), ("max_macs", "RightRank-Macs"), ("max_bytes", "Content-Length")],
)
def test_no_limit_is_exceeded(shared: Running, demo: str, limit: str, header: str) -> None:
    whole = int(shared.client.head(f"/models/{demo}?budget=1").headers[header])
    asked = whole // 2
    assert 0 < int(shared.client.head(f"/models/{demo}?{limit}={asked}").headers[header]) <= asked


def test_min_accuracy_takes_the_smallest_measured_cut_that_reaches_it(shared: Running, demo: str) -> None:
    points = shared.client.get(f"/models/{demo}/curve").json()["points"]
    least = points[1]["accuracy"]
    plan = next(point["plan"] for point in points if point["accuracy"] >= least)
    answer = shared.client.get(f"/models/{demo}?min_accuracy={least}")
    assert answer.headers["RightRank-Plan"] == plan
    assert "no-cache" in answer.headers["Cache-Control"]


def test_an_accuracy_out_of_reach_names_the_best(stocked: Settings) -> None:
    with serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        for record in running.parts.catalogue.records(id):
            if record.plan.original:
                running.parts.store.delete(f"models/{id}/measurements/{record.plan.digest}.json")
        answer = running.client.get(f"/models/{id}?min_accuracy=1")
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/budget-unreachable"
    assert 0 < answer.json()["nearest"] < 1


def test_a_budget_below_the_smallest_names_the_smallest(shared: Running, demo: str) -> None:
    answer = shared.client.get(f"/models/{demo}?budget=0.0001")
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    nearest = answer.json()["nearest"]
    assert shared.client.head(f"/models/{demo}?budget={nearest}").status_code == 200


@pytest.mark.parametrize(
    "query",
    ["budget=0", "budget=-1", "budget=1.01", "budget=nan", "budget=inf", "budget=much", "budget=", "max_bytes=0",
     "max_bytes=1.5", "max_params=-3", "budget=0.3&budget=0.4", "max_macs=5&budget=0.3&max_macs=5", "of=macs",
     "budget=0.3&of=bytes", "of=params&max_bytes=5", "budgt=0.3", "min_accuracy=2", "ready=1", "ready=1&of=macs",
     "budget=0.3&ready=soon", "budget=0.3&ready=1&ready=1", "min_accuracy=-1", "min_accuracy=nan",
     "metric=wer", "budget=0.3&metric=wer", "max_error=0.1&metric=WER", "max_error=inf&metric=wer",
     "max_error=0.1&min_accuracy=0.1&metric=wer", "min_accuracy=0.5&metric=top1", "max_error=1&metric=mse"],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(shared: Running, demo: str, query: str) -> None:
    answer = shared.client.get(f"/models/{demo}?{query}")
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/invalid-request"
    assert answer.json()["detail"]


def test_an_error_is_asked_of_what_is_better_the_lower_it_is_only(shared: Running, demo: str) -> None:
    answer = shared.client.get(f"/models/{demo}?max_error=0.1")
    assert answer.status_code == 422 and answer.json()["type"] == "/problems/budget-unreachable"
    assert answer.json()["hint"] == "Ask for `min_accuracy`."


def test_a_second_request_is_a_hit_with_the_same_bytes(shared: Running, demo: str) -> None:
    first, second = (shared.client.get(f"/models/{demo}?budget=0.62") for _ in range(2))
    assert (first.headers["RightRank-Cache"], second.headers["RightRank-Cache"]) == ("miss", "hit")
    assert first.content == second.content


def test_an_artifact_that_the_cache_lost_comes_back_byte_for_byte(shared: Running, demo: str) -> None:
    before = shared.client.get(f"/models/{demo}?budget=0.5")
    lose(shared, demo)
    after = shared.client.get(f"/models/{demo}?budget=0.5")
    assert after.headers["RightRank-Cache"] == "miss"
    assert after.content == before.content


def test_what_the_process_has_in_memory_is_served_whatever_the_cache_lost(shared: Running, demo: str) -> None:
    before = shared.client.get(f"/models/{demo}?budget=0.5")
    shared.parts.cache.forget(demo)
    part = {"Range": "bytes=10-99"}
    for headers, wanted in (({}, before.content), (part, before.content[10:100])):
        after = shared.client.get(f"/models/{demo}?budget=0.5", headers=headers)
        assert (after.headers["RightRank-Cache"], after.content) == ("hit", wanted)


def lose(running: Running, id: str) -> None:
    """Drops a model's artifacts from the cache and from the process's memory."""
    running.parts.cache.forget(id)
    running.parts.cache.nearby = Nearby(NEARBY)


@pytest.mark.parametrize("ask", [{}, {"Range": "bytes=10-99"}])
def test_bytes_that_changed_in_the_cache_are_never_sent_and_are_made_again(
    stocked: Settings, ask: dict[str, str]
) -> None:
    with serving(stocked) as running, at_work(stocked):
        before = running.client.get("/models/demo?budget=0.5")
        id, plan = (before.headers[f"RightRank-{name}"] for name in ("Model", "Plan"))
        cached = running.parts.cache.find(id, plan)
        assert cached is not None
        running.parts.cache.nearby = Nearby(NEARBY)
        key = cached.chunk_keys()[0]
        chunk = bytearray(running.parts.cache.redis.get(key))
        chunk[50] ^= 1
        running.parts.cache.redis.set(key, bytes(chunk))
        after = running.client.get("/models/demo?budget=0.5", headers=ask)
        assert after.content == (before.content[10:100] if ask else before.content)
        assert after.headers["RightRank-Cache"] == "miss"


def test_head_has_the_headers_of_get_and_no_body(shared: Running, demo: str) -> None:
    get, head = (shared.client.request(method, f"/models/{demo}?budget=0.5") for method in ("GET", "HEAD"))
    assert head.status_code == 200 and head.content == b""
    unlike = {"date", "rightrank-cache", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in unlike} == {
        k: v for k, v in get.headers.items() if k not in unlike
    }


def test_a_client_that_has_it_gets_304_even_where_the_bytes_are_gone(shared: Running, demo: str) -> None:
    url = f"/models/{demo}?budget=0.5"
    etag = shared.client.head(url).headers["ETag"]
    shared.parts.cache.forget(demo)
    for tag in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = shared.client.get(url, headers={"If-None-Match": tag})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert shared.parts.cache.find(demo, answer.headers["RightRank-Plan"]) is None
    assert shared.client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=100-", 100, None), ("bytes=-7", -7, None),
     ("bytes=5-99999999", 5, None), ("bytes=-99999999", 0, None)],
)  # fmt: skip
def test_a_range_is_that_part_of_the_file(shared: Running, demo: str, asked: str, start: int, stop: int | None) -> None:
    url = f"/models/{demo}?budget=0.5"
    whole = shared.client.get(url).content
    answer = shared.client.get(url, headers={"Range": asked})
    first = start if start >= 0 else len(whole) + start
    assert answer.status_code == 206
    assert answer.content == whole[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(answer.content) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=x-y", "bytes=9-3", "bytes=-"])
def test_a_range_that_is_not_understood_is_ignored(shared: Running, demo: str, asked: str) -> None:
    answer = shared.client.get(f"/models/{demo}?budget=0.5", headers={"Range": asked})
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == str(len(answer.content))


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_without_a_byte_is_416_with_the_size(shared: Running, demo: str, asked: str) -> None:
    url = f"/models/{demo}?budget=0.5"
    answer = shared.client.get(url, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{shared.client.head(url).headers['Content-Length']}"


def test_a_range_means_nothing_to_head(shared: Running, demo: str) -> None:
    url = f"/models/{demo}?budget=0.5"
    for asked in ("bytes=0-3", "bytes=99999999-"):
        answer = shared.client.head(url, headers={"Range": asked})
        assert answer.status_code == 200
        assert answer.headers["Content-Length"] == shared.client.head(url).headers["Content-Length"]


def test_a_download_of_another_version_is_not_continued(shared: Running, demo: str) -> None:
    url = f"/models/{demo}?budget=0.5"
    etag = shared.client.head(url).headers["ETag"]
    same = shared.client.get(url, headers={"Range": "bytes=5-", "If-Range": etag})
    other = shared.client.get(url, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    weak = shared.client.get(url, headers={"Range": "bytes=5-", "If-Range": f"W/{etag}"})
    assert (same.status_code, other.status_code, weak.status_code) == (206, 200, 200)


def test_a_name_is_checked_each_time_and_an_id_is_not(shared: Running, demo: str) -> None:
    control = {
        reference: shared.client.head(f"/models/{reference}?budget=0.5").headers["Cache-Control"]
        for reference in (demo, "demo@1", "demo")
    }
    assert control[demo] == control["demo@1"] == "public, max-age=86400"
    assert control["demo"] == "public, no-cache"


def test_who_does_not_wait_gets_the_operation_to_follow(stocked: Settings) -> None:
    with serving(stocked) as running:
        answer = running.client.get("/models/demo?budget=0.45", headers={"Prefer": "respond-async"})
        assert answer.status_code == 202
        assert answer.headers["Preference-Applied"] == "respond-async"
        assert answer.headers["Location"] == f"/operations/{answer.json()['id']}"
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["done"] is False
        with at_work(stocked):
            result = running.end(answer.json()["id"])["result"]
        again = running.client.get("/models/demo?budget=0.45", headers={"Prefer": "wait=0"})
        assert again.status_code == 200
        assert again.headers["ETag"] == f'"{result["sha256"]}"'
        assert running.client.get(result["url"]).content == again.content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_not_ready_is_no_success(stocked: Settings, method: str) -> None:
    with serving(stocked) as running:
        answer = running.client.request(method, "/models/demo?budget=0.45", headers={"Prefer": "wait=0"})
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["Cache-Control"] == "no-store" and int(answer.headers["Retry-After"]) >= 1
        operation = answer.headers["Link"].removesuffix('>; rel="status"').removeprefix("<")
        assert running.client.get(operation).json()["state"] == "queued"
        if method == "GET":
            assert answer.json()["type"] == "/problems/not-ready" and answer.json()["operation"] == operation
            assert answer.json()["progress"]["phase"] == "queued"


def test_a_request_waits_as_long_as_the_service_is_set_to_and_then_says_so(stocked: Settings) -> None:
    with serving(stocked.model_copy(update={"wait": 0.1})) as running:
        assert running.client.get("/models/demo?budget=0.45").json()["type"] == "/problems/not-ready"
        later = running.client.get("/models/demo?budget=0.45", headers={"Prefer": 'Respond-Async, wait="1"'})
    assert later.status_code == 202


def test_a_cut_that_failed_is_a_problem_with_its_status(stocked: Settings) -> None:
    with serving(stocked) as running, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            running.client.get, "/models/demo?budget=0.45", headers={"Prefer": "respond-async, wait=50"}
        )
        id = running.parts.catalogue.resolve("demo")
        plan = running.parts.catalogue.open(id).planner.plan(budget=0.45)
        deadline = time.monotonic() + 30
        while running.parts.engine.get(cut_id(id, plan.digest)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.client.delete(f"/operations/{cut_id(id, plan.digest)}")
        answer = waiting.result()
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/cancelled")


def test_all_of_several_limits_hold(shared: Running, demo: str) -> None:
    whole = shared.client.head(f"/models/{demo}?budget=1").headers
    params, macs = (int(whole[f"RightRank-{name}"]) for name in ("Params", "Macs"))
    url = f"/models/{demo}?budget=0.7&max_macs={macs // 2}&max_params={params * 2 // 5}&max_bytes=999999"
    found = shared.client.head(url).headers
    assert int(found["RightRank-Params"]) <= params * 2 // 5 and int(found["RightRank-Macs"]) <= macs // 2
    alone = shared.client.head(f"/models/{demo}?budget=0.4").headers["RightRank-Plan"]
    assert shared.client.head(f"/models/{demo}?budget=0.4&max_macs={macs}").headers["RightRank-Plan"] == alone


def test_the_limit_that_cannot_be_met_is_named(shared: Running, demo: str) -> None:
    answer = shared.client.get(f"/models/{demo}?budget=0.5&max_macs=1")
    assert (answer.status_code, answer.json()["parameter"]) == (422, "max_macs")
    nearest = int(answer.json()["nearest"])
    assert shared.client.head(f"/models/{demo}?budget=0.5&max_macs={nearest}").status_code == 200
    assert "parameter" not in shared.client.get(f"/models/{demo}?max_macs=1").json()


def test_an_accuracy_within_limits_is_one_that_was_measured_there(stocked: Settings) -> None:
    with serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        planner = running.parts.catalogue.open(id).planner
        least = planner.plan(budget=planner.least()).digest  # not measured, unless by another test
        running.parts.store.delete(f"models/{id}/measurements/{least}.json")
        points = running.client.get(f"/models/{id}/curve").json()["points"]
        smallest, best = points[0], max(point["accuracy"] for point in points)
        reaching = next(point for point in points if point["accuracy"] >= best)
        assert smallest["accuracy"] < best

        def ask(**query: float) -> dict[str, Any]:
            answer = running.client.get(f"/models/{id}", params=query, headers={"If-None-Match": "*"})
            return dict(answer.headers) if answer.status_code == 304 else answer.json()

        found = ask(min_accuracy=smallest["accuracy"], max_bytes=smallest["bytes"])
        assert found["rightrank-plan"] == smallest["plan"]
        within = ask(min_accuracy=best, max_bytes=smallest["bytes"])
        assert (within["parameter"], within["nearest"]) == ("min_accuracy", smallest["accuracy"])
        for limit, value in (("budget", planner.least()), ("max_macs", planner.smallest.macs)):
            none = ask(min_accuracy=best, **{limit: value})
            assert none["parameter"] == limit
            assert ask(min_accuracy=best, **{limit: none["nearest"]})["rightrank-plan"] == reaching["plan"]
        impossible = ask(min_accuracy=0.1, max_macs=1)
        assert impossible["type"] == "/problems/budget-unreachable" and "`max_macs=1` is below" in impossible["detail"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_ready_comes_at_once_and_what_was_asked_is_made_for_the_next_time(
    stocked: Settings, method: str
) -> None:
    def ask(running: Running, more: str = "", **headers: str) -> httpx.Response:
        return running.client.request(method, f"/models/demo?budget=0.45&ready=1{more}", headers=headers)

    with serving(stocked) as running:
        nothing = ask(running)
        assert nothing.status_code == 503 and "operations/cut-" in nothing.headers["Link"]
        assert ask(running, Prefer="respond-async").status_code == 202
        with at_work(stocked):
            for budget in (0.2, 0.3, 0.7):
                running.client.get(f"/models/demo?budget={budget}").raise_for_status()
            running.end(nothing.headers["Link"].split("/")[2].split(">")[0])
        running.parts.cache.redis.delete(*exact_keys(running))
        nearest = ask(running)
        assert (nearest.status_code, nearest.headers["RightRank-Ready"]) == (200, "nearest")
        third = running.client.head("/models/demo?budget=0.3").headers
        assert nearest.headers["ETag"] == third["ETag"] and nearest.headers["RightRank-Cache"] == "hit"
        assert "no-cache" in nearest.headers["Cache-Control"]
        operation = nearest.headers["Link"].split("/")[2].split(">")[0]
        assert ask(running, **{"If-None-Match": third["ETag"]}).status_code == 304
        assert ask(running, **{"If-Match": '"other"'}).status_code == 412
        assert ask(running, f"&max_bytes={int(third['Content-Length']) - 1}").headers["RightRank-Budget"] <= "0.2"
        assert ask(running, "&min_accuracy=0.01").status_code == 200
        with at_work(stocked):
            assert running.end(operation)["error"] is None
        exact = ask(running)
        assert (exact.status_code, exact.headers["RightRank-Ready"]) == (200, "exact")
        assert float(exact.headers["RightRank-Budget"]) > float(nearest.headers["RightRank-Budget"])
        assert "Link" not in exact.headers


def exact_keys(running: Running) -> list[bytes]:
    """Where the cache has the size of 0.45."""
    id = running.parts.catalogue.resolve("demo")
    plan = running.parts.catalogue.open(id).planner.plan(budget=0.45)
    return list(running.parts.cache.redis.scan_iter(f"rightrank:artifact:{id}:{plan.digest}*"))


def test_what_is_ready_comes_where_the_queue_is_full(stocked: Settings) -> None:
    with serving(stocked) as running, at_work(stocked):
        running.client.get("/models/demo?budget=0.3").raise_for_status()
    with serving(stocked.model_copy(update={"queue_limit": 0})) as running:
        answer = running.client.get("/models/demo?budget=0.45&ready=1")
        assert (answer.status_code, answer.headers["RightRank-Ready"]) == (200, "nearest")
        assert "Link" not in answer.headers
        assert running.client.get("/models/demo?budget=0.2&ready=1").json()["type"] == "/problems/queue-full"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_another_version_than_the_one_wanted_is_412(shared: Running, demo: str, method: str) -> None:
    url = f"/models/{demo}?budget=0.5"
    etag = shared.client.head(url).headers["ETag"]

    def status(*lines: tuple[str, str]) -> int:
        return shared.client.request(method, url, headers=list(lines)).status_code

    for wanted in (etag, f'"other", {etag}', "*"):
        assert status(("If-Match", wanted)) == 200
    assert status(("If-Match", '"other"'), ("If-Match", etag)) == 200
    for wanted in ('"other"', f"W/{etag}", "nonsense"):
        assert status(("If-Match", wanted)) == 412
    # Before If-None-Match, and before the range (RFC 9110, 13.2.2).
    assert status(("If-Match", '"other"'), ("If-None-Match", etag)) == 412
    assert status(("If-Match", etag), ("If-None-Match", etag)) == 304
    assert status(("If-Match", '"other"'), ("Range", "bytes=99999999-")) == 412
    assert status(("If-Match", etag), ("Range", "bytes=0-1")) == (206 if method == "GET" else 200)
    refused = shared.client.get(url, headers={"If-Match": '"other"'})
    assert refused.json()["type"] == "/problems/precondition-failed" and refused.headers["ETag"] == etag


def test_one_plan_asked_for_by_many_is_cut_once(stocked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[str] = []

    def counted(job: Job) -> object:
        result = cut.run(job)
        if job.outcome == "done":  # not where the work was there already: asked for just as the cut ended
            cuts.append(job.operation)
        return result

    with serving(stocked) as running, at_work(stocked) as runner, ThreadPoolExecutor(16) as pool:
        monkeypatch.setattr(runner, "kinds", {"cut": counted})
        answers = list(pool.map(lambda _: running.client.get("/models/demo?budget=0.45"), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(cuts) == 1


def test_a_device_gets_ahead_of_background_work_for_the_same_plan(stocked: Settings) -> None:
    with serving(stocked) as running:
        id = running.parts.catalogue.resolve("demo")
        plan = running.parts.catalogue.open(id).planner.plan(budget=0.45)
        running.parts.cut(id, plan, BACKGROUND)
        assert running.parts.engine.length(WAITING) == 0
        running.client.get(f"/models/{id}?budget=0.45", headers={"Prefer": "wait=0"})
        assert running.parts.engine.length(WAITING) == 1


def test_a_full_queue_is_503_with_a_time_to_come_back(stocked: Settings) -> None:
    with serving(stocked.model_copy(update={"queue_limit": 1})) as running:
        first, second, again = (
            running.client.get(f"/models/demo?budget={budget}", headers={"Prefer": "wait=0"})
            for budget in (0.45, 0.25, 0.45)
        )
    assert (first.status_code, second.status_code, again.status_code) == (503, 503, 503)
    assert [each.json()["type"] for each in (first, again)] == ["/problems/not-ready"] * 2
    assert second.json()["type"] == "/problems/queue-full"
    assert int(second.headers["Retry-After"]) >= 1


def test_without_evaluation_data_the_accuracy_is_unmeasured(service: Running, files: Files) -> None:
    answer = service.push({"checkpoint": files.checkpoint})
    service.end(answer.json()["operation"])
    artifact = service.client.get(f"/models/{answer.json()['id']}?budget=0.5")
    assert artifact.headers["RightRank-Accuracy"] == "unmeasured"
    assert "RightRank-Accuracy-Samples" not in artifact.headers
    refused = service.client.get(f"/models/{answer.json()['id']}?min_accuracy=0.1")
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/budget-unreachable")


def test_one_sample_has_a_squared_error_without_an_interval(service: Running, files: Files, tmp_path: Path) -> None:
    save_file({"inputs": torch.zeros(1, 1, 8, 8), "targets": torch.zeros(1, 10)}, tmp_path / "one.safetensors")
    id = service.publish(Files(files.checkpoint, tmp_path / "one.safetensors"), options='{"budgets": [0.5]}')
    headers = service.client.get(f"/models/{id}?budget=0.5").headers
    assert float(headers["RightRank-Accuracy"]) > 0 and headers["RightRank-Accuracy-Samples"] == "1"
    assert headers["RightRank-Metric"] == "mse" and "RightRank-Accuracy-Interval" not in headers
    refused = service.client.get(f"/models/{id}?min_accuracy=0.1").json()
    assert "is better the lower it is" in refused["detail"] and refused["hint"] == "Ask for `max_error`."
    assert service.client.get(f"/models/{id}?max_error=1000").status_code == 200
    curve = service.client.get(f"/models/{id}/curve").json()
    assert {(each["low"], each["high"]) for each in (curve["baseline"], *curve["points"])} == {(None, None)}
    assert service.client.get(f"/models/{id}").json()["baseline"]["high"] is None


def test_what_is_too_large_for_the_cache_is_served_from_the_store(stocked: Settings) -> None:
    with serving(stocked) as running, at_work(stocked) as runner:
        runner.parts.cache.largest = 100
        answers = [running.client.get("/models/demo?budget=0.45") for _ in range(2)]
        part = running.client.get("/models/demo?budget=0.45", headers={"Range": "bytes=10-29"})
    assert [answer.headers["RightRank-Cache"] for answer in answers] == ["miss", "hit"]
    assert answers[0].headers["ETag"].strip('"') == hashlib.sha256(answers[1].content).hexdigest()
    assert part.content == answers[0].content[10:30]


def test_a_file_that_vanishes_while_it_is_sent_ends_the_connection(
    stocked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CHUNK", 4096)
    monkeypatch.setattr(cache, "NEARBY_LARGEST", 0)
    find = Cache.find

    def find_and_lose(self: Cache, model: str, plan: str) -> Artifact | None:
        artifact = find(self, model, plan)
        if artifact is not None:
            self.redis.delete(artifact.chunk_keys()[-1])
        return artifact

    with serving(stocked) as running, at_work(stocked):
        whole = running.client.get("/models/demo?budget=1")
        monkeypatch.setattr(Cache, "find", find_and_lose)
        with pytest.raises(httpx.RemoteProtocolError):
            running.client.get("/models/demo?budget=1")
        monkeypatch.setattr(Cache, "find", find)
        again = running.client.get("/models/demo?budget=1")
    assert again.headers["RightRank-Cache"] == "miss"
    assert again.content == whole.content


def test_what_no_longer_fits_the_cache_is_kept_in_the_store(stocked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(stocked) as running, at_work(stocked) as runner:
        first = running.client.get("/models/demo?budget=0.5")
        running.parts.cache.redis.flushdb()
        running.parts.cache.nearby = Nearby(0)
        monkeypatch.setattr(runner.parts.cache, "largest", 1000)
        for _ in range(3):
            again = running.client.get("/models/demo?budget=0.5")
            assert (again.status_code, again.content) == (200, first.content)
        digest = first.headers["RightRank-Plan"]
        record = running.parts.catalogue.record(running.parts.catalogue.resolve("demo"), digest)
        assert record is not None and record.stored


@pytest.mark.parametrize("where", ["cache", "store"])
def test_an_artifact_that_is_not_the_recorded_one_is_made_again(stocked: Settings, tmp_path: Path, where: str) -> None:
    with serving(stocked) as running, at_work(stocked):
        first = running.client.get("/models/demo?budget=0.5")
        id, digest = (first.headers[f"RightRank-{name}"] for name in ("Model", "Plan"))
        if where == "cache":
            (tmp_path / "other").write_bytes(b"other bytes")
            lose(running, id)
            running.parts.cache.put(id, digest, digest_of(tmp_path / "other"), tmp_path / "other")
        else:  # as an API knows it that has not heard of the model's end and return
            record = running.parts.catalogue.record(id, digest)
            assert record is not None
            stored = dataclasses.replace(record, stored=True)
            running.parts.catalogue.forget_record(id, digest)
            running.parts.catalogue._records.get((id, digest), lambda: stored)
        again = running.client.get("/models/demo?budget=0.5")
        assert (again.status_code, again.content) == (200, first.content)


WARM = ("/models/demo?budget=0.5", "/models/demo", "/models", "/models/demo/curve", "/models/demo?min_accuracy=0.5")


def warmed(running: Running) -> list[httpx.Response]:
    """The answers to `WARM` once all of it is in the process."""
    for url in WARM:
        assert running.client.get(url).status_code == 200
    return [running.client.get(url) for url in WARM]


def same(running: Running, before: list[httpx.Response]) -> None:
    """All that is warm is answered as before, a client that has it is told so, and a part is a part."""
    for url, known in zip(WARM, before, strict=True):
        answer = running.client.get(url)
        assert (answer.status_code, answer.content) == (200, known.content), url
    answer = running.client.get(WARM[0], headers={"If-None-Match": before[0].headers["ETag"]})
    assert answer.status_code == 304
    answer = running.client.get(WARM[0], headers={"Range": "bytes=5-9"})
    assert answer.content == before[0].content[5:10]


def refused(answer: httpx.Response, what: str) -> None:
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable"), answer.text
    assert answer.json()["detail"] == f"{what} cannot be reached."
    assert int(answer.headers["Retry-After"]) > 0


def test_what_is_warm_is_served_while_valkey_is_frozen(valkey: Settings, stocked: Settings) -> None:
    with serving(stocked) as running:
        with at_work(stocked):
            before = warmed(running)
        with frozen(valkey):
            same(running, before)
            refused(running.client.get("/operations/cut-x"), "The cache")
            refused(running.client.get("/models/demo?budget=0.77"), "The cache")
        same(running, before)


@pytest.mark.parametrize("fault", [HANG, REFUSE, RESET])
def test_what_is_warm_is_served_while_the_bucket_fails(
    in_bucket: Settings, bucket: Bucket, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "RECHECK_SECONDS", 0.0)
    monkeypatch.setattr(catalogue, "RECHECK_SECONDS", 0.0)  # each request asks the bucket whether the model is there
    with serving(in_bucket) as running:
        with at_work(in_bucket):
            before = warmed(running)
        with bucket.failing(fault):
            same(running, before)
            refused(running.client.get("/models/unheard-of"), "The store")
        monkeypatch.setattr(reach, "PAUSE_SECONDS", 0.0)
        same(running, before)


def test_a_bucket_that_vanished_takes_no_model_with_it(
    in_bucket: Settings, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "RECHECK_SECONDS", 0.0)
    monkeypatch.setattr(reports, "RECHECK_SECONDS", 0.0)
    with serving(in_bucket) as running, at_work(in_bucket):
        before = warmed(running)
        with bucket.failing(ABSENT):
            same(running, before)


def test_requests_do_not_pile_up_before_a_bucket_that_hangs(
    in_bucket: Settings, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "PAUSE_SECONDS", 60.0)
    with serving(in_bucket) as running, ThreadPoolExecutor(80) as pool, bucket.failing(HANG) as fault:
        for most in (THREADS, 0):
            before = fault.seen
            for answer in pool.map(running.client.get, ["/models/unheard-of"] * 80):
                refused(answer, "The store")
            assert fault.seen - before <= most
        assert fault.seen > 0


def test_the_artifacts_of_a_bucket_are_those_that_were_written(in_bucket: Settings, bucket: Bucket) -> None:
    """Those too large for the cache lie there, and one that changed is cut again."""
    with serving(in_bucket) as running:
        with at_work(in_bucket):
            first = running.client.get("/models/demo?budget=0.5")
        id, plan = (first.headers[f"RightRank-{name}"] for name in ("Model", "Plan"))
        record = running.parts.catalogue.record(id, plan)
        assert record is not None
        running.parts.catalogue.forget(id)
        lose(running, id)
        data = json.dumps(dataclasses.replace(record, stored=True).to_json()).encode()
        bucket.objects[layout.record_key(id, plan)] = data, 0.0
        key = layout.artifact_key(id, record.plan)
        bucket.objects[key] = first.content[:-1] + b"?", 0.0
        with at_work(in_bucket):
            again = running.client.get("/models/demo?budget=0.5")
        assert (again.status_code, again.content) == (200, first.content)
        assert f"damaged/{key}" in bucket.objects and key not in bucket.objects
