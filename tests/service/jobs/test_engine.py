from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from rightrank.service.jobs import engine
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import BACKGROUND, INGEST, QUEUES, WAITING, Attempt, Engine
from rightrank.service.jobs.operations import Operation
from rightrank.service.problems import Problem, describe
from rightrank.service.settings import Settings

GONE = describe(Problem("not-found", "Gone."))
CANCELLED = describe(Problem("cancelled", "Somebody asked."))


def state(parts: Parts, id: str) -> Operation:
    operation = parts.engine.get(id)
    assert operation is not None
    return operation


def take(parts: Parts, *queues: str) -> Attempt:
    attempt = parts.engine.take(queues or QUEUES, rest=0)
    assert attempt is not None
    return attempt


def nothing_left(parts: Parts) -> bool:
    """Whether no queue, no lease and no pause holds anything."""
    return all(
        parts.cache.redis.zcard(f"rightrank:{key}") == 0 for key in (*(f"queue:{q}" for q in QUEUES), "leases", "later")
    )


def test_the_most_urgent_queue_goes_first_and_within_it_who_came_first(parts: Parts) -> None:
    for queue, id in ((BACKGROUND, "b1"), (BACKGROUND, "b2"), (INGEST, "i1"), (WAITING, "w1"), (WAITING, "w2")):
        assert parts.engine.send(id, queue, {})
    assert [take(parts).operation for _ in range(5)] == ["w1", "w2", "i1", "b1", "b2"]
    assert parts.engine.take(QUEUES, rest=0) is None


def test_a_worker_takes_from_its_own_queues_alone(parts: Parts) -> None:
    parts.engine.send("i", INGEST, {})
    assert parts.engine.take((WAITING, BACKGROUND), rest=0) is None
    assert take(parts, INGEST).operation == "i"


def test_an_operation_asked_for_again_and_again_is_one_job(parts: Parts) -> None:
    assert [parts.engine.send("a", INGEST, {"model": "m"}) for _ in range(3)] == [True, False, False]
    assert parts.engine.length(INGEST) == 1
    take(parts)
    assert not parts.engine.send("a", INGEST, {})
    assert parts.engine.take(QUEUES, rest=0) is None


def test_what_waits_in_the_background_moves_to_where_a_device_waits(parts: Parts) -> None:
    for id in ("a", "b"):
        parts.engine.send(id, BACKGROUND, {})
    parts.engine.send("b", WAITING, {})
    assert [parts.engine.length(queue) for queue in QUEUES] == [1, 0, 1]
    assert take(parts).operation == "b"
    parts.engine.send("a", INGEST, {})
    assert parts.engine.length(BACKGROUND) == 1


def test_what_runs_and_is_given_back_goes_where_it_is_wanted_most(parts: Parts) -> None:
    for id in ("a", "b"):
        parts.engine.send(id, BACKGROUND, {})
    first, second = take(parts), take(parts)
    parts.engine.send("b", WAITING, {})
    for attempt in (first, second):
        assert parts.engine.give_back(attempt)
    assert [parts.engine.length(queue) for queue in QUEUES] == [1, 0, 1]


def test_many_workers_share_the_jobs_and_none_is_done_twice(parts: Parts, settings: Settings) -> None:
    done: list[str] = []

    def work() -> None:
        there = Parts.of(settings).engine
        while attempt := there.take(QUEUES, rest=0.2):
            done.append(attempt.operation)
            assert there.finish(attempt, {})

    for n in range(60):
        parts.engine.send(f"j{n}", QUEUES[n % 3], {})
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(done) == Counter(f"j{n}" for n in range(60))
    assert nothing_left(parts)


def test_a_resting_worker_wakes_when_a_job_is_sent(parts: Parts, settings: Settings) -> None:
    found: list[Attempt | None] = []
    there = Parts.of(settings).engine
    thread = threading.Thread(target=lambda: found.append(there.take(QUEUES, rest=3.5)))
    thread.start()
    time.sleep(0.2)
    parts.engine.send("a", WAITING, {})
    thread.join(3)
    assert not thread.is_alive() and found[0] is not None


