"""`GET /models/{reference}?budget=…`: from what is asked to the bytes of an artifact."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from rightrank.models.emit.formats import FORMATS, format_of
from rightrank.models.measure.metrics import METRICS
from rightrank.models.plan.planner import Plan
from rightrank.service import logs
from rightrank.service.api.ask import ready_first
from rightrank.service.api.choose import Ask, certified, choose, walked
from rightrank.service.api.common import AskedModel, admit_job
from rightrank.service.api.conditions import matches, span, unmet
from rightrank.service.api.keys import Key
from rightrank.service.api.metrics import Tally
from rightrank.service.api.prefer import preferences
from rightrank.service.api.refusals import answer
from rightrank.service.api.schemas import MODEL, Description, Responses, described, leads_to, problems
from rightrank.service.api.schemas import Operation as Document
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import BACKGROUND, WAITING, queue_for
from rightrank.service.jobs.operations import IDLE, Operation, cut_id
from rightrank.service.problems import Problem
from rightrank.service.registry.cache import Evicted
from rightrank.service.registry.layout import ID, artifact_key
from rightrank.service.registry.model import Model, Record, told
from rightrank.service.registry.pieces import Damaged
from rightrank.service.registry.reports import Report

LONGEST_WAIT = 120.0
FIRST_LOOK, LAST_LOOK = 0.02, 0.25
# How often a finished artifact may be gone again before its reader gets to it.
PATIENCE = 3
DAY = 24 * 3600
# Seconds. A request waits by itself for what is being made.
RETRY_AFTER = "1"


# See `facts`.
HEADERS = {
    "ETag": "The file's SHA-256, quoted.",
    "Repr-Digest": "The same as RFC 9530 writes it.",
    "RightRank-Model": "The model's id.",
    "RightRank-Plan": "The identity of the ranks.",
    "RightRank-Method": "original, reduced, rounded, cut, cut+bn, refit, refit+bn, tuned or polished.",
    "RightRank-Format": "Which runtime it is for.",
    "RightRank-Precision": "What its numbers are stored as.",
    "RightRank-Params": "The file's parameters.",
    "RightRank-Macs": "Its multiply-accumulates for one sample.",
    "RightRank-Budget": "The share of the original that was reached, of what `of` says.",
    "RightRank-Accuracy": "Measured on this very file, or `unmeasured`.",
    "RightRank-Accuracy-Samples": "On how many samples.",
    "RightRank-Accuracy-Interval": "95 %: low, high.",
    "RightRank-Metric": f"What accuracy is: {', '.join(METRICS)}.",
    "RightRank-Baseline-Accuracy": "The original's.",
    "RightRank-Cache": "hit, or miss where the file is made for this request (with HEAD: would be).",
}
_FILE = {versions[-1].media_type: {"schema": {"type": "string", "format": "binary"}} for versions in FORMATS.values()}
# Where there is something.
REPORTED = {
    "RightRank-Reported": "What the publisher measured of this very file, by metric, its numbers as strings: a "
    "dictionary (RFC 9651). No measurement of the service's.",
}
CERTIFIED = {
    "RightRank-Certified": "With `confidence`: by metric the least that the file has in truth, with which confidence, "
    "and on how many samples that was tested: a dictionary (RFC 9651), its numbers as strings.",
}
_HEADERS = described(HEADERS | REPORTED | CERTIFIED)
_READY = described(
    {
        "Vary": "`Accept`, where no `format` was named.",
        "RightRank-Ready": "With `ready=1`: `exact`, or `nearest` where what was asked for is yet being made.",
        "Link": "Of what is yet being made the operation, with the relation `status`.",
    }
)
_FOLLOW = described(
    {"Location": "The operation.", "Retry-After": "Seconds.", "Preference-Applied": "`respond-async` (RFC 7240)."}
)
_PART = described({"Content-Range": "Which part."})
ANSWERS: Responses = {
    200: {
        "model": Description,
        "description": "The description (no parameter), or the file.",
        "content": _FILE,
        "headers": _HEADERS | _READY,
        "links": leads_to("models_curve", "sizes_sizes", "models_importance", reference="$request.path.reference")
        | leads_to("models_fetch", "sizes_plan", reference="$request.path.reference", budget=0.5),
    },
    202: {
        "model": Document,
        "description": "It is being cut and measured, and the client preferred to know: the operation.",
        "headers": _FOLLOW,
        "links": leads_to(
            "operations_show", "operations_events", "operations_cancel", "operations_retry", id="$response.body#/id"
        ),
    },
    206: {"description": "The part of the file that was asked for.", "content": _FILE, "headers": _HEADERS | _PART},
    304: {"description": "The client has it already.", "headers": _HEADERS | _READY},
    **problems(
        *MODEL,
        "invalid-request",
        "budget-unreachable",
        "uncertified",
        "precision-unavailable",
        "format-unavailable",
        "format-missing",
        "not-ready",
        "precondition-failed",
        "range-unsatisfiable",
        "too-many-jobs",
        "queue-full",
        # Of a size whose making has failed, why.
        "cancelled",
        "worker-lost",
        "gave-up",
        "too-slow",
    ),
}
CONDITIONS = {
    "parameters": [
        {
            "in": "header",
            "name": name,
            "schema": {"type": "string", "examples": [example]},
            "description": meaning,
        }
        for name, example, meaning in (
            (
                "Prefer",
                "respond-async, wait=5",
                "`wait=N`: so many seconds until a 503, at most 120; `respond-async`: a 202 instead, at once or after "
                "`wait`.",
            ),
            ("If-Match", "*", "ETags that it must have; another is a 412."),
            ("If-None-Match", f'"{"0" * 64}"', "ETags that the client has."),
            ("Range", "bytes=0-99", "One range of bytes."),
            ("If-Range", f'"{"0" * 64}"', "The ETag that the range is of."),
        )
    ]
}


class Service:
    """Answers one request for an artifact."""

    def __init__(self, parts: Parts, tally: Tally, request: Request, key: Key | None) -> None:
        self.parts = parts
        self.tally = tally
        self.request = request
        self.key = key
        self.private = request.app.state.gate.guarded
        self.preferences = preferences(request.headers.getlist("prefer"))

    async def answer(self, asked: AskedModel, ask: Ask) -> Response:
        """The artifact, 304, a problem, or, for who prefers that, 202 with the operation to follow."""
        reference = asked.reference
        asked.facts["asked"] = self.request.url.query
        model, plan, told = await run_in_threadpool(self._plan, asked, ask)
        headers = {"Cache-Control": self._cache_control(reference, ask)}
        if "format" not in self.request.query_params:
            headers["Vary"] = "Accept"
        if ask.ready:
            return await run_in_threadpool(self._ready, reference, model, plan, ask, headers)
        deadline = time.monotonic() + self._patience()
        tries: Counter[str] = Counter()
        while tries[plan.digest] < PATIENCE:
            record, reports = await run_in_threadpool(self._known, model, plan) if told else (None, {})
            if record is not None:
                found = headers | facts(reference, model, record, ask, reports)
                self._note(record)
                if had := self._had(found):
                    return had
                if reply := await run_in_threadpool(self._reply, model, record, found, not tries[plan.digest]):
                    return reply
            tries[plan.digest] += 1
            operation = await self._await(model, plan, deadline)
            if operation is not None and not operation.done:
                return self._later(operation)
            if operation is not None and operation.error is not None:
                return answer(self.request, operation.error)
            if ask.confidence is not None:  # which size it is depends on what has been measured
                model, plan, told = await run_in_threadpool(self._plan, asked, ask)
        raise Problem(
            "unavailable",
            "The artifact was dropped from the cache before it could be sent.",
            "Try again; the operator can raise RIGHTRANK_CACHE_BYTES.",
            headers={"Retry-After": "2"},
        )

    def _plan(self, asked: AskedModel, ask: Ask) -> tuple[Model, Plan, bool]:
        """What is asked for; or (False) the plan that has to be measured before that can be told."""
        model = self.parts.catalogue.open(asked.id())
        walk = walked(self.parts.catalogue, model, ask)
        if walk is not None and walk.missing is not None:
            return model, walk.missing, False
        return model, choose(self.parts.catalogue, model, ask), True

    def _known(self, model: Model, plan: Plan) -> tuple[Record | None, Mapping[str, Report]]:
        """What is known of a cut, and what is reported of its file."""
        record = self.parts.catalogue.record(model.id, plan.digest)
        reports = self.parts.catalogue.reports.lately(model.id) if record else {}
        return record, reports.get(record.sha256, {}) if record else {}

    def _ready(self, reference: str, model: Model, plan: Plan, ask: Ask, headers: dict[str, str]) -> Response:
        """What is ready of what is asked, at once. Where that is not the plan itself, the plan is queued, and where
        nothing is, the answer is that of a size that is not ready."""
        reports = self.parts.catalogue.reports.lately(model.id)
        for record in ready_first(self.parts, model, plan, ask):
            exact = record.plan.digest == plan.digest
            self._note(record)
            found = (
                headers
                | facts(reference, model, record, ask, reports.get(record.sha256, {}))
                | {"RightRank-Ready": "exact" if exact else "nearest"}
            )
            # What the client has is as good as ready.
            if not self._matched(found["ETag"]) and self._body(model, record, 0, 1) is None:
                continue
            if not exact:
                with contextlib.suppress(Problem, RedisError):  # a full queue is no reason to give nothing
                    found["Link"] = link(self._start(model, plan, BACKGROUND))
            if reply := self._had(found) or self._reply(model, record, found, True):
                return reply
        id = self._start(model, plan, WAITING)
        operation = self.parts.engine.get(id)
        if operation is not None and operation.error is not None:
            return answer(self.request, operation.error)
        return self._later(operation or Operation(id, "queued", {"model": model.id}, IDLE))

    def _note(self, record: Record) -> None:
        """For the log: which file it is."""
        plan = record.plan
        logs.note(self.request.scope, plan=plan.digest, format=plan.output.format, encoding=plan.output.encoding)

    def _had(self, headers: Mapping[str, str]) -> Response | None:
        """304 where the client has what these headers are of. Raises `Problem` where it wants another (RFC 9110,
        13.2.2)."""
        if unmet(self._listed("if-match"), headers["ETag"]):
            raise Problem(
                "precondition-failed",
                f"The file's ETag is {headers['ETag']}, and not one in If-Match.",
                "Fetch it anew, without If-Match.",
                headers={"ETag": headers["ETag"]},
            )
        return Response(status_code=304, headers=dict(headers)) if self._matched(headers["ETag"]) else None

    def _matched(self, etag: str) -> bool:
        return matches(self._listed("if-none-match"), etag)

    def _listed(self, name: str) -> str | None:
        """A header whose value is a list, of however many lines; None where there is none."""
        return ", ".join(lines) if (lines := self.request.headers.getlist(name)) else None

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
        logs.note(self.request.scope, cache=headers["RightRank-Cache"], size=stop - start)
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
        id = await run_in_threadpool(self._start, model, plan, WAITING)
        pause = FIRST_LOOK
        while True:
            operation = await run_in_threadpool(self.parts.engine.get, id)
            if operation is None or operation.done or time.monotonic() >= deadline:
                return operation
            await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            pause = min(pause * 1.3, LAST_LOOK)

    def _start(self, model: Model, plan: Plan, queue: str) -> str:
        running = self.parts.engine.get(cut_id(model.id, plan.digest))
        if running is None or running.done:
            self.parts.check_served(plan.output.format)
            admit_job(self.parts, queue_for(plan.output.format, queue), self.key)
        operation = self.parts.cut(model.id, plan, queue, self.key.name if self.key else "")
        logs.note(self.request.scope, operation=operation)
        return operation

    def _patience(self) -> float:
        """Seconds that the client is ready to wait."""
        if (wait := self.preferences.get("wait", "")).isdecimal():
            return min(float(wait), LONGEST_WAIT)
        return 0.0 if "respond-async" in self.preferences else self.parts.settings.wait

    def _later(self, operation: Operation) -> Response:
        """What is not ready is no success, so that a client that knows nothing of operations takes nothing else for
        the file. Raises `Problem`."""
        if "respond-async" in self.preferences:
            return accepted(operation)
        raise Problem(
            "not-ready",
            "This size is being cut and measured.",
            "Ask again; `Prefer: wait=N` waits up to 120 seconds for it.",
            headers={"Retry-After": RETRY_AFTER, "Link": link(operation.id)},
            members={"operation": f"/operations/{operation.id}", "progress": dict(operation.progress)},
        )

    def _cache_control(self, reference: str, ask: Ask) -> str:
        """A name moves on, and more gets measured and ready, so those answers are checked each time; others never
        change."""
        who = "private" if self.private else "public"
        fixed = (
            (ID.fullmatch(reference) or reference.rpartition("@")[2].isdecimal())
            and ask.min_accuracy is None
            and ask.max_error is None
            and not ask.ready
        )
        return f"{who}, max-age={DAY}" if fixed else f"{who}, no-cache"


def facts(reference: str, model: Model, record: Record, ask: Ask, reports: Mapping[str, Report]) -> dict[str, str]:
    """The headers that say what the artifact is."""
    plan = record.plan
    suffix = format_of(plan.output).suffix
    digest = base64.b64encode(bytes.fromhex(record.sha256)).decode()
    headers = {
        "ETag": f'"{record.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{reference.replace("@", "-")}-{plan.digest[:8]}{suffix}"',
        **told(model, record, ask.of),
        **certified(record, ask),
    }
    if reports:
        headers["RightRank-Reported"] = ", ".join(map(field, reports.values()))
    return headers


def field(report: Report) -> str:
    """A report as a member of a dictionary (RFC 9651, 3.2). Its numbers are strings, since a decimal there has three
    places."""
    words = [f'{report.metric}="{report.value!r}"']
    words += [f"n={report.n}"] if report.n is not None else []
    words += [f'low="{report.low!r}";high="{report.high!r}"'] if report.low is not None else []
    if report.higher_is_better is not None:
        words.append(f"better={'higher' if report.higher_is_better else 'lower'}")
    return ";".join(words)


def accepted(operation: Operation) -> Response:
    """202: the work goes on, and the operation tells how far it is."""
    return JSONResponse(
        operation.to_json(),
        status_code=202,
        headers={
            "Location": f"/operations/{operation.id}",
            "Retry-After": RETRY_AFTER,
            "Cache-Control": "no-store",
            "Preference-Applied": "respond-async",
        },
    )


def link(operation: str) -> str:
    """Where it can be seen how far something is (RFC 8631)."""
    return f'</operations/{operation}>; rel="status"'
