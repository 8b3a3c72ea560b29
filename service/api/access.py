"""What a key reaches: which models it may see, and what it may do to them.

What it may not see is answered as if it were not there; what it may not do to what it sees is refused. A model is seen
by its names, those that it has and those that it is to have once it is ingested; without any, by whose upload it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rightrank.service.api.keys import Key
from rightrank.service.jobs import operations
from rightrank.service.jobs.dispatch import Parts
from rightrank.service.jobs.operations import Operation
from rightrank.service.problems import Problem
from rightrank.service.registry.catalogue import no_model
from rightrank.service.registry.layout import ID, upload_key

# For so long a name counts that may have gone meanwhile. One that is not known is always looked for.
RECENT_SECONDS = 1.0


class Names:
    """What models are called, without versions; shared by all requests of a process."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._called: Mapping[str, list[str]] = {}
        self._read = -RECENT_SECONDS

    def lately(self, id: str) -> set[str]:
        """A model's names, as they were within the last second; those that it has only wanted are not among them."""
        if time.monotonic() - self._read > RECENT_SECONDS:
            self._refresh()
        return bare(self._called.get(id, ()))

    def now(self, id: str) -> set[str]:
        """A model's names, and those that it is to have."""
        # In this order: a name that is wanted is first given, then no longer wanted.
        wanted = self.wanted(id)
        self._refresh()
        return wanted | bare(self._called.get(id, ()))

    def wanted(self, id: str) -> set[str]:
        """The names that a model is to have once it is ingested."""
        return {key.rsplit("/", 1)[-1] for key in self.parts.store.keys(f"models/{id}/wanted")}

    def _refresh(self) -> None:
        read = time.monotonic()
        self._called = self.parts.catalogue.names()
        self._read = read


def bare(names: Iterable[str]) -> set[str]:
    """`name@version` without the version."""
    return {name.partition("@")[0] for name in names}


@dataclass(frozen=True, slots=True)
class Access:
    """What one key reaches. Without keys (`key` is None), or with one that is for all names, that is everything, and
    no name is read to find out."""

    key: Key | None
    parts: Parts
    names: Names

    def whole(self, verb: str | None) -> bool:
        return self.key is None or self.key.everywhere(verb)

    def model(self, verb: str, reference: str) -> str:
        """The id that a reference stands for. Raises `Problem`: model-not-found, or forbidden."""
        if self.whole(verb):
            return self.parts.catalogue.resolve(reference)
        assert self.key is not None
        if ID.fullmatch(reference):
            if self._may(verb, reference):
                return reference
            seen = self._owner(reference) is not None if self.whole(None) else self._may(None, reference)
            raise self._forbidden(verb) if seen else no_model(reference)
        name = reference.partition("@")[0]
        if not self.key.over(None, name):
            raise no_model(reference)
        id = self.parts.catalogue.resolve(reference)
        if not self.key.over(verb, name):
            raise self._forbidden(verb)
        return id

    def name(self, verb: str, name: str) -> None:
        """Raises `Problem` unless the key may `verb` under this name."""
        if self.whole(verb):
            return
        assert self.key is not None
        if not self.key.over(None, name):
            raise no_model(name)
        if not self.key.over(verb, name):
            raise self._forbidden(verb)

    def alone(self, verb: str, id: str) -> None:
        """For what takes a model from all who have a name for it. Raises `Problem` unless the key may `verb` under
        every name that the model has, or is to have."""
        if self.whole(verb):
            return
        assert self.key is not None
        names = self.names.now(id)
        if not names and self._owner(id) in (None, self.key.name) and self.key.somewhere(verb):
            return  # nobody else's, or not there any more
        if not names or not any(self.key.over(verb, name) for name in names):
            raise self._forbidden(verb)
        if not all(self.key.over(verb, name) for name in names):
            raise Problem(
                "forbidden",
                f"The model has names besides {' and '.join(self.key.patterns(verb))}, which the key "
                f"{self.key.name!r} is for.",
                f"It takes a key with the scope {verb!r} for all of them.",
            )

    def operation(self, id: str) -> Operation:
        """The operation. Raises `Problem`: operation-not-found."""
        if not self.whole(None) and not self._sees_operation(id):
            raise Problem("operation-not-found", f"There is no operation {id[:100]!r}.")
        return self.parts.operation(id)

    def publishes(self, name: str | None) -> None:
        """Raises `Problem` unless an upload may have this name, or none."""
        if self.whole("publish"):
            return
        assert self.key is not None
        if name is None or not self.key.over("publish", name):
            allowed = self.key.patterns("publish")
            raise Problem(
                "forbidden",
                f"The key {self.key.name!r} publishes only as {' or '.join(allowed)}, and the upload has "
                f"{'no name' if name is None else f'the name {name!r}'}.",
                f"Send one: name={allowed[0].replace('*', 'net')}",
            )

    def lists(self, manifest: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Whether a finished model, called `names` with versions, is listed."""
        if self.whole("fetch"):
            return True
        assert self.key is not None
        key, called = self.key, bare(names)
        return any(key.over("fetch", name) for name in called) or (not called and manifest.get("owner") == key.name)

    def sees(self, operation: Operation) -> bool:
        """Whether the operation is one that the key may see."""
        return self.whole(None) or self._sees_operation(operation.id)

    def told(self, owner: str | None) -> str | None:
        """Whose key it was, as far as this one may know: its own, or any with a scope for all names."""
        return owner or None if self.whole(None) or (self.key is not None and owner == self.key.name) else None

    def seen(self, names: Iterable[str]) -> list[str]:
        """Those of a model's names, with versions, that the key may see."""
        if self.whole(None):
            return list(names)
        assert self.key is not None
        key = self.key
        return [name for name in names if key.over(None, name.partition("@")[0])]

    def _may(self, verb: str | None, id: str) -> bool:
        """Whether one of the model's names lets the key `verb` it (None: see it)."""
        assert self.key is not None
        key = self.key
        if any(key.over(verb, name) for name in self.names.lately(id)):
            return True
        names = self.names.now(id)
        if not names:
            return self._owner(id) == key.name and (verb is None or key.somewhere(verb))
        return any(key.over(verb, name) for name in names)

    def _sees_operation(self, id: str) -> bool:
        assert self.key is not None
        match = operations.ID.fullmatch(id)
        if match is None:
            return False
        # Of an upload that was refused nothing is left but this.
        found = self.parts.engine.get(id)
        return (found is not None and found.owner == self.key.name) or self._may(None, match["model"])

    def _owner(self, id: str) -> str | None:
        """Whose key uploaded it; None where it is not there."""
        about = self.parts.catalogue.manifest(id) or self.parts.store.read_json(upload_key(id))
        return None if about is None else str(about.get("owner", ""))

    def _forbidden(self, verb: str) -> Problem:
        assert self.key is not None
        return Problem("forbidden", f"The key {self.key.name!r} does not have the scope {verb!r} for this model.")
