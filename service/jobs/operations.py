"""Operations: what the API shows of a background job.

An operation's id says what it does (`ingest-<model>`, `cut-<model>-<plan>`), so that asking twice for the same
thing is one operation, and so that it can be found again when Redis has lost it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ENDED = ("done", "failed", "cancelled")
IDLE = {"phase": "queued", "completed": 0, "total": 0, "unit": ""}
ID = re.compile(r"(?P<kind>ingest|cut)-(?P<model>m[0-9a-f]{24})(-(?P<plan>[0-9a-f]{32}))?")


@dataclass(frozen=True, slots=True)
class Operation:
    """A snapshot. `details` say what to do: `{"model": …}`, and for a cut `{"model": …, "plan": {…}}`."""

    id: str
    state: str
    details: Mapping[str, Any]
    progress: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    # The name of the key that asked for it.
    owner: str = ""

    @property
    def done(self) -> bool:
        return self.state in ENDED

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {"id": self.id, "operation": self.id, "done": self.done, "state": self.state}
        body["model"] = self.details.get("model")
        if self.done:
            body |= {"error": self.error} if self.error is not None else {"result": self.result}
        body["progress"] = dict(self.progress)
        return body


def ingest_id(model: str) -> str:
    return f"ingest-{model}"


def cut_id(model: str, plan: str) -> str:
    return f"cut-{model}-{plan}"


def kind_of(id: str) -> Literal["ingest", "cut"]:
    return "ingest" if id.startswith("ingest-") else "cut"
