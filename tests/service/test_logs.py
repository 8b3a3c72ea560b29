from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from rightrank.service import logs

EVIL = 'net"\n2026-01-01 00:00:00,000 INFO [1] delete key=admin\r\x1b[2K\u2028 a=b'


@pytest.fixture(params=["text", "json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, io.StringIO]]:
    """A process that has just begun its log, in a form."""
    root, out = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    monkeypatch.setattr(logs.log, "level", logging.INFO)
    monkeypatch.setattr(sys, "stderr", out)
    logs.begin(request.param)
    yield request.param, out


def test_an_event_is_one_line_that_a_machine_parses(written: tuple[str, io.StringIO]) -> None:
    form, out = written
    logs.event("fetch", model="m1", name=EVIL, status=200, ms=1.5, plan=None, long="x" * 1000, empty="")
    (line,) = out.getvalue().splitlines()
    if form == "json":
        found = json.loads(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
        assert found.pop("process") > 0 and len(found.pop("long")) == logs.LONGEST + 1
        assert found == {
            "level": "INFO", "event": "fetch", "model": "m1", "name": EVIL, "status": 200, "ms": 1.5, "empty": ""
        }  # fmt: skip
    else:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO \[\d+\] fetch model=m1 name=\"net", line)
        assert ' a=b" status=200 ms=1.5 long=xxx' in line and line.endswith('… empty=""') and "plan" not in line
        assert line.isprintable()


def test_a_message_and_where_an_error_comes_from_begin_no_line_of_their_own(written: tuple[str, io.StringIO]) -> None:
    form, out = written
    logging.getLogger("rightrank").info("%s failed", EVIL)
    logging.getLogger("another.library").warning("beware")
    logging.getLogger("another.library").info("unheard")
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        logs.event("operation-ended", logging.ERROR, error, outcome="gave-up")
    lines = out.getvalue().splitlines()
    if form == "json":
        message, warning, failure = map(json.loads, lines)
        assert (message["event"], message["message"]) == ("message", f"{EVIL} failed")
        assert (warning["logger"], warning["level"]) == ("another.library", "WARNING")
        assert "raise ValueError(EVIL)" in failure["error"] and failure["outcome"] == "gave-up"
    else:
        began = [line for line in lines if not line.startswith("    ")]
        assert len(began) == 3 and began[2].endswith("operation-ended outcome=gave-up")
        assert all(line.isprintable() for line in lines) and len(lines) > 5
