from __future__ import annotations

import pytest

from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import BACKGROUND, INGEST, WAITING
from rightrank.service.jobs.operations import cut_id, ingest_id
from rightrank.service.problems import Problem, describe
from rightrank.service.registry.layout import manifest_key, record_key, upload_key, wanted_key
from rightrank.service.settings import Settings

MODEL = "m" + "a" * 24


def test_an_upload_without_a_manifest_is_taken_up_after_everything_was_lost(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    parts.recover()
    assert parts.engine.length(INGEST) == 1
    parts.recover()
    assert parts.engine.length(INGEST) == 1


def test_asking_for_a_lost_operation_takes_it_up(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    assert not parts.operation(ingest_id(MODEL)).done
    assert parts.engine.length(INGEST) == 1


def test_a_finished_models_operation_is_remembered_without_redis(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    operation = parts.operation(ingest_id(id))
    assert operation.done and operation.error is None
    assert operation.result is not None and operation.result["model"] == id


def test_a_known_cuts_operation_is_remembered_without_redis(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    record = parts.catalogue.records(id)[0]
    operation = parts.operation(cut_id(id, record.plan.digest))
    assert operation.done and operation.result is not None and operation.result["sha256"] == record.sha256


@pytest.mark.parametrize(
    "id", ["", "ingest-", f"ingest-{MODEL}", "ingest-..", f"cut-{MODEL}-{'0' * 32}", "cut-../../x", "x", "x" * 5000]
)
def test_an_operation_that_never_was_is_not_found(parts: Parts, id: str) -> None:
    with pytest.raises(Problem) as caught:
        parts.operation(id)
    assert caught.value.kind == "operation-not-found"


def test_common_cuts_that_were_never_measured_are_queued_in_the_background(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    plan = parts.catalogue.open(id).planner.plan(budget=0.3)
    parts.recover()
    assert parts.engine.length(BACKGROUND) == 0
    parts.store.delete(record_key(id, plan.digest))
    parts.catalogue.forget(id)
    parts.recover()
    assert parts.engine.length(BACKGROUND) == 1


def test_a_name_that_was_still_wanted_is_published(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    parts.store.create(wanted_key(id, "other"), b"{}")
    parts.recover()
    assert parts.catalogue.resolve("other@1") == id


def test_what_a_half_deleted_model_left_is_removed(parts: Parts) -> None:
    parts.store.create(f"models/{MODEL}/artifacts/{'0' * 32}.pt", b"x")
    parts.recover()
    assert parts.store.keys("models") == []


def test_cancelling_a_queued_ingest_takes_the_upload_away(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    parts.store.create(f"checkpoints/{'1' * 64}", b"x")
    parts.ingest(MODEL)
    assert parts.cancel(ingest_id(MODEL)).state == "cancelled"
    assert parts.store.keys("") == []
    assert not parts.store.exists(manifest_key(MODEL))


def test_a_model_that_cannot_be_read_keeps_no_other_from_being_taken_up(parts: Parts) -> None:
    parts.store.create(manifest_key("m" + "0" * 24), b"not JSON")
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    parts.recover()
    assert parts.engine.length(INGEST) == 1


def test_uploads_alone_can_be_taken_up(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    parts.store.delete(record_key(id, parts.catalogue.open(id).planner.plan(budget=0.3).digest))
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64})
    Parts.of(stocked).recover(finished=False)
    assert (parts.engine.length(BACKGROUND), parts.engine.length(INGEST)) == (0, 1)


def test_cancelling_a_running_ingest_ends_it_at_once_and_the_same_files_can_come_again(parts: Parts) -> None:
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "old"})
    parts.ingest(MODEL)
    attempt = parts.engine.take((INGEST,), rest=0)
    assert attempt is not None
    assert parts.cancel(ingest_id(MODEL)).state == "cancelled"
    assert parts.store.keys("") == []
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "new"})
    parts.ingest(MODEL)
    assert parts.engine.beat(attempt) == "lost"
    assert not parts.engine.fail(attempt, {"type": "/problems/cancelled"})
    assert parts.operation(ingest_id(MODEL)).state == "queued" and parts.store.exists(upload_key(MODEL))


def test_a_cut_that_redis_has_forgotten_is_taken_up_by_whoever_asks_for_it(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    for of in ("params", "macs"):
        plan = parts.catalogue.open(id).planner.plan(budget=0.47, of=of)
        parts.cache.redis.flushdb()
        assert parts.operation(cut_id(id, plan.digest)).state == "queued"
        attempt = parts.engine.take((WAITING,), rest=0)
        assert attempt is not None and attempt.details["plan"] == plan.to_json()


def test_what_has_not_failed_is_not_tried_again(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    with pytest.raises(Problem) as caught:
        parts.retry(ingest_id(parts.catalogue.resolve("demo")))
    assert caught.value.kind == "not-failed"
    with pytest.raises(Problem) as caught:
        parts.retry(ingest_id(MODEL))
    assert caught.value.kind == "operation-not-found"


def test_a_cut_that_was_given_up_can_be_tried_again(stocked: Settings) -> None:
    parts = Parts.of(stocked)
    id = parts.catalogue.resolve("demo")
    plan = parts.catalogue.open(id).planner.plan(budget=0.47)
    operation = parts.cut(id, plan)
    attempt = parts.engine.take((WAITING,), rest=0)
    assert attempt is not None
    parts.engine.fail(attempt, describe(Problem("gave-up", "The disk is full.")), gave_up=True)
    parts.cut(id, plan)
    assert parts.operation(operation).state == "failed"
    assert parts.retry(operation).state == "queued"
    assert parts.retry(operation).state == "queued" and parts.engine.length(WAITING) == 1


def test_a_model_of_an_upload_that_was_deleted_meanwhile_is_none(parts: Parts) -> None:
    parts.store.create_json(manifest_key(MODEL), {"id": MODEL, "created": 1.0, "token": "old", "folder": "made/x"})
    parts.recover()
    assert parts.store.keys("") == []
    parts.store.create_json(manifest_key(MODEL), {"id": MODEL, "created": 1.0, "token": "old", "folder": "made/x"})
    parts.store.create_json(upload_key(MODEL), {"checkpoint": "1" * 64, "token": "new"})
    assert not parts.operation(ingest_id(MODEL)).done
    parts.recover()
    assert parts.engine.length(INGEST) == 1 and parts.store.exists(upload_key(MODEL))
