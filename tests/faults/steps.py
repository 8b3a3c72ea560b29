"""The steps of a job, in the order in which it takes them, and what is to happen at one of them.

A step is one call by which a thread leaves this process or may run out of something: an object of the store touched,
a file written, a command sent to Redis, the reading child started, progress told. It is what really goes wrong, below
all the code that has to cope with it; what it is called also says which method of the store, the cache, a lock or the
engine it is a part of.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import obstore
import pytest
import redis

from rightrank.models.checkpoint import sandbox
from rightrank.service.api import forms
from rightrank.service.jobs.attempt import Job
from rightrank.service.jobs.engine import Engine
from rightrank.service.registry import disk, store
from rightrank.service.registry.cache import Cache
from rightrank.service.registry.lock import Lock
from rightrank.service.registry.store import Store

# What a step needs: a disk or a bucket (to read, to write), Redis, memory, a child, the API's own disk.
READ, WRITE, REDIS, MEMORY, CHILD, FORM = "read", "write", "redis", "memory", "child", "form"

OBJECTS = {"head": READ, "get": READ, "get_range": READ, "list": READ, "list_with_delimiter": READ}
OBJECTS |= {"put": WRITE, "delete": WRITE, "rename": WRITE, "copy": WRITE}
FILES = ("write", "copy", "link_or_copy", "link", "sync", "make")
# Methods that are steps themselves, since they touch the disk without any of the above.
WHOLE = (
    (Store, "files", READ),
    (Store, "folder", READ),
    (Store, "folder_for_work", WRITE),
    (Job, "progress", MEMORY),
    (forms.Receiver, "_open", FORM),
    (forms.Receiver, "_on_data", FORM),
)
# Those that steps are named after.
NAMED: tuple[tuple[type, str], ...] = (
    *(
        (Store, name)
        for name in (
            "read", "read_json", "create_json", "create", "replace_json", "create_file", "create_artifact",
            "replace_file", "keys", "sizes", "children", "delete", "exists", "tag", "set_aside", "drop_artifact",
        )
    ),
    *((Cache, name) for name in ("put", "find", "forget", "count", "counters", "check", "among")),
    *((Lock, name) for name in ("hold", "release")),
    *(
        (Engine, name)
        for name in (
            "send", "get", "length", "under_way", "cancel", "take", "beat", "report", "saved", "give_back", "finish",
            "fail",
        )
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """`needs`: one of the words above; `part`: what it belongs to, as `store.create_json`; `call`: itself."""

    needs: str
    part: str
    call: str


@dataclass
class Steps:
    """Those of one thread, from `begin` on; `at` is told of each before it is taken, and decides what becomes of it."""

    taken: list[Step] = field(default_factory=list)
    whose: Callable[[], bool] = lambda: False
    at: Callable[[int, Step, Callable[[], Any]], Any] = lambda number, step, do: do()
    _within: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def watched(
        self,
        at: Callable[[int, Step, Callable[[], Any]], Any] | None = None,
        whose: Callable[[], bool] | None = None,
    ) -> Iterator[list[Step]]:
        """Meanwhile the steps of this thread, or of those that `whose` says, are numbered from 0, and `at` has its way
        with them."""
        here = threading.get_ident()
        self.taken = []
        self.at = at or (lambda number, step, do: do())
        self.whose = whose or (lambda: threading.get_ident() == here)
        try:
            yield self.taken
        finally:
            self.whose = lambda: False

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """What is done meanwhile is no step: somebody else does it."""
        whose, self.whose = self.whose, lambda: False
        try:
            yield
        finally:
            self.whose = whose

    def take(self, needs: str, call: str, do: Callable[[], Any]) -> Any:
        if not self.whose():
            return do()
        part = next(iter(getattr(self._within, "parts", ())), call)
        step = Step(needs, part, call)
        with self._lock:
            number = len(self.taken)
            self.taken.append(step)
        return self.at(number, step, do)

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        parts = self._within.__dict__.setdefault("parts", [])
        parts.append(part)
        try:
            yield
        finally:
            parts.pop()

    def step(self, function: Any, needs: str, call: str) -> Any:
        @functools.wraps(function)
        def stepping(*args: Any, **options: Any) -> Any:
            return self.take(needs, call, lambda: function(*args, **options))

        return stepping

    def named(self, function: Any, part: str) -> Any:
        @functools.wraps(function)
        def inside(*args: Any, **options: Any) -> Any:
            with self.within(part):
                return function(*args, **options)

        return inside


def command(args: tuple[Any, ...]) -> str:
    return str(args[0]).lower()


@contextlib.contextmanager
def installed() -> Iterator[Steps]:
    """Meanwhile every step of this process goes through what is returned."""
    steps = Steps()
    with pytest.MonkeyPatch.context() as patch:
        objects = {name: steps.step(getattr(obstore, name), needs, name) for name, needs in OBJECTS.items()}
        patch.setattr(store, "obstore", SimpleNamespace(**{**vars(obstore), **objects}))
        for name in FILES:
            patch.setattr(disk, name, steps.step(getattr(disk, name), WRITE, name))
        for owner, name, needs in WHOLE:
            part = f"{owner.__name__.lower()}.{name.strip('_')}"
            patch.setattr(owner, name, steps.step(getattr(owner, name), needs, part))
        for owner, name in NAMED:
            patch.setattr(owner, name, steps.named(getattr(owner, name), f"{owner.__name__.lower()}.{name}"))
        patch.setattr(sandbox, "prepare", steps.step(sandbox.prepare, CHILD, "child"))
        execute, pipelined = redis.Redis.execute_command, redis.client.Pipeline.execute

        def executing(self: Any, *args: Any, **options: Any) -> Any:
            return steps.take(REDIS, command(args), lambda: execute(self, *args, **options))

        def all_executing(self: Any, *args: Any, **options: Any) -> Any:
            return steps.take(REDIS, "pipeline", lambda: pipelined(self, *args, **options))

        patch.setattr(redis.Redis, "execute_command", executing)
        patch.setattr(redis.client.Pipeline, "execute", all_executing)
        yield steps
