from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import RedisError

from rightrank.service.api.metrics import Tally
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.settings import Settings
from tests.service.conftest import Running, at_work, serving


def read(running: Running) -> dict[tuple[str, ...], float]:
    text = running.client.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_hits_misses_and_jobs_are_counted(stocked: Settings) -> None:
    with serving(stocked) as running, at_work(stocked):
        sizes = [len(running.client.get("/models/demo?budget=0.45").content) for _ in range(3)]
        running.client.get("/models/nothing")
        found = read(running)
    assert found[("rightrank_artifacts_total", "miss")] == 1
    assert found[("rightrank_artifacts_total", "hit")] == 2
    assert found[("rightrank_artifact_bytes_total",)] == sum(sizes)
    assert found[("rightrank_jobs_total", "cut", "done")] == 1
    assert found[("rightrank_requests_total", "GET", "/models/{reference}", "404")] == 1
    assert found[("rightrank_cache_bytes",)] > 0


def test_waiting_jobs_are_shown_by_queue(web: Running) -> None:
    web.client.post("/models", files={"checkpoint": ("a", b"anything")})
    assert read(web)[("rightrank_queue_length", "ingest")] == 1
    assert read(web)[("rightrank_queue_length", "waiting")] == 0


def test_processes_share_their_counters(parts: Parts) -> None:
    tallies = [Tally(), Tally()]
    for tally in tallies:
        tally.add("uploads")
        tally.flush(parts.cache)
        tally.flush(parts.cache)
    assert parts.cache.counters()[("uploads",)] == 2


def test_no_path_of_a_client_becomes_a_label(web: Running) -> None:
    web.client.get("/some/made/up/path")
    assert ("rightrank_requests_total", "GET", "none", "404") in read(web)


def test_what_redis_does_not_take_is_counted_later(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    tally.add("uploads")
    tally.add("jobs", 2, kind="cut", outcome="done")

    def refuse(*name: object, **labels: object) -> None:
        raise RedisError

    with monkeypatch.context() as down:
        down.setattr(parts.cache, "count", refuse)
        tally.flush(parts.cache)
    tally.flush(parts.cache)
    tally.flush(parts.cache)
    assert parts.cache.counters() == {("uploads",): 1, ("jobs", "cut", "done"): 2}
