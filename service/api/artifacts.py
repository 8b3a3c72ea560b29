"""`GET /models/{reference}?budget=…`: from what is asked to the bytes of an artifact."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from rightrank.models.emit.formats import FORMATS, format_of
from rightrank.models.errors import BudgetError
from rightrank.models.plan.planner import Plan
from rightrank.service.api.common import AskedModel, admit_job
from rightrank.service.api.conditions import matches, span
from rightrank.service.api.keys import Key
from rightrank.service.api.metrics import Tally
from rightrank.service.api.schemas import Description, Responses, described
from rightrank.service.api.schemas import Operation as Document
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import WAITING
from rightrank.service.jobs.operations import Operation, cut_id
from rightrank.service.problems import Problem, response
from rightrank.service.registry.cache import Evicted
from rightrank.service.registry.catalogue import ID, Model, Recent, Record, artifact_key
from rightrank.service.registry.pieces import Damaged

LONGEST_WAIT = 120.0
PREFER = re.compile(r'\bwait\s*=\s*"?(\d{1,6})')
FIRST_LOOK, LAST_LOOK = 0.02, 0.25
# How often a finished artifact may be gone again before its reader gets to it.
PATIENCE = 3
DAY = 24 * 3600


# See `facts`.
HEADERS = {
    "ETag": "The file's SHA-256, quoted.",
    "Repr-Digest": "The same as RFC 9530 writes it.",
    "RightRank-Model": "The model's id.",
    "RightRank-Plan": "The identity of the ranks.",
    "RightRank-Method": "original, reduced, cut, cut+bn, refit, refit+bn, tuned or polished.",
    "RightRank-Params": "The file's parameters.",
    "RightRank-Macs": "Its multiply-accumulates for one sample.",
    "RightRank-Budget": "The share of the original that was reached, of what `of` says.",
    "RightRank-Accuracy": "Measured on this very file, or `unmeasured`.",
    "RightRank-Accuracy-Samples": "On how many samples.",
    "RightRank-Accuracy-Interval": "95 %: low, high.",
    "RightRank-Metric": "What accuracy is: top1, top5, mse or agreement.",
    "RightRank-Baseline-Accuracy": "The original's.",
    "RightRank-Cache": "hit, or miss where the file is made for this request (with HEAD: would be).",
}
_FILE = {versions[-1].media_type: {"schema": {"type": "string", "format": "binary"}} for versions in FORMATS.values()}
_HEADERS = described(HEADERS)
_FOLLOW = described({"Location": "The operation.", "Retry-After": "Seconds."})
_PART = described({"Content-Range": "Which part."})
ANSWERS: Responses = {
    200: {
        "model": Description,
        "description": "The description (no parameter), or the TorchScript file.",
        "content": _FILE,
        "headers": _HEADERS,
    },
    202: {"model": Document, "description": "It is being cut and measured: the operation.", "headers": _FOLLOW},
    206: {"description": "The part of the file that was asked for.", "content": _FILE, "headers": _HEADERS | _PART},
    304: {"description": "The client has it already.", "headers": _HEADERS},
}
CONDITIONS = {
    "parameters": [
        {"in": "header", "name": name, "schema": {"type": "string"}, "description": meaning}
        for name, meaning in {
            "Prefer": "`wait=N`: so many seconds until a 202, at most 120; `respond-async`: none.",
            "If-None-Match": "ETags that the client has.",
            "Range": "One range of bytes.",
            "If-Range": "The ETag that the range is of.",
        }.items()
    ]
}


@dataclass(frozen=True, slots=True)
class Ask:
    """How large the artifact may be: at most one of these."""

    budget: float | None = None
    of: Literal["params", "macs"] = "params"
    max_bytes: int | None = None
    max_params: int | None = None
    max_macs: int | None = None
    min_accuracy: float | None = None


# Plans follow from the model and the limit alone.
PLANS: Recent[tuple[str, str, Ask], Plan] = Recent(4096)
KNOWN = frozenset(Ask.__slots__)


async def ask_of(
    request: Request,
    budget: Annotated[
        float | None, Query(gt=0, le=1, allow_inf_nan=False, description="A fraction of the original's size.")
    ] = None,
    of: Annotated[
        Literal["params", "macs"] | None,
        Query(description="What `budget` is a fraction of: by default the parameters, and the file."),
    ] = None,
    max_bytes: Annotated[int | None, Query(gt=0, description="The largest file.")] = None,
    max_params: Annotated[int | None, Query(gt=0, description="The most parameters.")] = None,
    max_macs: Annotated[int | None, Query(gt=0, description="The most multiply-accumulates per sample.")] = None,
    min_accuracy: Annotated[
        float | None,
        Query(ge=0, le=1, allow_inf_nan=False, description="The smallest measured cut that reaches this."),
    ] = None,
) -> Ask | None:
    """What the query asks for, or None where it asks for no artifact. Raises `Problem`."""
    given = [name for name, _ in request.query_params.multi_items()]
    if unknown := sorted(set(given) - KNOWN):
        raise Problem("invalid-request", f"There is no parameter {unknown[0][:100]!r}.", f"Known: {', '.join(KNOWN)}.")
    limits = [name for name in given if name != "of"]
    if len(limits) > 1 or len(given) != len(set(given)):
        raise Problem("invalid-request", f"More than one limit is given: {', '.join(given)}.", "Give one of them.")
    if of is not None and budget is None:
        raise Problem("invalid-request", "`of` says what a budget is a fraction of, and there is none.")
    if not limits:
        return None
    return Ask(budget, of or "params", max_bytes, max_params, max_macs, min_accuracy)


class Service:
    """Answers one request for an artifact."""

    def __init__(self, parts: Parts, tally: Tally, request: Request, key: Key | None) -> None:
        self.parts = parts
        self.tally = tally
        self.request = request
        self.key = key
        self.private = request.app.state.gate.guarded

    async def answer(self, asked: AskedModel, ask: Ask) -> Response:
        """The artifact, 304, 202 with the operation to follow, or a problem."""
        reference = asked.reference
        model, plan = await run_in_threadpool(self._plan, asked, ask)
        headers = {"Cache-Control": self._cache_control(reference, ask)}
        deadline = time.monotonic() + self._patience()
        for attempt in range(PATIENCE):
            record = await run_in_threadpool(self.parts.catalogue.record, model.id, plan.digest)
            if record is not None:
                headers |= facts(reference, model, record, ask)
                if matches(self.request.headers.get("if-none-match"), headers["ETag"]):
                    return Response(status_code=304, headers=headers)
                if reply := await run_in_threadpool(self._reply, model, record, headers, attempt == 0):
                    return reply
            operation = await self._await(model, plan, deadline)
            if operation is not None and not operation.done:
                return accepted(operation)
            if operation is not None and operation.error is not None:
                return response(operation.error)
        raise Problem(
            "unavailable",
            "The artifact was dropped from the cache before it could be sent.",
            "Try again; the operator can raise RIGHTRANK_CACHE_BYTES.",
            headers={"Retry-After": "2"},
        )

    def _plan(self, asked: AskedModel, ask: Ask) -> tuple[Model, Plan]:
        model = self.parts.catalogue.open(asked.id())
        return model, choose(self.parts, model, ask)

    def _reply(self, model: Model, record: Record, headers: dict[str, str], first: bool) -> Response | None:
        """The answer as far as it can be given from what is there; None where the bytes are needed and are not."""
        asked, size = self.request.headers, record.size
        part = None
        if self.request.method == "GET":  # of anything else a range means nothing (RFC 9110, 14.2)
            part = span(asked.get("range"), asked.get("if-range"), headers["ETag"], size)
        if part is not None:
            headers = headers | {"Content-Range": f"bytes {part[0]}-{part[1] - 1}/{size}"}
        start, stop = part or (0, size)
        body = self._body(model, record, start, stop)
        headers = headers | {
            "Content-Length": str(stop - start),
            "Content-Type": format_of(record.plan.output).media_type,
            "RightRank-Cache": "hit" if first and body is not None else "miss",
        }
        if self.request.method == "HEAD":
            return Response(headers=headers)
        if body is None:
            return None
        self.tally.add("artifacts", cache=headers["RightRank-Cache"])
        self.tally.add("artifact_bytes", stop - start)
        return StreamingResponse(body, status_code=206 if part else 200, headers=headers)

    def _body(self, model: Model, record: Record, start: int, stop: int) -> Iterator[bytes] | None:
        """The bytes, the first of them already in hand; None where they are not there."""
        try:
            if record.stored:
                pieces = self.parts.store.stream(artifact_key(model.id, record.plan), start, stop, record.sha256)
            elif (whole := self.parts.cache.whole(model.id, record.plan.digest, record.sha256)) is not None:
                pieces = iter([whole[start:stop]])
            else:
                cached = self.parts.cache.find(model.id, record.plan.digest)
                if cached is None or cached.sha256 != record.sha256 or cached.size != record.size:
                    raise Evicted
                pieces = self.parts.cache.read(cached, start, stop)
            return itertools.chain([next(pieces)], pieces)
        except (Damaged, Evicted, FileNotFoundError):
            # It may have been cut anew, or be kept elsewhere by now.
            self.parts.catalogue.forget_record(model.id, record.plan.digest)
            return None

    async def _await(self, model: Model, plan: Plan, deadline: float) -> Operation | None:
        """Has the plan cut; its operation when that has ended, or as it is at the deadline."""
        id = await run_in_threadpool(self._start, model, plan)
        pause = FIRST_LOOK
        while True:
            operation = await run_in_threadpool(self.parts.engine.get, id)
            if operation is None or operation.done or time.monotonic() >= deadline:
                return operation
            await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            pause = min(pause * 1.3, LAST_LOOK)

    def _start(self, model: Model, plan: Plan) -> str:
        running = self.parts.engine.get(cut_id(model.id, plan.digest))
        if running is None or running.done:
            admit_job(self.parts, WAITING, self.key)
        return self.parts.cut(model.id, plan, WAITING, self.key.name if self.key else "")

    def _patience(self) -> float:
        """Seconds that the client is ready to wait (RFC 7240)."""
        prefer = ",".join(self.request.headers.getlist("prefer"))
        match = PREFER.search(prefer)
        if match:
            return min(float(match[1]), LONGEST_WAIT)
        return 0.0 if "respond-async" in prefer else self.parts.settings.wait

    def _cache_control(self, reference: str, ask: Ask) -> str:
        """A name moves on and more gets measured, so those answers are checked each time; others never change."""
        who = "private" if self.private else "public"
        fixed = (ID.fullmatch(reference) or "@" in reference) and ask.min_accuracy is None
        return f"{who}, max-age={DAY}" if fixed else f"{who}, no-cache"


def choose(parts: Parts, model: Model, ask: Ask) -> Plan:
    """The plan for what is asked. Raises `BudgetError` where there is none."""
    if ask.min_accuracy is not None:
        return smallest_accurate(parts.catalogue.records(model.id), ask.min_accuracy)
    plan = PLANS.get((model.id, model.tag, ask), lambda: fresh(model, ask))
    assert plan is not None
    return plan


def fresh(model: Model, ask: Ask) -> Plan:
    """The plan for a limit, found anew. Raises `BudgetError` where there is none."""
    if ask.budget is not None:
        return model.planner.plan(budget=ask.budget, of=ask.of)
    return model.planner.plan(max_bytes=ask.max_bytes, max_params=ask.max_params, max_macs=ask.max_macs)


def smallest_accurate(records: list[Record], least: float) -> Plan:
    """The smallest cut whose measured accuracy is at least `least`. Raises `BudgetError`."""
    measured = [(r.measurement["value"], r.plan) for r in records if r.measurement and r.measurement["metric"] != "mse"]
    if not measured:
        raise BudgetError(
            "No accuracy of this model has been measured.",
            "Publish it with evaluation data whose targets are classes, or ask for a budget.",
        )
    for accuracy, plan in measured:
        if accuracy >= least:
            return plan
    best = max(accuracy for accuracy, _ in measured)
    raise BudgetError(
        f"No measured cut of this model reaches an accuracy of {least:g}.", f"The best has {best:g}.", nearest=best
    )


def facts(reference: str, model: Model, record: Record, ask: Ask) -> dict[str, str]:
    """The headers that say what the artifact is."""
    manifest, plan, measurement = model.manifest, record.plan, record.measurement
    baseline = manifest["baseline"]
    reached = plan.macs / manifest["macs"] if ask.of == "macs" and manifest["macs"] else plan.budget
    suffix = format_of(plan.output).suffix
    digest = base64.b64encode(bytes.fromhex(record.sha256)).decode()
    headers = {
        "ETag": f'"{record.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{reference.replace("@", "-")}-{plan.digest[:8]}{suffix}"',
        "RightRank-Model": model.id,
        "RightRank-Plan": plan.digest,
        "RightRank-Method": record.method,
        "RightRank-Params": str(plan.params),
        "RightRank-Macs": str(plan.macs),
        "RightRank-Budget": repr(float(reached)),
        "RightRank-Accuracy": repr(measurement["value"]) if measurement else "unmeasured",
    }
    if measurement:
        headers["RightRank-Accuracy-Samples"] = str(measurement["n"])
        headers["RightRank-Metric"] = measurement["metric"]
        if measurement["low"] is not None:
            headers["RightRank-Accuracy-Interval"] = f"{measurement['low']!r}, {measurement['high']!r}"
    if baseline and baseline["value"] is not None:
        headers["RightRank-Baseline-Accuracy"] = repr(baseline["value"])
    return headers


def accepted(operation: Operation, extra: dict[str, Any] | None = None) -> Response:
    """202: the work goes on, and the operation tells how far it is."""
    return JSONResponse(
        {**operation.to_json(), **(extra or {})},
        status_code=202,
        headers={"Location": f"/operations/{operation.id}", "Retry-After": "1", "Cache-Control": "no-store"},
    )
