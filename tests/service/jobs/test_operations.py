from __future__ import annotations

import pytest

from rightrank.service.jobs import operations
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.queues import BACKGROUND, INGEST, WAITING
from rightrank.service.problems import Problem, describe

CANCELLED = describe(Problem("cancelled", "Somebody asked."))


def state(parts: Parts, id: str) -> str:
    operation = parts.operations.get(id)
    assert operation is not None
    return operation.state


def test_the_first_to_claim_an_operation_sends_its_job_and_no_other(parts: Parts) -> None:
    assert [parts.operations.claim("a", INGEST, {"model": "m"}) for _ in range(3)] == [True, False, False]


def test_a_queued_background_operation_is_sent_once_more_when_somebody_waits(parts: Parts) -> None:
    queues = (BACKGROUND, BACKGROUND, WAITING, WAITING, BACKGROUND)
    assert [parts.operations.claim("a", queue, {}) for queue in queues] == [True, False, True, False, False]


def test_a_running_background_operation_is_not_sent_again(parts: Parts) -> None:
    parts.operations.claim("a", BACKGROUND, {})
    parts.operations.start("a")
    assert not parts.operations.claim("a", WAITING, {})


def test_one_without_a_sign_of_life_is_sent_again(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.operations.claim("a", INGEST, {})
    monkeypatch.setattr(operations, "STALE_SECONDS", -1.0)
    assert parts.operations.claim("a", INGEST, {})


def test_one_that_has_ended_starts_over_with_nothing_of_its_past(parts: Parts) -> None:
    parts.operations.claim("a", INGEST, {"model": "m"})
    parts.operations.start("a")
    parts.operations.fail("a", {}, describe(Problem("not-found", "Gone.")))
    assert parts.operations.claim("a", INGEST, {"model": "m"})
    operation = parts.operations.get("a")
    assert operation is not None
    assert (operation.state, operation.error, operation.progress["phase"]) == ("queued", None, "queued")
    assert parts.operations.start("a") == 1


def test_attempts_are_counted_and_one_that_was_stopped_does_not_count(parts: Parts) -> None:
    parts.operations.claim("a", INGEST, {})
    assert [parts.operations.start("a"), parts.operations.start("a")] == [1, 2]
    parts.operations.put_back("a")
    assert parts.operations.start("a") == 2


def test_an_ended_operation_is_not_started(parts: Parts) -> None:
    parts.operations.claim("a", INGEST, {})
    parts.operations.finish("a", {}, {"model": "m"})
    assert parts.operations.start("a") == 0
    assert parts.operations.start("unknown") == 0


def test_an_operation_has_an_error_or_a_result_and_never_both(parts: Parts) -> None:
    for id in ("good", "bad", "new"):
        parts.operations.claim(id, INGEST, {"model": "m"})
    parts.operations.finish("good", {}, {"model": "m"})
    parts.operations.fail("bad", {}, describe(Problem("not-found", "Gone.")))
    found = {id: operation.to_json() for id in ("good", "bad", "new") if (operation := parts.operations.get(id))}
    assert found["good"]["done"] and "error" not in found["good"] and found["good"]["result"] == {"model": "m"}
    assert found["bad"]["done"] and "result" not in found["bad"] and found["bad"]["error"]["detail"] == "Gone."
    assert not found["new"]["done"] and not {"error", "result"} & set(found["new"])


def test_cancelling_ends_at_once_what_has_not_begun(parts: Parts) -> None:
    parts.operations.claim("a", INGEST, {})
    assert parts.operations.cancel("a", CANCELLED)
    assert state(parts, "a") == "cancelled"
    assert parts.operations.start("a") == 0


def test_cancelling_asks_what_runs_and_leaves_what_has_ended(parts: Parts) -> None:
    for id in ("runs", "ended"):
        parts.operations.claim(id, INGEST, {})
        parts.operations.start(id)
    parts.operations.finish("ended", {}, {})
    assert not parts.operations.beat("runs")
    assert not parts.operations.cancel("runs", CANCELLED) and not parts.operations.cancel("ended", CANCELLED)
    assert parts.operations.beat("runs")
    assert state(parts, "ended") == "done"


def test_operations_under_way_are_counted_by_owner(parts: Parts) -> None:
    for id, owner in (("a", "ann"), ("b", "ann"), ("c", "bob")):
        parts.operations.claim(id, INGEST, {}, owner)
    parts.operations.finish("a", {}, {})
    assert (parts.operations.under_way("ann"), parts.operations.under_way("bob")) == (1, 1)
    assert parts.operations.under_way("eve") == 0


def test_progress_is_what_was_said_last(parts: Parts) -> None:
    parts.operations.claim("a", INGEST, {})
    parts.operations.report("a", "decompose", 1, 4, "layers")
    parts.operations.report("a", "decompose", 2, 4, "layers")
    operation = parts.operations.get("a")
    assert operation is not None
    assert operation.progress == {"phase": "decompose", "completed": 2, "total": 4, "unit": "layers"}


def test_operations_do_not_stay_for_ever(parts: Parts) -> None:
    parts.operations.claim("a", INGEST, {})
    assert 0 < parts.cache.redis.ttl("rightrank:operation:a") <= operations.KEEP_SECONDS


def test_a_sign_of_life_of_what_redis_forgot_leaves_nothing_behind(parts: Parts) -> None:
    assert not parts.operations.beat("a")
    parts.operations.report("a", "work", 1, 2, "steps")
    assert parts.cache.redis.keys("*operation*") == []


def test_the_end_of_what_redis_forgot_is_still_told(parts: Parts) -> None:
    parts.operations.fail("a", {"model": "m"}, describe(Problem("not-found", "Gone.")))
    operation = parts.operations.get("a")
    assert operation is not None and operation.done and operation.details == {"model": "m"}
    assert parts.cache.redis.ttl("rightrank:operation:a") > 0


def test_what_was_queued_anew_while_it_ran_is_running_and_can_be_cancelled(parts: Parts) -> None:
    parts.operations.claim("a", INGEST, {})
    assert not parts.operations.beat("a")
    assert state(parts, "a") == "running"
    parts.operations.cancel("a", CANCELLED)
    assert parts.operations.beat("a")


def test_whether_one_is_lost_is_a_matter_of_rediss_clock_alone(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)
    parts.operations.claim("a", INGEST, {})
    for begin in (False, True):
        if begin:
            parts.operations.start("a")
        operation = parts.operations.get("a")
        assert operation is not None and 0 <= operation.silent < 10 and not operation.lost
        monkeypatch.setattr(operations, "STALE_SECONDS", -1.0)
        assert operation.lost
        monkeypatch.setattr(operations, "STALE_SECONDS", 30.0)


def test_an_attempt_at_what_is_not_there_leaves_nothing(parts: Parts) -> None:
    parts.operations.put_back("a")
    assert parts.operations.redis.keys("*operation*") == []


@pytest.mark.parametrize(("queue", "kind", "again"), [
    (WAITING, "worker-lost", False), (BACKGROUND, "worker-lost", False),
    (INGEST, "worker-lost", True), (WAITING, "not-found", True),
])  # fmt: skip
def test_a_cut_that_kills_its_workers_is_not_tried_again_at_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, queue: str, kind: str, again: bool
) -> None:
    parts.operations.claim("a", queue, {})
    parts.operations.forget("a")  # Redis may have lost it meanwhile
    parts.operations.fail("a", {}, describe(Problem(kind, "It has ended.")))
    assert parts.operations.claim("a", queue, {}) is again
    if not again:
        monkeypatch.setattr(operations, "GIVEN_UP_SECONDS", -1.0)
        assert parts.operations.claim("a", queue, {})
