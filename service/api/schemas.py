"""What the answers look like, for the API's own description (`/openapi.json`, `/docs`); tests hold answers to it.

Clients should expect more members than are named here in times to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from rightrank.models.emit.formats import FORMATS
from rightrank.models.emit.precision import NAMES
from rightrank.models.measure.metrics import METRICS
from rightrank.service.problems import KINDS

# As FastAPI takes them: by status code.
Responses: TypeAlias = dict[int | str, dict[str, Any]]


class Progress(BaseModel):
    phase: str
    completed: int
    total: int = Field(description="0 where it is not known yet.")
    unit: str = Field(description="What is counted.")
    note: str | None = Field(None, description="Of an ingest, what the model's `notes` will say that is known already.")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="`/problems/<kind>`, an address that says what this kind means.")
    title: str
    status: int
    detail: str = Field(description="What is wrong here.")
    hint: str | None = Field(None, description="What to do about it.")
    nearest: float | None = Field(None, description="Of a limit that cannot be met, the nearest that can.")
    parameter: str | None = Field(
        None, description="Of several limits, the one that cannot be met and `nearest` is of."
    )
    operation: str | None = Field(
        None, description="Of a model or a size that is not ready, where its operation can be followed."
    )
    progress: Progress | None = Field(None, description="Of a size that is not ready, how far it is.")
    until: float | None = Field(None, description="Of a deleted model, until when it can be had back.")
    size: int | None = Field(None, description="Of a range outside the file, the file's size in bytes.")
    samples: int | None = Field(
        None, description="Where nothing is certified, of how many samples the same share would be enough."
    )
    limit: int | None = Field(None, description="Of an upload that is too large, how many bytes one may have.")


NOTES = Field(
    None,
    description="What of the upload was left out, or read otherwise than it stands there; and, of a model that can "
    "hardly get smaller, why.",
)


class Result(BaseModel):
    """What an operation came to: where to fetch it. Of an ingest the name, if it has one; of a cut the file."""

    model: str
    url: str
    name: str | None = None
    version: int | None = None
    plan: str | None = None
    sha256: str | None = None
    size: int | None = Field(None, description="Bytes.")
    notes: list[str] | None = NOTES


class Operation(BaseModel):
    id: str
    operation: str = Field(description="The id again, as the answer to an upload calls it.")
    done: bool = Field(description="Whether it has ended, with `result` or `error`.")
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    model: str | None
    progress: Progress
    result: Result | None = None
    error: Problem | None = None


class Underway(Operation):
    names: list[str] = Field(description="What its model is called, or is to be: `name`.")
    bytes: int | None = Field(description="Of a size, what its file is to have; null of an upload.")
    format: str | None = Field(description="Of a size, the format of its file.")


class Operations(BaseModel):
    operations: list[Underway]


class Accepted(BaseModel):
    """An upload that was received."""

    id: str = Field(description="The model's id, which follows from the files, architecture, options and card.")
    operation: str


class Worst(BaseModel):
    index: int = Field(description="The class or label, counted from 0.")
    value: float = Field(description="Of classes their recall, of miou, f1, accuracy and auc that of the class alone.")


class Changed(BaseModel):
    """How a cut's answers differ from the original's on the same data."""

    answers: int = Field(description="How many there are: one for each sample, pixel, token or label.")
    differ: int
    share: float
    lost: int | None = Field(description="Were right and are wrong; null where it is not known what is right.")
    gained: int | None = Field(description="Were wrong and are right.")


class Counted(BaseModel):
    """What a share of right answers is the share of."""

    answers: int = Field(description="How many there are, of all samples.")
    most: int = Field(description="How many a sample can have.")


class Measurement(BaseModel):
    """A network's accuracy on the evaluation data; null where it is not finite."""

    metric: str = Field(json_schema_extra={"enum": list(METRICS)})
    value: float | None
    n: int = Field(description="Samples.")
    low: float | None = Field(description="The 95 % interval; null where the samples tell of no spread.")
    high: float | None
    worst: Worst | None = Field(None, description="The class or label that comes off worst, of several.")
    changed: Changed | None = Field(
        None,
        description="null of the original, where outputs are no answers, and of what was measured before this was.",
    )
    counted: Counted | None = Field(
        None, description="null where the value is no share of right answers, and of what was measured before this was."
    )


class Reported(BaseModel):
    """A number that the publisher measured outside, of the file that it stands with. It is the publisher's word; the
    service's own measurement is beside it."""

    metric: str
    value: float
    n: int | None = Field(description="Samples, where that was said.")
    low: float | None = Field(description="The 95 % interval, where that was said.")
    high: float | None
    higher_is_better: bool | None = Field(description="null: nobody said.")
    reported: float = Field(description="When (seconds since 1970).")


