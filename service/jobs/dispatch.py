"""The parts of the service put together once per process, and what sends work from one to another."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from redis.exceptions import RedisError

from rightrank.models.plan.planner import COMMON, Plan
from rightrank.service.jobs.operations import Operation, Operations, cut_id, ingest_id
from rightrank.service.jobs.queues import BACKGROUND, INGEST, WAITING, Jobs
from rightrank.service.problems import Problem, describe
from rightrank.service.registry.cache import Cache
from rightrank.service.registry.catalogue import Catalogue, Model, manifest_key, upload_key
from rightrank.service.registry.store import Store
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")

OPERATION = re.compile(r"(ingest|cut)-(?P<model>m[0-9a-f]{24})(-(?P<plan>[0-9a-f]{32}))?")


@dataclass(frozen=True)
class Parts:
    """The store, the cache and what stands on them."""

    settings: Settings
    store: Store
    cache: Cache
    catalogue: Catalogue
    operations: Operations
    jobs: Jobs

    @staticmethod
    def of(settings: Settings, patient: bool = False) -> Parts:
        """`patient`: for a worker, which would rather wait for the store and the cache than give a job up."""
        store, cache = Store(settings, patient), Cache(settings, patient)
        return Parts(settings, store, cache, Catalogue(settings, store, cache), Operations(cache), Jobs(settings))

    def ingest(self, id: str, owner: str = "") -> str:
        """Makes sure that an uploaded model is being ingested; the operation."""
        operation = ingest_id(id)
        if self.operations.claim(operation, INGEST, {"model": id}, owner):
            self.jobs.send(INGEST, operation)
        return operation

    def cut(self, id: str, plan: Plan, queue: str = WAITING, owner: str = "") -> str:
        """Makes sure that a plan is being cut; the operation."""
        operation = cut_id(id, plan.digest)
        if self.operations.claim(operation, queue, {"model": id, "plan": plan.to_json()}, owner):
            self.jobs.send(queue, operation)
        return operation

    def measure_ahead(self, model: Model) -> None:
        """Has the budgets that its publisher named, or the common ones, measured while nobody waits for them."""
        if not model.manifest["evaluation"]:
            return
        for budget in model.planner.possible(model.manifest["options"].get("budgets", COMMON)):
            plan = model.planner.plan(budget=budget)
            if self.catalogue.record(model.id, plan.digest) is None:
                self.cut(model.id, plan, BACKGROUND)

    def operation(self, id: str) -> Operation:
        """An operation, from what the store says where Redis has lost it. Raises `Problem`."""
        found = self.operations.get(id)
        if found is None:
            found = self._remembered(id)
        elif found.lost:
            self._resume(found)
        if found is None:
            raise Problem("operation-not-found", f"There is no operation {id[:100]!r}.")
        return found

    def cancel(self, id: str) -> Operation:
        """Asks an operation to stop. Raises `Problem`."""
        operation = self.operation(id)
        model = operation.details["model"]
        # The lock keeps the same model, uploaded again just now, from being discarded with a job under way.
        with self.cache.lock(f"model:{model}"):
            at_once = self.operations.cancel(id, describe(Problem("cancelled", "The operation was cancelled.")))
            if at_once and id.startswith("ingest-"):
                self.catalogue.discard(model)
        return self.operation(id)

    def recover(self, finished: bool = True) -> None:
        """Takes up what a lost Redis or a killed process left undone, and removes what nothing refers to; of `finished`
        models what was to be measured."""
        for id in self.catalogue.ids():
            try:
                if finished or not self.catalogue.exists(id):
                    self._recover(id)
            except RedisError:
                raise
            except Exception:
                log.exception("the model %s could not be taken up", id)

    def _recover(self, id: str) -> None:
        if self.catalogue.exists(id):
            self.catalogue.publish_wanted(id)
            self.measure_ahead(self.catalogue.open(id))
        elif self.store.exists(upload_key(id)):
            self.ingest(id)
        elif not self.catalogue.exists(id):
            self.catalogue.discard(id)

    def _resume(self, operation: Operation) -> None:
        """Sends a lost operation's job again."""
        queue = INGEST if operation.id.startswith("ingest-") else WAITING
        if operation.state == "queued" and self.jobs.length(queue):
            return  # its job may be among those that wait
        if self.operations.claim(operation.id, queue, operation.details):
            self.jobs.send(queue, operation.id)

    def _remembered(self, id: str) -> Operation | None:
        match = OPERATION.fullmatch(id)
        if match is None:
            return None
        model, plan = match["model"], match["plan"]
        if plan is None:
            if self.store.exists(manifest_key(model)):
                return _ended(id, {"model": model}, {"model": model, "url": f"/models/{model}"})
            if self.store.exists(upload_key(model)):
                self.ingest(model)
                return self.operations.get(id)
        elif (record := self.catalogue.record(model, plan)) is not None:
            return _ended(id, {"model": model}, cut_result(model, record.plan, record.sha256, record.size))
        return None


def cut_result(id: str, plan: Plan, sha256: str, size: int) -> dict[str, object]:
    """What a finished cut's operation says."""
    return {
        "model": id,
        "plan": plan.digest,
        "sha256": sha256,
        "size": size,
        "url": f"/models/{id}?max_params={plan.params}",
    }


def _ended(id: str, details: dict[str, str], result: dict[str, object]) -> Operation:
    return Operation(id, "done", details, {"phase": "done", "completed": 1, "total": 1, "unit": ""}, result=result)
