"""Which requests have a line in the log, and what it says: each change, each fetch of a file, and what is refused for
want of a key or fails.

What is known of a request gathers in its scope as it is found out, by whoever finds it.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import MutableMapping
from typing import Any

from fastapi.routing import APIRoute

from rightrank.service import logs
from rightrank.service.api.router import operation_id

REQUEST_ID = b"x-request-id"
# What a proxy in front may call a request.
GIVEN = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# By route (see `router.operation_id`). Of fetches only those of files have a line.
FETCH = "models_fetch"
EVENTS = {
    FETCH: "fetch",
    "models_publish": "upload",
    "models_delete": "delete",
    "models_undelete": "undelete",
    "reports_report": "report",
    "reports_withdraw": "report-withdrawn",
    "names_move": "alias",
    "names_remove": "alias-removed",
    "operations_cancel": "cancel",
    "operations_retry": "retry",
}
REFUSED = (401, 403)


def begin(scope: MutableMapping[str, Any]) -> str:
    """What a request is called, in the log and in its answer."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
    called = given.decode() if GIVEN.fullmatch(given) else f"{random.getrandbits(64):016x}"
    logs.note(scope, request=called)
    return called


def end(scope: MutableMapping[str, Any], status: int, sent: int, seconds: float) -> None:
    """Writes the line of a request that was answered with `status` and `sent` bytes, if it has one."""
    facts = scope[logs.FACTS]
    route = scope.get("route")
    event = EVENTS.get(operation_id(route)) if isinstance(route, APIRoute) else None
    if event is None or (event == "fetch" and "asked" not in facts and status < 400):
        if status not in REFUSED and status < 500:
            return
        event = event or "request"
    size = facts.pop("size", sent)
    logs.event(
        event,
        logging.WARNING if status >= 500 and status != 503 else logging.INFO,
        **facts,
        method=scope["method"],
        path=scope["path"],
        status=status,
        bytes=sent,
        broken=True if sent < size and scope["method"] == "GET" else None,
        client=scope["client"][0] if status in REFUSED and scope.get("client") else None,
        ms=round(seconds * 1000, 2),
    )