class Report(Reported):
    """What is reported of a file, and what was before."""

    model: str = Field(description="The model's id.")
    sha256: str = Field(description="Of the file.")
    plan: str | None = Field(description="Of the size that is this file; null where none is any more.")
    by: str | None = Field(description="Whose key it was; null where this one may not know.")
    before: list[Reported] = Field(description="What was reported before, the latest first.")


class ReportedMetric(BaseModel):
    metric: str
    files: int = Field(description="Of how many files it is reported.")
    higher_is_better: bool | None = Field(description="null: nobody said, or not always the same.")


class Brief(BaseModel):
    id: str
    created: float = Field(description="Seconds since 1970.")
    params: int
    macs: int = Field(description="Multiply-accumulates for one sample.")
    bytes: int = Field(description="The size of the whole network's file.")
    criterion: str
    baseline: Measurement | None = Field(description="The original's; null where nothing was measured.")
    names: list[str] = Field(description="`name@version`.")
    publisher: str | None = Field(
        None, description="Whose key published it; null where there were no keys, or where this one may not know."
    )


class Page(BaseModel):
    models: list[Brief]
    next: str | None = Field(description="The cursor of the next page.")


class Input(BaseModel):
    name: str
    dtype: str
    shape: list[int | None] = Field(description="null: any.")
    example: list[int] | None = Field(
        default=None, description="Where lengths, heights or widths are free: a shape, which the MACs are those of."
    )


class Layer(BaseModel):
    """A layer as the matrix m×n that is factored."""

    name: str
    kind: str
    shape: list[int]
    form: str
    m: int
    n: int
    rank: int = Field(description="The largest.")
    break_even: int = Field(description="The largest rank at which two factors have fewer parameters than the whole.")
    params: int
    macs: int
    calls: int
    decomposed: bool
    reason: str = Field(description="Why it stays whole; empty where it does not.")


class UncoveredTensor(BaseModel):
    name: str
    params: int
    share: float = Field(description="Of the original's parameters.")
    read_by: list[str] = Field(description="The operators that read it.")
    reason: str = Field(description="Of the weight of a layer that stays whole, why; empty of any other.")


class Others(BaseModel):
    tensors: int
    params: int


class Uncovered(BaseModel):
    """The parameters that are not the weight of a layer which can be cut: no size has fewer of them."""

    params: int
    share: float = Field(description="Of the original's parameters.")
    tensors: list[UncoveredTensor] = Field(description="The largest.")
    others: Others = Field(description="The smaller ones, together.")


class EliminatedLayer(BaseModel):
    name: str
    channels: int
    removed: int
    params_before: int
    params_after: int
    kept: dict[str, int] = Field(description="For which reason how many dead channels stayed.")


class Eliminated(BaseModel):
    """Which zero channels went."""

    layers: list[EliminatedLayer]
    removed: int
    params_before: int
    params_after: int
    difference: float = Field(description="The largest between the outputs before and after, relative.")
    rejected: str = Field(description="Why the elimination was not accepted; empty where it was.")
    exact: bool | None = Field(
        None, description="Whether all that went was zero to the last digit, so that no numbers can show it."
    )
    compared: int | None = Field(
        None, description="On how many calibration inputs the difference was looked for; 0: on random ones."
    )


class ComputedWeights(BaseModel):
    made_of: list[str]
    why: str


class Computed(BaseModel):
    """Which weights that the program computes were stored, so that they can be cut, and which were not, and why."""

    stored: list[str]
    kept: list[ComputedWeights]


class Smallest(BaseModel):
    params: float
    macs: float


class Tuned(BaseModel):
    """How far outputs are from the original's on inputs held back; null where that is not finite."""

    params: int
    cut: float | None
    tuned: float | None


class Links(BaseModel):
    self: str
    curve: str
    sizes: str
    importance: str


class Precision(BaseModel):
    """What a model's files can store their numbers as."""

    precision: str = Field(json_schema_extra={"enum": list(NAMES)})
    bytes: int = Field(description="Of the whole network's file.")
    smallest: int = Field(description="Of the smallest file.")
    min_budget: float = Field(description="The smallest budget of parameters, and of the original's file.")


class Format(BaseModel):
    """Which runtime a file can be for."""

    format: str = Field(json_schema_extra={"enum": list(FORMATS)})
    media_type: str = Field(description="Of its files; in `Accept` it asks for them.")
    suffix: str
    precisions: list[str] = Field(
        description="What such files of this model can store their numbers as; none: `reason`."
    )
    reason: str | None = Field(description="Why there are none.")


