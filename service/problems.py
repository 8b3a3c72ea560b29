"""Problems (RFC 9457): one table of kinds, and the document of each. Answered with them is in `api/refusals.py`.

`type` is the stable name of a kind; `detail` says what is wrong here and `hint` what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rightrank.models.errors import BudgetError, RightRankError


@dataclass(frozen=True, slots=True)
class Kind:
    status: int
    title: str
    meaning: str


KINDS: Mapping[str, Kind] = {
    "checkpoint-unusable": Kind(422, "The checkpoint cannot be used", "The uploaded file could not be read."),
    "checkpoint-unsafe": Kind(
        422, "The checkpoint is unsafe", "The uploaded file carries, or could carry, code or more than it says."
    ),
    "checkpoint-unsupported": Kind(
        422, "The checkpoint is not supported", "The format, or an operator in the model, is not one that is read."
    ),
    "checkpoint-malformed": Kind(
        422, "The checkpoint is malformed", "The file is cut, empty or inconsistent, or its tensors do not fit."
    ),
    "data-unusable": Kind(422, "The data cannot be used", "The evaluation or calibration data do not fit the model."),
    "budget-unreachable": Kind(422, "No model fits", "No plan meets what was asked; `nearest` is what one can meet."),
    "uncertified": Kind(
        422,
        "Nothing is certified",
        "The evaluation data do not show it, not even of the whole network; `samples` is how many would.",
    ),
    "precision-unavailable": Kind(
        422, "The model has no such precision", "Its numbers do not allow it; its description has `precisions`."
    ),
    "format-unavailable": Kind(
        422,
        "The model is no file of this format",
        "The format has no such operator, or no such numbers; the model's description has `formats`.",
    ),
    "format-missing": Kind(
        501, "Files of this format are not made here", "The service has nothing installed that writes and runs them."
    ),
    "master-unreadable": Kind(
        501, "The stored model cannot be read", "It is stored as another version of the service stores models."
    ),
    "invalid-request": Kind(422, "The request is invalid", "A parameter, header or field is missing or wrong."),
    "not-found": Kind(404, "Not found", "There is nothing at this address."),
    "model-not-found": Kind(404, "There is no such model", "No model has this id, name or version."),
    "model-not-ready": Kind(503, "The model is not ready", "It is being decomposed: its operation says how far it is."),
    "model-deleted": Kind(410, "The model was deleted", "For a day it can be had back; then it is forgotten."),
    "model-failed": Kind(
        409, "The model could not be made", "Its ingest was given up; the upload is kept, and can be tried again."
    ),
    "not-ready": Kind(
        503, "The size is not ready", "It is being cut and measured: ask again, or follow its `operation`."
    ),
    "precondition-failed": Kind(412, "Another version", "The file has none of the ETags in `If-Match`."),
    "file-unknown": Kind(
        409,
        "The file is none of this model's",
        "No size of it that has been made is the file with this SHA-256.",
    ),
    "size-not-found": Kind(404, "There is no such size", "No size of the model has a plan of this identity."),
    "report-not-found": Kind(404, "Nothing is reported", "Nobody has reported this metric of this file."),
    "too-many-reports": Kind(409, "Too many metrics are reported", "A file has as many reported metrics as it may."),
    "operation-not-found": Kind(404, "There is no such operation", "No operation has this id, or it is long past."),
    "method-not-allowed": Kind(405, "Method not allowed", "This address does not answer to this method."),
    "name-taken": Kind(409, "The name is taken", "The name could not be given a new version just now; try again."),
    "upload-too-large": Kind(413, "The upload is too large", "It is larger than this service accepts."),
    "head-too-large": Kind(431, "The request's head is too large", "Its address and headers are longer than is read."),
    "request-too-slow": Kind(408, "The request is too slow", "Nothing more of it came for too long."),
    "insufficient-storage": Kind(507, "There is not enough room", "The service's disk is too full for the upload."),
    "upload-incomplete": Kind(400, "The upload is incomplete", "The upload ended early or is not a valid form."),
    "range-unsatisfiable": Kind(416, "The range cannot be satisfied", "The range asked for lies outside the file."),
    "unauthenticated": Kind(401, "A key is needed", "Send `Authorization: Bearer <key>`."),
    "forbidden": Kind(403, "Not allowed", "The key, or the place this request comes from, may not do this."),
    "too-many-jobs": Kind(429, "Too many jobs", "This key has as many jobs under way as it may have."),
    "queue-full": Kind(503, "The queue is full", "The service has as much work waiting as it takes on."),
    "sandbox-missing": Kind(
        501, "Uploads cannot be read safely here", "The machine lacks a layer of confinement that is required."
    ),
    "too-many-connections": Kind(503, "Too many connections", "The service has as many open as it takes on."),
    "unavailable": Kind(503, "The service is not available", "Its cache or its store cannot be reached."),
    "worker-lost": Kind(503, "The work was lost", "The job's worker died several times; the model may be too large."),
    "gave-up": Kind(
        503, "The work was given up", "Something that it needs kept failing. It can be tried again; nothing is lost."
    ),
    "too-slow": Kind(503, "The work took too long", "The operator's limit on the time of one job was reached."),
    "not-failed": Kind(409, "The operation has not failed", "There is nothing to try again."),
    "cancelled": Kind(409, "The operation was cancelled", "Somebody asked for it to stop."),
    "internal": Kind(500, "Something went wrong", "The fault is the service's; its log says more."),
}


class Problem(RightRankError):
    """A problem that the service itself finds. `headers` go with the answer, `members` into its body."""

    def __init__(
        self,
        kind: str,
        detail: str,
        hint: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, hint)
        self.kind = kind
        self.headers = dict(headers or {})
        self.members = dict(members or {})


def unavailable(what: str, hint: str = "Try again in a moment.") -> Problem:
    """What is said while a part of the service cannot do its share."""
    return Problem("unavailable", f"{what[0].upper()}{what[1:]} cannot be reached.", hint, headers={"Retry-After": "2"})


def describe(error: BaseException) -> dict[str, Any]:
    """The problem document of an error; nothing but its kind is told of an unexpected one."""
    if not isinstance(error, RightRankError) or error.kind not in KINDS:
        return document("internal", "The service could not do this.", "Try again; if it stays, ask its operator.")
    members: dict[str, Any] = {}
    if isinstance(error, BudgetError) and error.nearest is not None:
        members["nearest"] = error.nearest
    if isinstance(error, BudgetError) and error.limit is not None:
        members["parameter"] = error.limit
    if isinstance(error, Problem):
        members |= error.members
    return document(error.kind, error.detail, error.hint, members)


def document(kind: str, detail: str, hint: str = "", members: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A problem as JSON."""
    known = KINDS[kind]
    return {
        "type": f"/problems/{kind}",
        "title": known.title,
        "status": known.status,
        "detail": detail,
        **({"hint": hint} if hint else {}),
        **(members or {}),
    }
