"""Formats as the API has them: what asks for one, which are made here, and which a model's files can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query
from redis.exceptions import RedisError

from rightrank.models.emit.formats import FORMATS, about
from rightrank.models.errors import FormatError
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.engine import SEPARATE
from rightrank.service.problems import Problem
from rightrank.service.registry.model import Model

FormatQuery = Annotated[
    str | None,
    Query(
        description="Which runtime the file is for, one of the model's `formats`; by default what `Accept` names by "
        "its media type, and else TorchScript.",
        examples=["onnx"],
        json_schema_extra={"enum": list(FORMATS)},
    ),
]
# What `Accept` can name. Bytes of any kind are what every format is, and name none.
MEDIA_TYPES = {
    versions[-1].media_type: name
    for name, versions in FORMATS.items()
    if versions[-1].media_type != "application/octet-stream"
}


def made(parts: Parts) -> dict[str, bool]:
    """Which formats' files are made: what is installed here, and of what workers of their own make whether there is
    one."""
    return {
        name: parts.engine.served(name) if name in SEPARATE else not versions[-1].available()
        for name, versions in FORMATS.items()
    }


def in_formats(parts: Parts, model: Model) -> list[Mapping[str, Any]]:
    """Of each format what its files of a model can store their numbers as, or why there are none."""
    return [_in_format(parts, model, name) for name in FORMATS]


def _in_format(parts: Parts, model: Model, name: str) -> Mapping[str, Any]:
    """What files of a format there are."""
    found = about(name)
    try:
        parts.check_served(name)
        return {**found, "precisions": list(model.precisions_in(name)), "reason": None}
    except (FormatError, Problem) as error:
        return {**found, "precisions": [], "reason": f"{error.detail} {error.hint}".strip()}
    except RedisError:
        return {**found, "precisions": [], "reason": "The cache does not answer, which knows whether they are made."}