class Card(BaseModel):
    """What the publisher says of a model. Its files have it too, as `card.json`."""

    description: str | None = None
    license: str | None = Field(None, description="An SPDX expression, or text.")
    labels: list[str] | dict[str, list[str]] | None = Field(
        None, description="The names of the classes, in their order: of the first output, or of each by its number."
    )
    preprocessing: dict[str, Any] | None = Field(None, description="What is done to make inputs.")


class Description(Brief):
    sha256: str = Field(description="Of the uploaded checkpoint.")
    filename: str
    size: int = Field(description="Of the uploaded checkpoint, in bytes.")
    uploaded: float
    architecture: dict[str, Any] | None
    options: dict[str, Any]
    card: Card | None = Field(None, description="Not there where the publisher said nothing.")
    measured: bool = Field(description="Whether there are evaluation data.")
    precision: str = Field(description="In which files come where none is asked for, and which is measured ahead.")
    precisions: list[Precision] = Field(description="Those that files can be asked for in, the upload's own first.")
    formats: list[Format] = Field(description="All that there are; which of them this model's files can be.")
    tried: dict[str, float] = Field(description="How far each criterion's cuts were off where several were tried.")
    inputs: list[Input]
    outputs: int
    min_budget: Smallest = Field(description="The smallest budgets that can be met, in `precision`.")
    plans: int = Field(description="How many different sizes there are.")
    layers: list[Layer]
    uncovered: Uncovered | None = Field(None, description="Not known of models published before this was.")
    computed: Computed
    eliminated: Eliminated
    tuned: list[Tuned] | None = Field(None, description="With effort tune or polish: what it is worth at which size.")
    reported: list[ReportedMetric] = Field(description="What the publisher reported of its files; the curve has it.")
    notes: list[str] | None = NOTES
    links: Links


class Point(BaseModel):
    """A measured cut, or one that the publisher reported something of."""

    plan: str
    budget: float
    params: int
    macs: int
    bytes: int
    method: str
    metric: str | None = Field(description="What the service measured; null, as what follows, where it did not.")
    accuracy: float | None
    n: int | None
    low: float | None
    high: float | None
    worst: Worst | None = None
    changed: Changed | None = None
    reported: list[Reported] = Field(description="What the publisher reported.")


class Curve(BaseModel):
    id: str
    format: str = Field(description="Of the files.")
    precision: str = Field(description="Of the files.")
    baseline: Measurement | None
    higher_is_better: bool | None = Field(None, description="Of what the service measures; null: nothing was.")
    share: bool | None = Field(None, description="Whether that is a share of right answers; null: nothing was.")
    points: list[Point]


class Rung(BaseModel):
    """A size that files can have."""

    plan: str = Field(description="The identity of ranks, precision and format.")
    budget: float = Field(description="The share of the original's parameters; in `auto` of its file.")
    params: int
    macs: int
    bytes: int
    whole: bool = Field(description="Whether no layer is cut.")


class Sizes(BaseModel):
    id: str
    format: str
    precision: str
    bounds: bool = Field(description="Whether bytes are the most that a file takes: only making one tells how many.")
    sizes: list[Rung]


class Part(BaseModel):
    """What a size keeps of a layer."""

    layer: str
    kind: str
    rank: int | None = Field(description="null: it is whole.")
    largest: int = Field(description="The largest rank.")
    params: int
    original: int = Field(description="The parameters of the whole layer.")
    bits: float | None = Field(
        description="What each number takes on average, as planned, without scales; null where it is coded together "
        "with others."
    )
    reason: str = Field(description="Why it is never cut; empty where it may be.")


class Made(BaseModel):
    """The file of a size, which was made."""

    sha256: str
    bytes: int
    method: str
    measurement: Measurement | None
    reported: list[Reported] = Field(description="What the publisher reported.")


class Size(Rung):
    id: str
    format: str
    precision: str
    bounds: bool = Field(description="Whether bytes are the most that a file takes: only making one tells how many.")
    url: str | None = Field(description="What fetches exactly this; null where no query is known to.")
    query: dict[str, Any] | None = Field(description="That query's parameters.")
    layers: list[Part] = Field(description="Of the network without its zero channels, where some went.")
    made: Made | None = Field(description="null: it has never been made.")


class LayerImportance(BaseModel):
    layer: str
    rank: int
    importance: list[float | None]


class Importance(BaseModel):
    id: str
    criterion: str
    layers: list[LayerImportance]


class Deleted(BaseModel):
    """A model that was deleted, or is back."""

    id: str
    names: list[str] = Field(description="What it is called: `name@version`.")
    until: float | None = Field(description="Until when it can be had back (seconds since 1970); null: not, or it is.")


class Versioned(BaseModel):
    version: int
    model: str = Field(description="The model's id.")
    exists: bool = Field(description="Whether it is there still.")


