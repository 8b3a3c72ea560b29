from __future__ import annotations

import errno
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from rightrank.models.checkpoint.readers import ReaderLost, Readers
from rightrank.models.errors import BudgetError, Cancelled, UnsafeCheckpoint
from rightrank.service.jobs import attempt, engine
from rightrank.service.jobs.attempt import (
    DEATHS,
    TRIES,
    UNFORESEEN_TRIES,
    Job,
    Lost,
    Runner,
    Stopped,
)
from rightrank.service.jobs.dispatch import CANCELLED, Parts
from rightrank.service.jobs.engine import BACKGROUND, INGEST, QUEUES, WAITING, Attempt
from rightrank.service.jobs.operations import Operation
from rightrank.service.problems import Problem
from rightrank.service.registry.layout import manifest_key, upload_key

MODEL = "m" + "a" * 24
NAME = f"ingest-{MODEL}"


# Nothing here reads.
NOBODY = Readers(Path("nowhere"))


def runner_of(parts: Parts, work: Any) -> Runner:
    return Runner(parts, {"ingest": work, "cut": work}, NOBODY)


def take(parts: Parts) -> Attempt:
    attempt = parts.engine.take(QUEUES, rest=0)
    assert attempt is not None
    return attempt


def perform(parts: Parts, work: Any, name: str = NAME) -> Operation:
    parts.engine.send(name, INGEST, {"model": MODEL})
    runner_of(parts, work).perform(take(parts))
    operation = parts.engine.get(name)
    assert operation is not None
    return operation


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are followed by no pause."""
    monkeypatch.setattr(attempt, "FIRST_PAUSE", 0.0)


def failing(error: Exception) -> Any:
    def work(job: Job) -> Mapping[str, Any]:
        raise error

    return work


def test_what_a_job_returns_is_its_operations_result(parts: Parts) -> None:
    operation = perform(parts, lambda job: {"model": job.model})
    assert (operation.state, operation.result, operation.error) == ("done", {"model": MODEL}, None)


def test_a_known_failure_is_told_with_its_kind_and_hint(parts: Parts) -> None:
    operation = perform(parts, failing(UnsafeCheckpoint("It has code.", "Export it.")))
    assert operation.error is not None
    assert operation.error["type"] == "/problems/checkpoint-unsafe"
    assert (operation.error["detail"], operation.error["hint"]) == ("It has code.", "Export it.")


def test_an_unknown_failure_is_tried_again_and_tells_nothing_of_itself_but_to_the_log(
    parts: Parts, caplog: pytest.LogCaptureFixture, hasty: None
) -> None:
    for n in range(UNFORESEEN_TRIES):
        operation = perform(parts, failing(RuntimeError("/secret/path")))
        assert operation.done == (n == UNFORESEEN_TRIES - 1)
    assert operation.error is not None and operation.error["type"] == "/problems/internal"
    assert "secret" not in str(operation.to_json())
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError("away"), redis.TimeoutError(), redis.exceptions.ReadOnlyError(),
     redis.exceptions.OutOfMemoryError(), MemoryError(), RuntimeError("can't allocate memory: you tried to"),
     Problem("unavailable", "The store does not answer.")],
    ids=str,
)  # fmt: skip
def test_what_is_nobodys_fault_is_tried_again_and_then_given_up_and_the_upload_stays(
    parts: Parts, hasty: None, error: Exception
) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    parts.store.create(f"checkpoints/{'1' * 64}", b"x")
    for n in range(TRIES):
        operation = perform(parts, failing(error))
        assert operation.done == (n == TRIES - 1)
    assert operation.error is not None and operation.error["type"] == "/problems/gave-up"
    assert f"rightrank retry {NAME}" in operation.error["hint"]
    assert parts.store.exists(upload_key(MODEL)) and parts.store.exists(f"checkpoints/{'1' * 64}")
    parts.cache.redis.flushdb()
    assert parts.operation(NAME).error == operation.error
    parts.recover()
    assert parts.engine.length(INGEST) == 0
    with pytest.raises(Problem) as caught:
        parts.catalogue.open(MODEL)
    assert caught.value.kind == "model-failed"
    assert parts.retry(NAME).state == "queued" and parts.engine.length(INGEST) == 1
    assert perform(parts, lambda job: {}).state == "done"


def test_an_error_that_passes_costs_nothing_but_time(parts: Parts, hasty: None) -> None:
    for n in range(TRIES - 1):
        assert not perform(parts, failing(OSError(n))).done
    assert perform(parts, lambda job: {"model": job.model}).state == "done"


def test_what_was_saved_on_the_way_makes_up_for_failures(parts: Parts, hasty: None) -> None:
    def work(job: Job) -> Mapping[str, Any]:
        job.saved()
        raise OSError

    for _ in range(2 * TRIES):
        assert not perform(parts, work).done


def test_pauses_grow(parts: Parts) -> None:
    pauses: list[float] = []
    runner = runner_of(parts, failing(OSError()))
    give_back = parts.engine.give_back
    parts.engine.give_back = lambda attempt, pause=None: pauses.append(pause) or give_back(attempt, 0.0)  # type: ignore
    parts.engine.send(NAME, INGEST, {"model": MODEL})
    for _ in range(TRIES - 1):
        runner.perform(take(parts))
    assert all(1.1 * before < after for before, after in pairwise(pauses))


def test_the_nearest_budget_is_passed_on(parts: Parts) -> None:
    operation = perform(parts, failing(BudgetError("Too small.", nearest=0.25)))
    assert operation.error is not None and operation.error["nearest"] == 0.25


def test_a_failed_ingest_leaves_nothing_of_its_model(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    parts.store.create(f"checkpoints/{'1' * 64}", b"x")
    parts.store.create(f"models/{MODEL}/master.safetensors", b"x")
    perform(parts, failing(UnsafeCheckpoint("It has code.")))
    assert parts.store.keys("models") == parts.store.keys("checkpoints") == []


def test_a_finished_model_outlives_a_failure_in_what_comes_after(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    parts.store.create_json(manifest_key(MODEL), {"checkpoint": "1" * 64})
    perform(parts, failing(UnsafeCheckpoint("It has code.")))
    assert parts.catalogue.exists(MODEL)


def test_an_operation_whose_workers_keep_dying_is_given_up_and_the_upload_stays(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    parts.engine.send(NAME, INGEST, {"model": MODEL})
    monkeypatch.setattr(engine, "LEASE_SECONDS", 0.0)
    for _ in range(DEATHS):
        take(parts)
    monkeypatch.setattr(engine, "LEASE_SECONDS", 60.0)
    runner_of(parts, lambda job: pytest.fail("it must not be tried again")).perform(take(parts))
    operation = parts.operation(NAME)
    assert operation.error is not None and operation.error["type"] == "/problems/worker-lost"
    assert parts.store.exists(upload_key(MODEL))


def test_a_cancelled_operation_ends_at_its_next_sign_of_progress(parts: Parts) -> None:
    def work(job: Job) -> Mapping[str, Any]:
        parts.engine.cancel(NAME, CANCELLED)
        for n in range(2000):
            job.progress("work", n, 2000, "steps")
            time.sleep(0.01)
        pytest.fail("it went on")

    operation = perform(parts, work)
    assert operation.state == "cancelled"
    assert operation.error is not None and operation.error["type"] == "/problems/cancelled"


def test_cancelling_kills_the_process_that_the_job_waits_for(parts: Parts) -> None:
    def work(job: Job) -> Mapping[str, Any]:
        parts.engine.cancel(NAME, CANCELLED)
        child = subprocess.Popen(["sleep", "60"])
        with job.killing(child.kill):
            if child.wait():
                raise ReaderLost("The reader was killed.")
        pytest.fail("it went on")

    assert perform(parts, work).state == "cancelled"


def test_a_worker_that_is_stopped_leaves_its_job_to_another_at_no_cost(parts: Parts) -> None:
    runner: Runner

    def work(job: Job) -> Mapping[str, Any]:
        runner.stop.set()
        job.progress("work", 0, 1, "steps")
        pytest.fail("it went on")

    runner = runner_of(parts, work)
    parts.engine.send(NAME, BACKGROUND, {"model": MODEL})
    runner.perform(take(parts))
    assert [parts.engine.length(queue) for queue in QUEUES] == [0, 0, 1]
    assert take(parts).tries == 1


def test_a_job_has_so_much_time_and_more_if_it_is_allowed(parts: Parts) -> None:
    def slow(allowed: float) -> Any:
        def work(job: Job) -> Mapping[str, Any]:
            job.allow(allowed)
            for n in range(100):
                job.progress("work", n, 100, "steps")
                time.sleep(0.02)
            return {}

        return work

    parts = replace(parts, settings=parts.settings.model_copy(update={"job_seconds": 1}))
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    operation = perform(parts, slow(0))
    assert operation.error is not None and operation.error["type"] == "/problems/too-slow"
    assert parts.store.exists(upload_key(MODEL))
    assert perform(parts, slow(60)).state == "done"


def test_progress_tells_redis_of_every_phase_and_of_its_end(parts: Parts) -> None:
    said: list[tuple[str, int]] = []

    def work(job: Job) -> Mapping[str, Any]:
        for n in range(101):
            job.progress("work", n, 100, "steps")
            operation = parts.engine.get(NAME)
            assert operation is not None
            said.append((operation.progress["phase"], operation.progress["completed"]))
        return {}

    perform(parts, work)
    assert (said[0], said[-1]) == (("work", 0), ("work", 100))
    assert len(set(said)) < 101


def test_stopping_and_cancelling_are_told_apart(parts: Parts) -> None:
    stop = threading.Event()
    job = Job(parts, Attempt(NAME, "1", {"model": MODEL}, 1, 0), stop, NOBODY)
    job.check()
    stop.set()
    with pytest.raises(Stopped):
        job.check()
    job.cancelled.set()
    with pytest.raises(Cancelled):
        job.check()


def test_outcomes_are_counted(parts: Parts) -> None:
    perform(parts, lambda job: {})
    perform(parts, failing(BudgetError("Too small.")), f"cut-{MODEL}-{'0' * 32}")
    perform(parts, failing(OSError()), f"cut-{MODEL}-{'1' * 32}")
    counters = parts.cache.counters()
    assert counters[("jobs", "ingest", "done")] == counters[("jobs", "cut", "failed")] == 1
    assert counters[("jobs", "cut", "retried")] == 1


def test_what_another_attempt_has_taken_over_is_that_ones(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    others: list[Attempt] = []

    def work(job: Job) -> Mapping[str, Any]:
        parts.cache.redis.zadd("rightrank:leases", {NAME: 0})  # as if this one had been frozen
        others.append(take(parts))
        raise UnsafeCheckpoint("What an attempt says that is none any more.")

    operation = perform(parts, work)
    assert operation.state == "running" and parts.store.exists(upload_key(MODEL))
    assert parts.engine.beat(others[0]) == "ours"


def test_a_frozen_worker_finds_out_at_its_next_sign_of_progress(parts: Parts) -> None:
    def work(job: Job) -> Mapping[str, Any]:
        parts.cache.redis.zadd("rightrank:leases", {NAME: 0})
        take(parts)
        for n in range(2000):
            job.progress("work", n, 2000, "steps")
            time.sleep(0.01)
        pytest.fail("it went on")

    assert perform(parts, work).state == "running"


def test_only_who_has_the_operation_may_do_what_one_alone_may(parts: Parts) -> None:
    parts.engine.send(NAME, INGEST, {"model": MODEL})
    job = Job(parts, take(parts), threading.Event(), NOBODY)
    job.hold()
    parts.cache.redis.zadd("rightrank:leases", {NAME: 0})
    take(parts)
    with pytest.raises(Lost):
        job.hold()


def test_an_end_that_redis_cannot_be_told_at_once_is_told_later(parts: Parts) -> None:
    finish, times = parts.engine.finish, []

    def away(*arguments: Any) -> bool:
        times.append(1)
        if len(times) < 3:
            raise redis.ConnectionError
        return finish(*arguments)

    parts.engine.finish = away  # type: ignore[method-assign]
    assert perform(parts, lambda job: {}).state == "done" and len(times) == 3


def test_an_end_that_the_store_cannot_be_told_is_no_death_of_a_worker(
    parts: Parts, hasty: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> bool:
        raise Problem("unavailable", "The store does not answer.")

    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    monkeypatch.setattr(attempt, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(attempt, "TELL_PAUSE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(parts.store, "create_json", away)
        for _ in range(TRIES + DEATHS + 1):
            operation = perform(parts, failing(Problem("unavailable", "The store does not answer.")))
            assert operation.state == "queued"
            assert not parts.cache.redis.hexists(f"rightrank:operation:{NAME}", "deaths")
            parts.cache.redis.zadd("rightrank:later", {NAME: 0})
    assert perform(parts, lambda job: {}).state == "done"


def test_a_worker_outlives_a_redis_that_is_away(parts: Parts) -> None:
    take_one, times = parts.engine.take, []
    runner = runner_of(parts, lambda job: runner.stop.set() or {})

    def away(*arguments: Any) -> Attempt | None:
        times.append(1)
        if len(times) == 1:
            raise redis.TimeoutError
        return take_one(*arguments)

    parts.engine.take = away  # type: ignore[method-assign]
    parts.engine.send(NAME, INGEST, {"model": MODEL})
    runner.work(QUEUES)
    assert parts.operation(NAME).state == "done"


def test_the_same_upload_again_while_a_faulty_one_ends_shares_its_end_or_begins_anew(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "old"})
    began = threading.Event()

    def upload_again() -> None:
        began.set()
        with parts.catalogue.changing(MODEL):
            parts.store.replace_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "new"})
            parts.ingest(MODEL)

    thread = threading.Thread(target=upload_again)
    discard = parts.catalogue.discard

    def slow(id: str, token: str | None = None) -> bool:
        thread.start()
        began.wait()
        time.sleep(0.1)
        return discard(id, token)

    parts.catalogue.discard = slow  # type: ignore[method-assign]
    perform(parts, failing(UnsafeCheckpoint("It has code.")))
    thread.join()
    assert parts.operation(NAME).state == "queued"
    assert (parts.store.read_json(upload_key(MODEL)) or {})["token"] == "new"


@pytest.mark.parametrize("complete", [False, True])
def test_an_upload_that_had_come_in_part_and_came_again_whole_meanwhile_is_taken_up(
    parts: Parts, complete: bool
) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "old"})

    def work(job: Job) -> Mapping[str, Any]:
        job.token = "old"
        if complete:
            parts.store.create(f"checkpoints/{'1' * 64}", b"x")
        else:
            parts.store.replace_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "new"})
        raise Problem("upload-incomplete", "The upload ended early.")

    assert perform(parts, work).state == "queued"
    assert parts.store.exists(upload_key(MODEL))


def test_what_was_cancelled_and_came_again_before_its_end_was_told_is_taken_up(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "new"})
    assert perform(parts, failing(Cancelled("The model was deleted."))).state == "queued"
    parts.store.delete(upload_key(MODEL))
    parts.engine.cancel(NAME, CANCELLED)
    assert perform(parts, failing(Cancelled("The model was deleted."))).state == "cancelled"


def test_a_cut_of_a_model_that_is_not_there_just_now_can_be_asked_for_at_once(parts: Parts) -> None:
    name = f"cut-{MODEL}-{'0' * 32}"
    for kind in ("model-deleted", "model-not-ready", "model-failed"):
        operation = perform(parts, failing(Problem(kind, "Not now.")), name)
        assert operation.error is not None and operation.error["type"] == f"/problems/{kind}"
        assert parts.engine.send(name, WAITING, {"model": MODEL})
        take(parts)
        parts.engine.cancel(name, CANCELLED)


def test_a_worker_outlives_what_keeps_a_job_from_being_begun(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of(parts, lambda job: runner.stop.set() or {})
    performed, times = runner.perform, []

    def perform_at_last(attempt: Attempt) -> None:
        times.append(1)
        if len(times) == 1:
            parts.engine.give_back(attempt)
            raise RuntimeError("can't start new thread")
        performed(attempt)

    monkeypatch.setattr(runner, "perform", perform_at_last)
    parts.engine.send(NAME, INGEST, {"model": MODEL})
    runner.work(QUEUES)
    assert parts.operation(NAME).state == "done"