def test_a_lease_that_is_renewed_outlasts_any_job(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEASE_SECONDS", 0.3)
    parts.engine.send("a", WAITING, {})
    attempt = take(parts)
    for _ in range(10):
        time.sleep(0.1)
        assert parts.engine.beat(attempt) == "ours"
        assert parts.engine.take(QUEUES, rest=0) is None


def test_a_dead_workers_job_goes_to_another_and_what_the_dead_one_says_changes_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LEASE_SECONDS", 0.05)
    parts.engine.send("a", INGEST, {"model": "m"})
    dead = take(parts)
    time.sleep(0.1)
    monkeypatch.setattr(engine, "LEASE_SECONDS", 60)
    living = take(parts)
    assert (living.operation, living.tries, living.deaths) == ("a", 2, 1) and living.number != dead.number
    assert parts.engine.beat(dead) == "lost" and parts.engine.beat(living) == "ours"
    parts.engine.report(living, {"phase": "here"})
    parts.engine.report(dead, {"phase": "there"})
    parts.engine.saved(dead)
    assert not parts.engine.give_back(dead) and not parts.engine.give_back(dead, 1.0)
    assert not parts.engine.finish(dead, {"by": "dead"}) and not parts.engine.fail(dead, GONE)
    assert (state(parts, "a").state, state(parts, "a").progress) == ("running", {"phase": "here"})
    assert parts.engine.finish(living, {"by": "living"})
    assert state(parts, "a").result == {"by": "living"}
    assert not parts.engine.fail(living, GONE)
    assert nothing_left(parts)


def test_a_redis_that_stood_still_takes_no_job_from_who_is_alive(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    attempt = take(parts)
    for ends in (-1, -20):
        # As if Redis had answered nobody for ten seconds, in which the lease ended, or for longer than that.
        now, _ = parts.cache.redis.time()
        parts.cache.redis.set("rightrank:seen", now - 10)
        parts.cache.redis.zadd("rightrank:leases", {"a": now + ends})
        if ends == -1:
            assert parts.engine.take(QUEUES, rest=0) is None
            assert parts.engine.beat(attempt) == "ours"
    assert take(parts).deaths == 1


def test_a_redis_that_stood_still_takes_no_job_from_who_is_alive_whoever_is_heard_first(parts: Parts) -> None:
    for id in ("a", "b"):
        parts.engine.send(id, INGEST, {})
    first, second = take(parts), take(parts)
    now, _ = parts.cache.redis.time()
    parts.cache.redis.set("rightrank:seen", now - 10)
    parts.cache.redis.zadd("rightrank:leases", {"a": now - 1, "b": now - 1})
    assert parts.engine.beat(first) == "ours"
    assert parts.engine.take(QUEUES, rest=0) is None
    assert parts.engine.beat(second) == "ours"


def test_what_an_earlier_version_left_in_redis_is_begun_anew(parts: Parts) -> None:
    left = {"state": "running", "queue": "ingest", "updated": "1.0", "details": "{}", "attempts": "1"}
    parts.cache.redis.hset("rightrank:operation:a", mapping=left)
    assert parts.engine.send("a", INGEST, {"model": "m"})
    assert take(parts).details == {"model": "m"}


def test_a_dead_workers_job_is_spared_once_however_seldom_others_look(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    take(parts)
    found = []
    for _ in range(2):
        now, _ = parts.cache.redis.time()
        parts.cache.redis.set("rightrank:seen", now - 10)
        parts.cache.redis.zadd("rightrank:leases", {"a": now - 1})
        found.append(parts.engine.take(QUEUES, rest=0))
    assert found[0] is None and found[1] is not None and found[1].deaths == 1


def test_one_that_has_ended_starts_over_with_nothing_of_its_past(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {"model": "m"})
    first = take(parts)
    parts.engine.fail(first, GONE)
    assert parts.engine.send("a", INGEST, {"model": "m"})
    operation = state(parts, "a")
    assert (operation.state, operation.error, operation.progress["phase"]) == ("queued", None, "queued")
    assert parts.engine.beat(first) == "lost"
    assert take(parts).tries == 1


def test_an_operation_has_an_error_or_a_result_and_never_both(parts: Parts) -> None:
    for id in ("good", "bad", "new"):
        parts.engine.send(id, INGEST, {"model": "m"})
    parts.engine.finish(take(parts), {"model": "m"})
    parts.engine.fail(take(parts), GONE)
    found = {id: state(parts, id).to_json() for id in ("good", "bad", "new")}
    assert found["good"]["done"] and "error" not in found["good"] and found["good"]["result"] == {"model": "m"}
    assert found["bad"]["done"] and "result" not in found["bad"] and found["bad"]["error"]["detail"] == "Gone."
    assert not found["new"]["done"] and not {"error", "result"} & set(found["new"])


@pytest.mark.parametrize("begun", [False, True])
def test_cancelling_ends_at_once(parts: Parts, begun: bool) -> None:
    parts.engine.send("a", INGEST, {})
    attempt = take(parts) if begun else None
    assert parts.engine.cancel("a", CANCELLED)
    assert state(parts, "a").state == "cancelled" and nothing_left(parts)
    assert not parts.engine.cancel("a", GONE)
    if attempt:
        assert parts.engine.beat(attempt) == "cancelled"
        assert not parts.engine.finish(attempt, {})
    assert parts.engine.take(QUEUES, rest=0) is None


def test_what_was_cancelled_and_sent_again_is_not_the_old_attempts(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    old = take(parts)
    parts.engine.cancel("a", CANCELLED)
    assert parts.engine.send("a", INGEST, {})
    assert parts.engine.beat(old) == "lost" and not parts.engine.fail(old, GONE)
    assert take(parts).tries == 1


def test_what_has_ended_is_not_cancelled(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    parts.engine.finish(take(parts), {})
    assert not parts.engine.cancel("a", CANCELLED) and not parts.engine.cancel("unknown", CANCELLED)
    assert state(parts, "a").state == "done" and parts.engine.get("unknown") is None


def test_an_error_that_may_pass_pauses_the_job_and_counts(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    assert parts.engine.give_back(take(parts), pause=0.2)
    assert state(parts, "a").state == "queued" and "again" in state(parts, "a").progress["phase"]
    assert parts.engine.take(QUEUES, rest=0) is None
    assert not parts.engine.send("a", INGEST, {})
    time.sleep(0.25)
    assert take(parts).tries == 2


def test_a_worker_that_was_stopped_costs_no_try(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    for _ in range(4):
        attempt = take(parts)
        assert attempt.tries == 1
        parts.engine.give_back(attempt)


def test_what_was_saved_starts_the_count_over(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEASE_SECONDS", 0.0)
    parts.engine.send("a", INGEST, {})
    take(parts)
    attempt = take(parts)
    assert (attempt.tries, attempt.deaths) == (2, 1)
    parts.engine.saved(attempt)
    attempt = take(parts)
    assert (attempt.tries, attempt.deaths) == (1, 1)


def test_what_was_given_up_is_not_begun_again_at_once_unless_somebody_insists(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up() -> None:
        parts.engine.fail(take(parts), describe(Problem("gave-up", "It has ended.")), gave_up=True)

    parts.engine.send("a", WAITING, {})
    give_up()
    assert not parts.engine.send("a", WAITING, {}) and not parts.engine.send("a", BACKGROUND, {})
    assert parts.engine.send("a", WAITING, {}, insist=True)
    give_up()
    assert parts.engine.send("a", INGEST, {})
    give_up()
    monkeypatch.setattr(engine, "GIVEN_UP_SECONDS", 0.0)
    assert parts.engine.send("a", WAITING, {})


def test_a_redis_that_forgot_what_runs_is_told_by_who_runs_it(parts: Parts) -> None:
    parts.engine.send("ingest-x", INGEST, {"model": "m"})
    attempt = take(parts)
    parts.cache.redis.flushdb()
    assert parts.engine.beat(attempt) == "ours"
    assert (state(parts, "ingest-x").state, state(parts, "ingest-x").details) == ("running", {"model": "m"})
    assert not parts.engine.send("ingest-x", INGEST, {"model": "m"})
    assert parts.engine.finish(attempt, {}) and nothing_left(parts)


def test_a_queue_that_lost_what_is_said_to_wait_in_it_has_it_again_when_it_is_asked_for(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    parts.cache.redis.delete("rightrank:queue:ingest")
    assert not parts.engine.send("a", INGEST, {})
    take(parts)
    parts.cache.redis.delete("rightrank:leases")
    assert not parts.engine.send("a", INGEST, {})
    assert take(parts).tries == 2


def test_what_a_queue_holds_and_nobody_knows_is_passed_over(parts: Parts) -> None:
    for id in ("a", "b"):
        parts.engine.send(id, INGEST, {})
    parts.cache.redis.delete("rightrank:operation:a")
    assert take(parts).operation == "b" and parts.engine.length(INGEST) == 0


def test_operations_under_way_are_counted_by_owner(parts: Parts) -> None:
    for id, owner in (("a", "ann"), ("b", "ann"), ("c", "bob")):
        parts.engine.send(id, INGEST, {}, owner)
    parts.engine.finish(take(parts), {})
    assert (parts.engine.under_way("ann"), parts.engine.under_way("bob"), parts.engine.under_way("eve")) == (1, 1, 0)


def test_what_has_ended_does_not_stay_for_ever_and_what_has_not_does(parts: Parts) -> None:
    parts.engine.send("a", INGEST, {})
    assert parts.cache.redis.ttl("rightrank:operation:a") == -1
    parts.engine.finish(take(parts), {})
    assert 0 < parts.cache.redis.ttl("rightrank:operation:a") <= engine.KEEP_SECONDS


def test_numbers_are_redis_clock_and_machines_clocks_may_differ(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)
    parts.engine.send("a", INGEST, {})
    assert int(take(parts).number) > 1_500_000_000_000_000


def test_an_engine_is_made_without_asking_redis(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1"})
    assert isinstance(Parts.of(away).engine, Engine)


def test_what_has_not_ended_is_listed_what_runs_first(parts: Parts) -> None:
    for queue, id in ((BACKGROUND, "ingest-b"), (WAITING, "ingest-w"), (INGEST, "ingest-i")):
        parts.engine.send(id, queue, {})
    assert [each.id for each in parts.engine.unfinished(9)] == ["ingest-w", "ingest-i", "ingest-b"]
    first = take(parts, BACKGROUND)
    assert [each.id for each in parts.engine.unfinished(9)] == ["ingest-b", "ingest-w", "ingest-i"]
    assert [each.id for each in parts.engine.unfinished(2)] == ["ingest-b", "ingest-w"]
    assert parts.engine.give_back(first, pause=60)
    assert [each.id for each in parts.engine.unfinished(9)] == ["ingest-w", "ingest-i", "ingest-b"]
    parts.engine.cancel("ingest-w", CANCELLED)
    assert [each.id for each in parts.engine.unfinished(9)] == ["ingest-i", "ingest-b"]