class Move(BaseModel):
    version: int | None = Field(description="null: the alias stands for nothing.")
    moved: float = Field(description="When (seconds since 1970).")
    by: str = Field(description="Whose key it was.")


class Alias(BaseModel):
    alias: str
    version: int | None
    moves: list[Move] = Field(description="The latest first.")


class Name(BaseModel):
    """What a name stands for: its latest version that exists; with `@alias` what the alias does."""

    name: str
    versions: list[Versioned] = Field(description="The latest first.")
    aliases: list[Alias]


class Status(BaseModel):
    status: Literal["ok"]


class Ready(Status):
    sandbox: dict[str, bool] = Field(description="The layers that confine what reads uploads, and which hold here.")
    formats: dict[str, bool] = Field(description="Which formats' files are made: what they need is installed, or done.")


_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
# What any request may be answered, besides what its route says. That it is there also keeps FastAPI from declaring its
# own form of a 422.
PROBLEMS: Responses = {
    "default": {
        "description": "A problem document (RFC 9457): of the connection (`head-too-large` 431, `request-too-slow` "
        "408, `too-many-connections` 503), or a fault of the service (`internal` 500).",
        "content": _PROBLEM,
    }
}
# The kinds of problems that routes have in common: those behind the gate, and of these the ones that are about a model
# or an operation.
GATE = ("unauthenticated", "forbidden", "unavailable")
MODEL = (*GATE, "model-not-found", "model-deleted", "model-not-ready", "model-failed", "master-unreadable")
OPERATION = (*GATE, "operation-not-found")
# The headers that come with problems, by status.
_WITH: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": "How a key is sent."},
    412: {"ETag": "The one that the file has."},
    413: {"Connection": "`close`: what still comes is not read."},
    416: {"Content-Range": "How many bytes the file has."},
    429: {"Retry-After": "Seconds."},
    503: {
        "Retry-After": "Seconds, where that can be said.",
        "Link": "Of what is not ready the operation, with the relation `status`.",
    },
}


def answers(
    model: type[BaseModel],
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    links: Mapping[str, Any] | None = None,
) -> Responses:
    """A route's one answer that is no problem. (Not its `response_model`: an answer that an earlier version left in
    the store is given as it is, not refused for what it lacks.)"""
    return {status: {"model": model, "headers": described(headers or {}), "links": dict(links or {})}}


def problems(*kinds: str) -> Responses:
    """The problems that a route answers with, by their kinds (`problems.KINDS`): an entry for each status."""
    found: dict[int, list[str]] = {}
    for kind in dict.fromkeys(kinds):
        found.setdefault(KINDS[kind].status, []).append(f"`{kind}`: {KINDS[kind].meaning}")
    return {
        status: {
            "description": "\n\n".join(meanings),
            "content": _PROBLEM,
            "headers": described({**_WITH.get(status, {}), "Cache-Control": "`no-store`."}),
        }
        for status, meanings in sorted(found.items())
    }


def leads_to(*operations: str, **parameters: Any) -> dict[str, Any]:
    """OpenAPI's links from an answer to operations (by `router.operation_id`): where in the answer, or in its request,
    the parameters of each are found (`$response.body#/id`), or what they are."""
    given = [name for name, value in parameters.items() if not str(value).startswith("$")]
    return {"_".join([name, *given]): {"operationId": name, "parameters": parameters} for name in operations}


def described(headers: Mapping[str, str]) -> dict[str, Any]:
    """Headers, by what they mean, as OpenAPI has them; with that of every answer."""
    every = {**headers, "X-Request-Id": "What the log's line of this request calls it; a proxy may have named it."}
    return {name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in every.items()}


# Of a route whose answer is no JSON.
TEXT: Responses = {200: {"headers": described({})}}
# Of a stream of events OpenAPI 3.1 can say no more.
EVENTS = 'event: progress\ndata: {"id": "ingest-m5f834222eb6d0fdad64bd01d", "done": false, …}\n\n'


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, made once: FastAPI's, and that a key may be needed.

    FastAPI puts what a route's return annotation says beside a reference to the model that it declares, and
    describes a stream of events by a keyword of OpenAPI 3.2 in a document that says 3.1.
    """
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        for operation in (each for operations in schema["paths"].values() for each in operations.values()):
            for answer in operation["responses"].values():
                for kind, media in answer.get("content", {}).items():
                    if kind == "text/event-stream":
                        answer["content"][kind] = {"example": EVENTS}
                    elif reference := media.get("schema", {}).get("$ref"):
                        media["schema"] = {"$ref": reference}
        key = {"type": "http", "scheme": "bearer", "description": "Where the service has a keys file."}
        schema["components"]["securitySchemes"] = {"key": key}
        schema["security"] = [{}, {"key": []}]
        app.openapi_schema = schema
    return app.openapi_schema
