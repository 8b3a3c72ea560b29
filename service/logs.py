"""The log: a line for each thing that happens, an event's name with its facts, as text or as JSON.

Facts and messages have words of clients and of uploads in them. In neither form can these begin a line of their own,
and none is longer than `LONGEST`. No secret is ever a fact.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import MutableMapping
from functools import lru_cache
from typing import Any, Literal, TypeAlias

Form: TypeAlias = Literal["text", "json"]
LONGEST = 500
# Of an error that nobody foresaw, so many characters of its last lines.
TRACE = 8000
ENCODER = json.JSONEncoder(default=str)
log = logging.getLogger("rightrank")
# In a request's scope, what is known of it.
FACTS = "rightrank.facts"


def begin(form: Form = "text") -> None:
    """Has what happens in this process written to stderr; of other libraries only their warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMS[form]())
    # Looked up for each line, and in none.
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(logging.INFO)


def event(name: str, level: int = logging.INFO, error: BaseException | None = None, /, **facts: Any) -> None:
    """A line. Facts that are None are left out; with an `error` nobody foresaw goes where it comes from."""
    if log.isEnabledFor(level):
        trace = None if error is None else (type(error), error, error.__traceback__)
        known = {key: value for key, value in facts.items() if value is not None}
        log.handle(log.makeRecord(log.name, level, "", 0, name, (), trace, extra={"facts": known}))


def note(scope: MutableMapping[str, Any], **facts: Any) -> None:
    """Adds to what the line of a request will say."""
    scope.setdefault(FACTS, {}).update(facts)


def say(text: str) -> None:
    """What the service has to say to whoever started it."""
    log.info("%s", text)


class Json(logging.Formatter):
    """A line is an object, all of it ASCII: `time` (UTC), `level`, `process`, `event`, and the facts. What is no event
    is one called `message`."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        seconds = int(record.created)
        when = f"{utc(seconds)}.{int((record.created - seconds) * 1000):03d}Z"
        line = {"time": when, "level": record.levelname, "process": self._process}
        facts = getattr(record, "facts", None)
        if facts is None:
            line |= {"event": "message", "message": clipped(record.getMessage()), "logger": record.name}
        else:
            line |= {"event": record.msg, **{key: clipped(value) for key, value in facts.items()}}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-TRACE:]
        return ENCODER.encode(line)


class Text(logging.Formatter):
    """A line begins with the time, and has facts as `key=value`; where an error comes from stands indented below."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", None)
        if facts is None:
            words = escaped(clipped(record.getMessage()))
        else:
            words = " ".join([record.msg, *(f"{key}={quoted(clipped(value))}" for key, value in facts.items())])
        seconds = int(record.created)
        when = f"{local(seconds)},{int((record.created - seconds) * 1000):03d}"
        line = f"{when} {record.levelname} [{self._process}] {words}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)[-TRACE:]
            line = "\n    ".join([line, *map(escaped, trace.split("\n"))])
        return line


@lru_cache(2)
def utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(2)
def local(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


FORMS: dict[Form, type[logging.Formatter]] = {"text": Text, "json": Json}


def clipped(value: Any) -> Any:
    return f"{value[:LONGEST]}…" if isinstance(value, str) and len(value) > LONGEST else value


def quoted(value: Any) -> str:
    """A fact's value, in quotes where it would not be one word."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    plain = text and text.isprintable() and not any(mark in text for mark in ' "=\\')
    return text if plain or not isinstance(value, str) else escaped(json.dumps(text, ensure_ascii=False))


def escaped(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)
