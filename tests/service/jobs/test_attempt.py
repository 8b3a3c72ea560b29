from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
import redis

from rightrank.models.checkpoint.sandbox import ReaderLost
from rightrank.models.errors import BudgetError, Cancelled, UnsafeCheckpoint
from rightrank.service.jobs.attempt import Job, Lost, Runner, Stopped, children, kill, lock_of
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.operations import ATTEMPTS, Operation
from rightrank.service.jobs.queues import INGEST, WAITING
from rightrank.service.registry.catalogue import manifest_key, upload_key

MODEL = "m" + "a" * 24
NAME = f"ingest-{MODEL}"


def runner_of(parts: Parts, work: Any) -> Runner:
    return Runner(parts, {"ingest": work, "cut": work})


def perform(parts: Parts, work: Any, name: str = NAME) -> Operation:
    parts.operations.claim(name, INGEST, {"model": MODEL})
    runner_of(parts, work).perform(name)
    operation = parts.operations.get(name)
    assert operation is not None
    return operation


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


def test_an_unknown_failure_tells_nothing_of_itself_and_is_logged(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    operation = perform(parts, failing(RuntimeError("/secret/path")))
    assert operation.error is not None and operation.error["type"] == "/problems/internal"
    assert "secret" not in str(operation.to_json())
    assert "/secret/path" in caplog.text


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
    perform(parts, failing(RuntimeError()))
    assert parts.catalogue.exists(MODEL)


def test_an_operation_whose_workers_keep_dying_is_given_up(parts: Parts) -> None:
    parts.operations.claim(NAME, INGEST, {"model": MODEL})
    for _ in range(ATTEMPTS):
        parts.operations.start(NAME)
    operation = perform(parts, lambda job: pytest.fail("it must not be tried again"))
    assert operation.error is not None and operation.error["type"] == "/problems/worker-lost"


def test_an_operation_that_has_ended_is_not_done_again(parts: Parts) -> None:
    done: list[str] = []
    work = lambda job: done.append(job.operation) or {}  # noqa: E731
    perform(parts, work)
    runner_of(parts, work).perform(NAME)
    runner_of(parts, work).perform("cut-unknown")
    assert done == [NAME]


def test_an_operation_has_one_worker_at_a_time(parts: Parts) -> None:
    inside, most = 0, 0

    def work(job: Job) -> Mapping[str, Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.2)
        inside -= 1
        return {}

    parts.operations.claim(NAME, INGEST, {"model": MODEL})
    threads = [threading.Thread(target=runner_of(parts, work).perform, args=(NAME,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_cancelled_operation_ends_at_its_next_sign_of_progress(parts: Parts) -> None:
    def work(job: Job) -> Mapping[str, Any]:
        parts.operations.cancel(NAME, {})
        for n in range(2000):
            job.progress("work", n, 2000, "steps")
            time.sleep(0.01)
        pytest.fail("it went on")

    operation = perform(parts, work)
    assert operation.state == "cancelled"
    assert operation.error is not None and operation.error["type"] == "/problems/cancelled"


def test_cancelling_kills_the_process_that_the_job_waits_for(parts: Parts) -> None:
    def work(job: Job) -> Mapping[str, Any]:
        parts.operations.cancel(NAME, {})
        with job.kills_children():
            child = subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
            if child.returncode:
                raise ReaderLost("The reader was killed.")
        pytest.fail("it went on")

    assert perform(parts, work).state == "cancelled"


def test_every_child_is_killed_with_its_group() -> None:
    before = children()
    script = "import subprocess, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        kill(children() - before)
        # The pipe ends when nobody holds it any more, the grandchild included.
        assert child.stdout.read() == b""


def test_a_worker_that_is_stopped_leaves_its_job_to_another_at_no_cost(parts: Parts) -> None:
    runner: Runner

    def work(job: Job) -> Mapping[str, Any]:
        runner.stop.set()
        parts.operations.put_back(NAME)
        job.progress("work", 0, 1, "steps")
        pytest.fail("it went on")

    runner = runner_of(parts, work)
    parts.operations.claim(NAME, INGEST, {"model": MODEL})
    runner.perform(NAME)
    assert parts.jobs.length(INGEST) == 1 and parts.jobs.length(WAITING) == 0
    operation = parts.operations.get(NAME)
    assert operation is not None and not operation.done
    assert parts.operations.start(NAME) == 1


def test_progress_tells_redis_of_every_phase_and_of_its_end(parts: Parts) -> None:
    said: list[tuple[str, int]] = []

    def work(job: Job) -> Mapping[str, Any]:
        for n in range(101):
            job.progress("work", n, 100, "steps")
            operation = parts.operations.get(NAME)
            assert operation is not None
            said.append((operation.progress["phase"], operation.progress["completed"]))
        return {}

    perform(parts, work)
    assert (said[0], said[-1]) == (("work", 0), ("work", 100))
    assert len(set(said)) < 101


def test_stopping_and_cancelling_are_told_apart(parts: Parts) -> None:
    stop = threading.Event()
    job = Job(parts, NAME, {"model": MODEL}, stop)
    job.check()
    stop.set()
    with pytest.raises(Stopped):
        job.check()
    job.cancelled.set()
    with pytest.raises(Cancelled):
        job.check()


def test_outcomes_are_counted(parts: Parts) -> None:
    perform(parts, lambda job: {})
    perform(parts, failing(RuntimeError()), f"cut-{MODEL}-{'0' * 32}")
    counters = parts.cache.counters()
    assert counters[("jobs", "ingest", "done")] == counters[("jobs", "cut", "failed")] == 1


def test_what_another_worker_has_taken_over_is_that_ones(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})

    def work(job: Job) -> Mapping[str, Any]:
        parts.cache.redis.delete(f"rightrank:running:{NAME}")  # as if this one had been frozen
        assert lock_of(parts, NAME).hold()
        for n in range(2000):
            job.progress("work", n, 2000, "steps")
            time.sleep(0.01)
        pytest.fail("it went on")

    operation = perform(parts, work)
    assert operation.state == "running" and parts.store.exists(upload_key(MODEL))
    assert not lock_of(parts, NAME).hold()


def test_only_who_has_the_operation_may_do_what_one_alone_may(parts: Parts) -> None:
    job = Job(parts, NAME, {"model": MODEL}, threading.Event())
    job.hold()
    job.lock.release()
    assert lock_of(parts, NAME).hold()
    with pytest.raises(Lost):
        job.hold()


def test_a_redis_that_was_away_costs_no_attempt(parts: Parts) -> None:
    runner = runner_of(parts, failing(redis.ConnectionError()))
    parts.operations.claim(NAME, INGEST, {"model": MODEL})
    for _ in range(ATTEMPTS + 2):
        runner.perform(NAME)
    operation = parts.operations.get(NAME)
    assert operation is not None and operation.state == "running"
    runner.kinds = {"ingest": lambda job: {"model": job.model}}
    runner.perform(NAME)
    operation = parts.operations.get(NAME)
    assert operation is not None and operation.state == "done"


def test_an_upload_that_came_while_an_older_one_was_ending_is_taken_up(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "uploaded": 1.0, "owner": ""})

    def work(job: Job) -> Mapping[str, Any]:
        parts.store.delete(upload_key(MODEL))
        parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "uploaded": 2.0, "owner": ""})
        raise Cancelled("The model was deleted.")

    assert not perform(parts, work).done
    assert parts.jobs.length(INGEST) == 1 and parts.store.exists(upload_key(MODEL))
    assert perform(parts, lambda job: {}).state == "done"
