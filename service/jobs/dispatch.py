"""The parts of the service put together once per process, and what sends work from one to another."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rightrank.models.emit.format import FIRST
from rightrank.models.errors import FormatError
from rightrank.models.plan.planner import Plan
from rightrank.service.jobs.engine import BACKGROUND, INGEST, SEPARATE, WAITING, Engine, queue_of
from rightrank.service.jobs.operations import ID, IDLE, Operation, cut_id, ingest_id, kind_of
from rightrank.service.problems import Problem, describe
from rightrank.service.registry.cache import Cache
from rightrank.service.registry.catalogue import Catalogue, no_model
from rightrank.service.registry.layout import failure_key, refusal_key, upload_key
from rightrank.service.registry.model import Model
from rightrank.service.registry.store import Store
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")

CANCELLED = describe(Problem("cancelled", "The operation was cancelled."))
# How often uploads are looked for that nobody works on, though Redis has lost nothing.
SEARCH_SECONDS = 600.0


@dataclass(frozen=True)
class Parts:
    """The store, the cache and what stands on them."""

    settings: Settings
    store: Store
    cache: Cache
    catalogue: Catalogue
    engine: Engine

    @staticmethod
    def of(settings: Settings, patient: bool = False) -> Parts:
        """`patient`: for a worker, which would rather wait for the store and the cache than give a job up."""
        store, cache = Store(settings, patient), Cache(settings, patient)
        return Parts(settings, store, cache, Catalogue(settings, store, cache), Engine(settings, cache))

    def ingest(self, id: str, owner: str = "") -> str:
        """Makes sure that an uploaded model is being ingested; the operation."""
        self.engine.send(ingest_id(id), INGEST, {"model": id}, owner)
        return ingest_id(id)

    def cut(self, id: str, plan: Plan, queue: str = WAITING, owner: str = "") -> str:
        """Makes sure that a plan is being cut; the operation."""
        operation, details = cut_id(id, plan.digest), {"model": id, "plan": plan.to_json()}
        self.engine.send(operation, queue_of(operation, details, queue), details, owner)
        return operation

    def check_served(self, format: str) -> None:
        """Raises `Problem` where files of a format are made by workers of their own, and there is none."""
        if format in SEPARATE and not self.engine.served(format):
            raise Problem(
                "format-missing",
                f"No worker here makes {format} files.",
                f"The operator starts one where rightrank[{format}] is installed: rightrank worker --queues {format}.",
            )

    def measure_ahead(self, model: Model) -> None:
        """Has the budgets that its publisher named, or the common ones, measured while nobody waits for them."""
        if not model.manifest["evaluation"]:
            return
        options = model.manifest["options"]
        for format in (FIRST.format, *options.get("formats", ())):
            try:
                self.check_served(format)
                planner = model.planner_in(format=format)
            except (Problem, FormatError) as error:
                log.warning("sizes of %s as %s are not measured ahead: %s", model.id, format, error)
                continue
            for budget in planner.possible(model.budgets):
                plan = planner.plan(budget=budget)
                if self.catalogue.record(model.id, plan.digest) is None:
                    self.cut(model.id, plan, BACKGROUND)

    def operation(self, id: str) -> Operation:
        """An operation, from what the store says where Redis has lost it. Raises `Problem`."""
        found = self.engine.get(id) or self._remembered(id)
        if found is None:
            raise Problem("operation-not-found", f"There is no operation {id[:100]!r}.")
        return found

    def cancel(self, id: str) -> Operation:
        """Ends an operation, and an upload with its ingest. What has ended stays as it is. Raises `Problem`."""
        operation = self.operation(id)
        if kind_of(id) == "cut":
            self.engine.cancel(id, CANCELLED)
        elif not operation.done:
            with self.catalogue.changing(operation.details["model"]):
                self._cancel_ingest(operation.details["model"])
        return self.operation(id)

    def remove(self, id: str, by: str = "", purge: bool = False) -> float | None:
        """Removes a model; until when `restore` brings it back (seconds since 1970), None where it is gone for good: by
        `purge`, and of an upload whose ingest this ends. Raises `Problem` where there is none."""
        with self.catalogue.changing(id):
            if not self.catalogue.whole(id):
                there = self.store.exists(upload_key(id))
                if not self._cancel_ingest(id) and not there:
                    raise no_model(id)
                return None
            if purge:
                self.catalogue.discard(id)
                self.store.delete(refusal_key(id))
                # Its ingest may be at its last steps; the same upload again is not to wait for that one.
                self.engine.cancel(ingest_id(id), CANCELLED)
                return None
            if self.catalogue.deleted(id) is None:
                self.catalogue.hide(id, by)
            return self.catalogue.deleted(id)

    def restore(self, id: str) -> None:
        """Has a deleted model back. Raises `Problem` where it is forgotten, or was never there."""
        with self.catalogue.changing(id):
            if not self.catalogue.whole(id):
                raise no_model(id)
            self.catalogue.unhide(id)

    def _cancel_ingest(self, model: str) -> bool:
        # The upload goes first: one that is still there when its operation has ended would be taken up again.
        if not self.catalogue.whole(model):
            self.catalogue.discard(model)
        return self.engine.cancel(ingest_id(model), CANCELLED)

    def retry(self, id: str) -> Operation:
        """Has a failed operation tried again whose upload, or model, is still there. Raises `Problem`."""
        operation = self.operation(id)
        if not operation.done:
            return operation
        if operation.state != "failed":
            raise Problem("not-failed", f"The operation {id} has not failed: it is {operation.state}.")
        model = operation.details["model"]
        if kind_of(id) == "cut":
            self.catalogue.open(model)
            self.engine.send(id, queue_of(id, operation.details), operation.details, operation.owner, insist=True)
            return self.operation(id)
        with self.catalogue.changing(model):
            upload = self.store.read_json(upload_key(model))
            if upload is None:
                raise Problem("model-not-found", f"The upload of model {model} is gone.", "Upload it again.")
            self.store.delete(failure_key(model))
            self.ingest(model, upload.get("owner", ""))
        return self.operation(id)

    def recover(self, finished: bool = True) -> None:
        """Takes up what a lost Redis or a killed process left undone, and removes what nothing refers to; of `finished`
        models what was to be measured."""
        if finished:
            self.catalogue.forget_refusals()
        for id in self.catalogue.ids():
            try:
                if finished or not self.catalogue.exists(id):
                    self._recover(id)
            except (RedisConnectionError, RedisTimeoutError):
                raise
            except Exception:
                log.exception("the model %s could not be taken up", id)

    def _recover(self, id: str) -> None:
        until = self.catalogue.deleted(id)
        if until is None and self.catalogue.whole(id):
            self.catalogue.publish_wanted(id)
            self.measure_ahead(self.catalogue.open(id))
            return
        self.take_up(id)

    def take_up(self, id: str) -> None:
        """Has an upload ingested that nobody works on, and removes what is left of one that was deleted."""
        with self.catalogue.changing(id):
            if self.catalogue.whole(id):
                until = self.catalogue.deleted(id)
                if until is not None and time.time() > until:
                    self.catalogue.discard(id)
                return
            if self.catalogue.failure(id) is not None:
                return
            upload = self.store.read_json(upload_key(id))
            if upload is not None:
                self.ingest(id, upload.get("owner", ""))
            elif not self.catalogue.damaged(id):
                self.catalogue.discard(id)

    def _named(self, model: str, plan: Plan) -> Mapping[str, str]:
        """What a query has to name to get files like a plan's; nothing where there is no model."""
        try:
            return self.catalogue.open(model).named(plan)
        except (Problem, FormatError):
            return {}

    def _remembered(self, id: str) -> Operation | None:
        match = ID.fullmatch(id)
        if match is None:
            return None
        model, plan = match["model"], match["plan"]
        if plan is None:
            if self.catalogue.whole(model):
                return _ended(id, {"model": model}, {"model": model, "url": f"/models/{model}"})
            if (failure := self.catalogue.failure(model)) is not None:
                return Operation(id, "failed", {"model": model}, IDLE, error=failure)
            if self.store.exists(upload_key(model)):
                self.ingest(model)
                return self.engine.get(id)
            if (refusal := self.catalogue.refusal(model)) is not None:
                error, owner = refusal["error"], refusal["owner"]
                return Operation(id, "failed", {"model": model}, IDLE, error=error, owner=owner)
        elif (record := self.catalogue.record(model, plan)) is not None:
            result = cut_result(model, record.plan, record.sha256, record.size, self._named(model, record.plan))
            return _ended(id, {"model": model}, result)
        elif self.catalogue.exists(model) and self.engine.length(WAITING) < self.settings.queue_limit:
            opened = self.catalogue.open(model)
            wanted = opened.find(plan)
            if wanted is not None:
                return self.engine.get(self.cut(opened.id, wanted))
        return None


def cut_result(id: str, plan: Plan, sha256: str, size: int, named: Mapping[str, str]) -> dict[str, object]:
    """What a finished cut's operation says; `named` is what a query has to name besides (see `Model.named`)."""
    query = urlencode({"max_params": plan.params, **named})
    return {
        "model": id,
        "plan": plan.digest,
        "sha256": sha256,
        "size": size,
        "url": f"/models/{id}?{query}",
    }


def _ended(id: str, details: dict[str, str], result: dict[str, object]) -> Operation:
    return Operation(id, "done", details, {"phase": "done", "completed": 1, "total": 1, "unit": ""}, result=result)
