"""`/names`: the versions of a name, and the aliases that an operator moves among them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request
from pydantic import BaseModel, Field

from rightrank.service import logs
from rightrank.service.api.bodies import BODY, json_body, json_of
from rightrank.service.api.common import AskedName, NameToFetch, NameToMove, TheParts
from rightrank.service.api.router import Router
from rightrank.service.api.schemas import GATE, PROBLEMS, Name, answers, problems
from rightrank.service.problems import Problem
from rightrank.service.registry.aliases import ALIAS

router = Router(tags=["names"], responses=PROBLEMS)

AliasPath = Annotated[
    str,
    Path(pattern=f"^{ALIAS.pattern}$", description="Small letters, digits, dots and dashes.", examples=["stable"]),
]


class Moving(BaseModel):
    version: int = Field(ge=1, le=999_999_999, description="The version that the alias is to stand for.")


FOUND = answers(Name) | problems(*GATE, "model-not-found", "invalid-request", "name-taken")


@router.get("/names/{name}", responses=FOUND)
def show(asked: NameToFetch, parts: TheParts) -> dict[str, Any]:
    """A name's versions, the latest first, and its aliases, each with its moves, the latest first."""
    return describe(asked)


@router.put(
    "/names/{name}/aliases/{alias}",
    responses=FOUND | problems(*GATE, "model-not-found", "name-taken", *BODY),
    openapi_extra=json_body(Moving),
)
def move(
    asked: NameToMove,
    alias: AliasPath,
    moving: Annotated[Moving, Depends(json_of(Moving))],
    parts: TheParts,
    request: Request,
) -> dict[str, Any]:
    """Have an alias stand for a version: from the next request on `name@alias` is that one."""
    version = moving.version
    logs.note(request.scope, version=version)
    asked.check()
    id = parts.catalogue.version(asked.name, version)
    if id is None or not parts.catalogue.exists(id):
        raise Problem("model-not-found", f"There is no model {asked.name}@{version}.", f"See GET /names/{asked.name}.")
    if parts.catalogue.aliases.version(asked.name, alias) != version:
        parts.catalogue.aliases.move(asked.name, alias, version, asked.by)
    return describe(asked)


@router.delete("/names/{name}/aliases/{alias}", responses=FOUND)
def remove(asked: NameToMove, alias: AliasPath, parts: TheParts) -> dict[str, Any]:
    """Have an alias stand for nothing; its moves stay."""
    asked.check()
    if parts.catalogue.aliases.version(asked.name, alias) is None:
        raise Problem("model-not-found", f"There is no alias {asked.name}@{alias}.", f"See GET /names/{asked.name}.")
    parts.catalogue.aliases.move(asked.name, alias, None, asked.by)
    return describe(asked)


def describe(asked: AskedName) -> dict[str, Any]:
    """What a name stands for. Raises `Problem` where it is none, or not for this key."""
    asked.check()
    catalogue = asked.access.parts.catalogue
    found = [(version, catalogue.version(asked.name, version)) for version in reversed(catalogue.versions(asked.name))]
    if not found:
        raise Problem("model-not-found", f"There is no name {asked.name!r}.", "GET /models lists the models there are.")
    return {
        "name": asked.name,
        "versions": [
            {"version": version, "model": id, "exists": catalogue.exists(id)} for version, id in found if id is not None
        ],
        "aliases": [
            {"alias": alias, "version": moves[0]["version"], "moves": moves}
            for alias, moves in catalogue.aliases.of(asked.name).items()
            if moves
        ],
    }
