"""`/models/{reference}/reports`: numbers that a publisher has measured of a file outside. A report's address has the
SHA-256 of the file, so it can never come to stand with other bytes than those that were measured."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rightrank.models.measure.metrics import METRICS
from rightrank.service.api.bodies import BODY, json_body, json_of
from rightrank.service.api.common import AskedModel, ToFetch, ToReport
from rightrank.service.api.router import Router
from rightrank.service.api.schemas import MODEL, PROBLEMS, Report, answers, leads_to, problems
from rightrank.service.problems import Problem
from rightrank.service.registry.catalogue import no_model
from rightrank.service.registry.layout import manifest_key
from rightrank.service.registry.reports import METRIC
from rightrank.service.registry.reports import Report as Stored

router = Router(tags=["reports"], responses=PROBLEMS)

FilePath = Annotated[
    str,
    Path(
        pattern="^[0-9a-f]{64}$",
        description="The SHA-256 of the file that was measured: its ETag.",
        examples=["0" * 64],
    ),
]
MetricPath = Annotated[
    str,
    Path(
        pattern=f"^{METRIC.pattern}$",
        description="Small letters, digits, dots, dashes and underscores; none that the service measures itself.",
        examples=["wer"],
    ),
]
MetricQuery = Annotated[
    str | None,
    Query(
        pattern=f"^{METRIC.pattern}$",
        description="Of which metric, that the publisher reported, `min_accuracy` or `max_error` is.",
        examples=["wer"],
    ),
]
# What fits an integer of a structured field (RFC 9651).
LARGEST = 999_999_999_999_999


class Number(BaseModel):
    """What was measured of a file."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    value: float = Field(description="Finite.")
    n: int | None = Field(None, ge=1, le=LARGEST, description="On how many samples.")
    low: float | None = Field(None, description="The 95 % interval: both ends or neither.")
    high: float | None = None
    higher_is_better: bool | None = Field(
        None, description="Without it no size can be asked for by this metric, by `min_accuracy` or `max_error`."
    )

    @model_validator(mode="after")
    def _interval(self) -> Number:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has both `low` and `high`")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(f"`value` is {self.value!r}, and not between {self.low!r} and {self.high!r}")
        return self


_LINKS = leads_to("models_curve", reference="$response.body#/model") | leads_to(
    "reports_show",
    reference="$response.body#/model",
    sha256="$response.body#/sha256",
    metric="$response.body#/metric",
)
PLACE = "/models/{reference}/reports/{sha256}/{metric}"


@router.put(
    PLACE,
    responses=answers(Report, links=_LINKS) | problems(*MODEL, "file-unknown", "too-many-reports", "name-taken", *BODY),
    openapi_extra=json_body(Number),
)
def report(
    asked: ToReport, sha256: FilePath, metric: MetricPath, number: Annotated[Number, Depends(json_of(Number))]
) -> dict[str, Any]:
    """Report what you have measured of a file. It takes the place of what was reported of it before, and is shown as
    yours, beside what the service measures."""
    if metric in METRICS:
        raise Problem(
            "invalid-request",
            f"{metric!r} is what the service measures itself, and a report is not to be taken for that.",
            f"Give yours another name: our-{metric}.",
        )
    id, catalogue = may_report(asked), asked.access.parts.catalogue
    with catalogue.changing(id):
        if not catalogue.exists(id):
            catalogue.forget(id)  # deleted a moment ago
        catalogue.open(id)
        if catalogue.record_of(id, sha256) is None:
            raise Problem(
                "file-unknown",
                f"No size of the model {id} that has been made is the file with the SHA-256 {sha256}.",
                "Fetch the size, measure that file, and report it with its own SHA-256, which is its ETag. Of a name, "
                "say the version that the file is of.",
            )
        by = asked.access.key.name if asked.access.key else ""
        catalogue.reports.add(id, sha256, Stored(metric, **number.model_dump(), reported=time.time(), by=by))
        if not catalogue.store.exists(manifest_key(id)):  # this process stood still, and the model was purged meanwhile
            catalogue.reports.withdraw(id, sha256, metric)
            raise no_model(id)
    return describe(asked, id, sha256, metric)


@router.get(PLACE, responses=answers(Report, links=_LINKS) | problems(*MODEL, "report-not-found", "invalid-request"))
def show(asked: ToFetch, sha256: FilePath, metric: MetricPath) -> dict[str, Any]:
    """What is reported of a file, and what was before."""
    id = asked.id()
    asked.access.parts.catalogue.open(id)
    return describe(asked, id, sha256, metric)


@router.delete(PLACE, responses=answers(Report) | problems(*MODEL, "report-not-found", "invalid-request"))
def withdraw(asked: ToReport, sha256: FilePath, metric: MetricPath) -> dict[str, Any]:
    """Withdraw what was reported of a file, with what was before; the answer is what it was."""
    id, catalogue = may_report(asked), asked.access.parts.catalogue
    with catalogue.changing(id):
        catalogue.open(id)
        gone = describe(asked, id, sha256, metric)
        catalogue.reports.withdraw(id, sha256, metric)
    return gone


def may_report(asked: AskedModel) -> str:
    """The model's id. Raises `Problem` unless the key may publish under all names that the model has: whoever fetches
    it by another is not to be told, and led, by this one's numbers."""
    id = asked.id()
    asked.access.alone("publish", id)
    return id


def describe(asked: AskedModel, id: str, sha256: str, metric: str) -> dict[str, Any]:
    """Raises `Problem` where nothing is reported."""
    access, catalogue = asked.access, asked.access.parts.catalogue
    history = catalogue.reports.history(id, sha256, metric)
    if not history:
        raise Problem("report-not-found", f"Nobody has reported a {metric} of the file with the SHA-256 {sha256}.")
    record = catalogue.record_of(id, sha256)
    known = access.whole(None) or (access.key is not None and access.key.name == history[0].by)
    shown = [*brief(history)]
    return {
        **shown[0],
        "model": id,
        "sha256": sha256,
        "plan": record.plan.digest if record else None,
        "by": history[0].by if known else None,
        "before": shown[1:],
    }


def brief(reports: Iterable[Stored]) -> list[dict[str, Any]]:
    """Reports as everybody sees them."""
    return [{key: value for key, value in each.to_json().items() if key != "by"} for each in reports]
