"""Aliases: `net@stable` is whichever version of `net` an operator has moved it to last.

Each move is an object of its own, numbered and never rewritten: so moving is atomic, and what it was is not lost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from rightrank.service.problems import Problem
from rightrank.service.registry.store import Store

# Not a number, which is a version.
ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")
MOVE = re.compile(r"aliases/(?P<name>[^/]+)/(?P<alias>[^/]+)/(?P<number>[1-9][0-9]{0,8})\.json")


class Aliases:
    """The aliases of all names in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def version(self, name: str, alias: str) -> int | None:
        """The version that the alias stands for, None where it stands for none."""
        numbers = self._numbers(f"aliases/{name}/{alias}/").get(alias, [])
        move = self.store.read_json(_key(name, alias, numbers[-1])) if numbers else None
        return move["version"] if move else None

    def of(self, name: str) -> dict[str, list[Mapping[str, Any]]]:
        """Every alias that a name has or had, with its moves `{version, moved, by}`, the latest first."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for alias, numbers in self._numbers(f"aliases/{name}/").items():
            moves = [self.store.read_json(_key(name, alias, number)) for number in reversed(numbers)]
            found[alias] = [move for move in moves if move is not None]
        return found

    def move(self, name: str, alias: str, version: int | None, by: str) -> None:
        """Has the alias stand for a version, or for none. Raises `Problem` where others move it all the time."""
        for _ in range(16):
            numbers = self._numbers(f"aliases/{name}/{alias}/").get(alias, [])
            move = {"version": version, "moved": time.time(), "by": by}
            if self.store.create_json(_key(name, alias, numbers[-1] + 1 if numbers else 1), move):
                return
        raise Problem("name-taken", f"The alias {name}@{alias} is being moved by others right now.", "Try again.")

    def _numbers(self, prefix: str) -> dict[str, list[int]]:
        """By alias, the numbers of its moves below `prefix`, rising."""
        found: dict[str, list[int]] = {}
        for match in filter(None, map(MOVE.fullmatch, self.store.keys(prefix))):
            found.setdefault(match["alias"], []).append(int(match["number"]))
        return {alias: sorted(numbers) for alias, numbers in sorted(found.items())}


def _key(name: str, alias: str, number: int) -> str:
    return f"aliases/{name}/{alias}/{number}.json"
