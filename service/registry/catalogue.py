"""The catalogue: which models there are, what they are called, and what is known of their cuts.

A model exists from the moment its `manifest.json` does, which names its files and says of which upload it was made.
Names are sequences of versions; a version is never rewritten, so `name@3` means one model for ever, and `name` means
the latest that still exists.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from rightrank.models.errors import Cancelled
from rightrank.service.problems import Problem, unavailable
from rightrank.service.registry.aliases import ALIAS, Aliases
from rightrank.service.registry.cache import Cache
from rightrank.service.registry.layout import (
    CUTS,
    ID,
    MADE,
    MIXED,
    NAME,
    PLANNER,
    TOKEN,
    checkpoint_key,
    deleted_key,
    digests_in,
    digests_of,
    failure_key,
    manifest_key,
    name_key,
    record_key,
    refusal_key,
    upload_key,
    where,
)
from rightrank.service.registry.lock import Lock
from rightrank.service.registry.model import Model, Record
from rightrank.service.registry.recent import Recent
from rightrank.service.registry.reports import Reports
from rightrank.service.registry.store import DAMAGED, Store
from rightrank.service.settings import Settings

log = logging.getLogger("rightrank")

REFERENCE = re.compile(rf"(?P<name>{NAME.pattern})(@((?P<version>[1-9][0-9]{{0,8}})|(?P<alias>{ALIAS.pattern})))?")
VERSION = re.compile(r"([1-9][0-9]{0,8})\.json")
# Without these a manifest is none that this version can read.
NEEDED = frozenset({"id", "created"})
# A model deleted through another process is still answered for from here for this long.
RECHECK_SECONDS = 1.0
# All of the store is listed to find the uploads whose ingest was given up, so it is not more often than this.
FAILURES_SECONDS = 5.0
# How long a model can be had back that was deleted.
UNDO_SECONDS = 24 * 3600.0

V = TypeVar("V")


class Catalogue:
    """Models by reference. Everything immutable is kept in this process once read."""

    def __init__(self, settings: Settings, store: Store, cache: Cache) -> None:
        self.store = store
        self.cache = cache
        self.aliases = Aliases(store)
        self.reports = Reports(store)
        self._models: Recent[str, Model] = Recent(64)
        self._manifests: Recent[str, Mapping[str, Any]] = Recent(4096)
        self._listed: Recent[tuple[str, tuple[int, float]], Mapping[str, Any]] = Recent(4096)
        self._records: Recent[tuple[str, str], Record] = Recent(4096)
        self._named: Recent[str, Mapping[str, Any]] = Recent(4096)
        self._checked: dict[str, float] = {}
        self._failures: tuple[float, list[str]] = (-FAILURES_SECONDS, [])
        self._answers: Recent[tuple[str, ...], Any] = Recent(4096)

    def _known(self, key: tuple[str, ...], ask: Callable[[], V]) -> V:
        """What the store says; what it said last where it does not answer. Raises `Problem` where that is nothing."""
        try:
            answer = ask()
        except Problem as error:
            known = self._answers.get(key, lambda: None) if error.kind == "unavailable" else None
            if known is None:
                raise
            return cast(V, known[0])
        self._answers.put(key, (answer,))
        return answer

    def resolve(self, reference: str) -> str:
        """The id that a reference (an id, `name`, `name@version` or `name@alias`) stands for. Raises `Problem`."""
        if ID.fullmatch(reference):
            return reference
        return self._known(("resolve", reference), lambda: self._resolve(reference))

    def _resolve(self, reference: str) -> str:
        match = REFERENCE.fullmatch(reference)
        if match is None:
            raise no_model(reference)
        name, wanted = match["name"], match["version"]
        if match["alias"]:
            wanted = self.aliases.version(name, match["alias"])
            if wanted is None:
                raise no_model(reference)
        for version in [int(wanted)] if wanted else reversed(self.versions(name)):
            id = self.version(name, version)
            if id is not None and (wanted or self.exists(id)):
                return id
        raise no_model(reference)

    def version(self, name: str, version: int) -> str | None:
        """The id of the model that is this version of the name, whether or not it still exists."""
        record = self._version(name_key(name, version))
        return None if record is None else str(record["id"])

    def exists(self, id: str) -> bool:
        """Whether there is a manifest, and nobody has deleted the model."""
        return self.store.exists(manifest_key(id)) and not self.store.exists(deleted_key(id))

    def open(self, id: str) -> Model:
        """The model. Raises `Problem`: model-not-found, model-deleted, or, where it has been uploaded,
        model-not-ready or model-failed."""
        while (model := self._models.get(id, lambda: self._load(id))) is not None:
            if self._still_there(model):
                return model
            self.forget(id)  # and look what is there by now
        self.forget(id)
        if (until := self.deleted(id)) is not None:
            raise Problem(
                "model-deleted",
                f"The model {id} was deleted.",
                "Until `until` (seconds since 1970) it can be had back: rightrank undelete.",
                members={"until": until},
            )
        operation = {"operation": f"/operations/ingest-{id}"}
        if not self.store.exists(upload_key(id)):
            raise no_model(id)
        if (failure := self.failure(id)) is not None:
            raise Problem(
                "model-failed",
                f"The model {id} was uploaded and could not be decomposed: {failure['detail']}",
                f"The upload is kept: once the cause is mended, rightrank retry ingest-{id}.",
                members=operation,
            )
        raise Problem(
            "model-not-ready",
            f"The model {id} has been uploaded, and is being decomposed.",
            "Follow its operation, then ask again.",
            headers={"Retry-After": "2"},
            members=operation,
        )

    def manifest(self, id: str) -> Mapping[str, Any] | None:
        return self._manifests.get(id, lambda: self.store.read_json(manifest_key(id)))

    @contextmanager
    def folder(self, manifest: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Path]:
        """A local folder with these files of a model, as long as the context lasts."""
        with self.store.folder(where(manifest), names, manifest["created"], digests_in(manifest)) as folder:
            yield folder

    def ids(self) -> list[str]:
        """Everything uploaded, finished or not."""
        return self.store.children("models")

    def manifests(self) -> list[Mapping[str, Any]]:
        """Every finished model's manifest, the newest first."""
        keys = self._known(("models",), lambda: self.store.sizes("models"))
        gone = {key.split("/")[1] for key in keys if key.endswith("/deleted.json")}
        ids = [id for key in keys if key.endswith("/manifest.json") and (id := key.split("/")[1]) not in gone]
        found = [m for id in ids if (m := self._listed_as(id, keys)) is not None and m.keys() >= NEEDED]
        return sorted(found, key=lambda manifest: (manifest["created"], manifest["id"]), reverse=True)

    def failures(self) -> list[str]:
        """The ids of uploads that are kept though their ingest was given up. One that was given up in the last seconds
        may not be among them."""
        searched, ids = self._failures
        if time.monotonic() - searched >= FAILURES_SECONDS:
            searched, keys = time.monotonic(), self._known(("models",), lambda: self.store.sizes("models"))
            ids = [key.split("/")[1] for key in keys if key.endswith("/failure.json")]
            self._failures = searched, ids
        return [id for id in ids if self.failure(id) is not None and not self.store.exists(manifest_key(id))]

    def _listed_as(self, id: str, about: Mapping[str, tuple[int, float]]) -> Mapping[str, Any] | None:
        """A manifest as it is listed: one from another time is another one."""
        key = manifest_key(id)
        return self._listed.get((id, about[key]), lambda: self.store.read_json(key))

    def record(self, id: str, digest: str) -> Record | None:
        """What is known of a cut. Raises `Problem` where another version of the service wrote it in other words."""

        def read() -> Record | None:
            data = self.store.read_json(record_key(id, digest))
            try:
                return Record.from_json(data) if data is not None else None
            except (KeyError, TypeError, ValueError) as error:
                raise _foreign(record_key(id, digest)) from error

        return self._records.get((id, digest), read)

    def records(self, id: str) -> list[Record]:
        """Every known cut of a model, the smallest first."""
        keys = self._known(("records", id), lambda: self.store.keys(f"models/{id}/measurements"))
        digests = [key.rsplit("/", 1)[-1].removesuffix(".json") for key in keys]
        found: list[Record] = []
        for digest in digests:
            try:
                record = self.record(id, digest)
            except Problem as error:
                if error.kind != "master-unreadable":
                    raise
                continue
            found += [record] if record is not None else []
        return sorted(found, key=lambda record: record.size)

    def record_of(self, id: str, sha256: str) -> Record | None:
        """What is known of the cut whose file has this SHA-256; None where no size that has been made is that file."""
        for _ in range(2):
            for record in self.records(id):
                if record.sha256 == sha256:
                    return record
            self._records.drop(lambda key: key[0] == id)  # another process may have cut it anew
        return None

    def versions(self, name: str) -> list[int]:
        """The versions of a name, rising."""
        return self._versions(f"names/{name}")

    def _versions(self, prefix: str) -> list[int]:
        found = (VERSION.fullmatch(key.rsplit("/", 1)[-1]) for key in self.store.keys(prefix))
        return sorted(int(match[1]) for match in found if match)

    def names(self) -> dict[str, list[str]]:
        """For every id, what it is called: `name@version`."""
        return self._known(("names",), self._names)

    def _names(self) -> dict[str, list[str]]:
        versions: list[tuple[str, int, str]] = []
        for key in self.store.keys("names"):
            record = self._version(key)
            if record is not None:
                _, name, file = key.split("/")
                versions.append((name, int(file.removesuffix(".json")), record["id"]))
        called: dict[str, list[str]] = {}
        for name, version, id in sorted(versions):
            called.setdefault(id, []).append(f"{name}@{version}")
        return called

    def names_of(self, id: str) -> list[str]:
        return self.names().get(id, [])

    def publish(self, name: str, id: str) -> int:
        """Gives `name` a new version that is `id`, unless the latest is; the version. Raises `Problem`."""
        for _ in range(16):
            # A version that was set aside had a number, which stays its own.
            versions = sorted([*self.versions(name), *self._versions(f"{DAMAGED}/names/{name}")])
            latest = versions[-1] if versions else 0
            record = self._version(name_key(name, latest)) if latest else None
            if record is not None and record["id"] == id:
                return latest
            if self.store.create_json(name_key(name, latest + 1), {"id": id, "created": time.time()}):
                return latest + 1
        raise Problem("name-taken", f"Too many models are being published as {name!r} right now.", "Try again.")

    def publish_wanted(self, id: str) -> dict[str, int]:
        """Publishes the names that were asked for while the model was not finished; name → version."""
        published: dict[str, int] = {}
        keys = self.store.keys(f"models/{id}/wanted")
        uploaded = float((self.store.read_json(upload_key(id)) or {}).get("uploaded", math.inf)) if keys else 0.0
        for key in keys:
            name = key.rsplit("/", 1)[-1]
            # Whoever was killed before the next line has given it already, and others may have come since.
            given = [version for version in self.versions(name) if self._since(name, version, id, uploaded)]
            published[name] = given[-1] if given else self.publish(name, id)
            self.store.delete(key)
        return published

    def _since(self, name: str, version: int, id: str, when: float) -> bool:
        """Whether this version is that model, and was given it at that time or later."""
        record = self._version(name_key(name, version))
        return record is not None and record["id"] == id and record.get("created", 0.0) >= when

    # What follows decides whether a model is there, and is done by who holds `changing` it.

    @contextmanager
    def changing(self, id: str) -> Iterator[Lock]:
        """Keeps others from making or removing the model meanwhile. Raises `Problem` where another does so for long."""
        with self.cache.lock(f"model:{id}") as lock:
            yield lock

    def whole(self, id: str) -> bool:
        """Whether the model is there, and of the upload that is. A killed process can leave one of an upload that was
        deleted meanwhile, and whose files are gone."""
        manifest = self.store.read_json(manifest_key(id))
        if manifest is None:
            return False
        token = self._token(id)
        return TOKEN not in manifest or manifest[TOKEN] == token or (token is None and self.damaged(id))

    def damaged(self, id: str) -> bool:
        """Whether the intent of the upload could not be read and was set aside: nobody has deleted it."""
        return self.store.exists(f"{DAMAGED}/{upload_key(id)}")

    def establish(self, id: str, manifest: Mapping[str, Any]) -> bool:
        """Makes a model of an upload by writing its manifest; False where another attempt has done so. Raises
        `Cancelled` where the upload has gone."""
        if self._token(id) != manifest[TOKEN]:
            raise Cancelled("The model was deleted while it was being decomposed.")
        # Only where there is one: whoever stands still right before this would remove another attempt's.
        if self.store.exists(manifest_key(id)) and not self.whole(id):
            self.store.delete(manifest_key(id))
        created = self.store.create_json(manifest_key(id), dict(manifest))
        # From here on this process may have been frozen, and the lock another's: what is there by now may be of others.
        if created and self._token(id) != manifest[TOKEN]:
            if self._stands(manifest):
                self.store.delete(manifest_key(id))
            raise Cancelled("The model was deleted while it was being decomposed.")
        if created:
            kept = where(manifest)
            others = [key for key in self.store.keys(f"models/{id}/{MADE}") if not key.startswith(kept)]
            if self._stands(manifest):  # asked after they were listed: so none of them is of whoever comes later
                self.store.delete(failure_key(id), *others)
        return created

    def _stands(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the model's manifest is this one."""
        there = self.store.read_json(manifest_key(manifest["id"]))
        return there is not None and where(there) == where(manifest)

    def deleted(self, id: str) -> float | None:
        """Until when a deleted model can be had back (seconds since 1970); None where it was not deleted."""
        marker = self.store.read_json(deleted_key(id))
        return None if marker is None else float(marker["deleted"]) + UNDO_SECONDS

    def hide(self, id: str, by: str) -> None:
        """Deletes a finished model in a way that `unhide` undoes."""
        self.store.create_json(deleted_key(id), {"deleted": time.time(), "by": by})
        self.forget(id)

    def unhide(self, id: str) -> None:
        self.store.delete(deleted_key(id))

    def discard(self, id: str, token: str | None = None) -> bool:
        """Removes a model, finished or not, with everything that only it refers to; with `token` only if it is still of
        that upload. Whether it was removed.

        The upload's intent goes first, so that a crash on the way never brings the model back.
        """
        with self.cache.lock("checkpoints") as lock:
            if token is not None and self._token(id) != token:
                return False
            blobs = self._blobs(id)
            for other in self.ids():
                if blobs and other != id:
                    blobs -= self._blobs(other)
            keys = self.store.keys(f"models/{id}")  # now: what comes later is of another upload
            if not lock.hold():
                raise unavailable("the store")
            self.store.delete(upload_key(id), manifest_key(id))
            self.store.delete(*keys)
            # A cut that found the manifest when it had written its files leaves them; one that did not takes them away.
            late = [key for each in CUTS for key in self.store.keys(f"models/{id}/{each}")]
            if not lock.hold():
                blobs, late = set(), []  # this took so long that others may have come to rely on them
            self.store.delete(*late, *(checkpoint_key(sha256) for sha256 in blobs))
        self.cache.forget(id)
        self.forget(id)
        return True

    def failure(self, id: str) -> Mapping[str, Any] | None:
        """The problem for which the ingest of an upload was given up that is kept, if it was."""
        return self.store.read_json(failure_key(id))

    def refuse(self, id: str, error: Mapping[str, Any], owner: str) -> None:
        """Keeps for a day why an upload was refused that is not kept itself: Redis may forget it."""
        self.store.replace_json(
            refusal_key(id), {"error": dict(error), "owner": owner, "until": time.time() + UNDO_SECONDS}
        )

    def refusal(self, id: str) -> Mapping[str, Any] | None:
        """The `error` for which an upload was refused, and whose it was, while that is known."""
        return self.store.read_json(refusal_key(id))

    def forget_refusals(self) -> None:
        """Removes those whose day is over."""
        for key in self.store.keys("refused"):
            kept = self.store.read_json(key)
            if kept is not None and time.time() > kept["until"]:
                self.store.delete(key)

    def _token(self, id: str) -> str | None:
        """Which upload this is: the same files can be deleted and come again."""
        upload = self.store.read_json(upload_key(id))
        return None if upload is None else upload.get(TOKEN, "")

    def forget(self, id: str) -> None:
        """Drops what this process keeps of a model."""
        self._checked.pop(id, None)
        self._models.drop(lambda key: key == id)
        self._manifests.drop(lambda key: key == id)
        self._records.drop(lambda key: key[0] == id)
        self.reports.forget(id)

    def forget_record(self, id: str, digest: str) -> None:
        """Drops what this process keeps of a cut."""
        self._records.drop(lambda key: key == (id, digest))

    def _version(self, key: str) -> Mapping[str, Any] | None:
        found = self._named.get(key, lambda: self.store.read_json(key))
        return found if found is not None and "id" in found else None

    def _blobs(self, id: str) -> set[str]:
        source = self.store.read_json(upload_key(id)) or self.store.read_json(manifest_key(id)) or {}
        return set(digests_of(source))

    def _load(self, id: str) -> Model | None:
        tag = self.store.tag(manifest_key(id))  # first: of a newer one it would hide the change
        manifest = self.store.read_json(manifest_key(id))
        if tag is None or manifest is None or self.store.exists(deleted_key(id)):
            return None
        known = self._manifests.get(id, lambda: manifest)
        if known is None or known.get("created") != manifest.get("created"):
            self.forget(id)  # what is known is of one that was there before
        self._manifests.put(id, manifest)
        if not manifest.keys() >= NEEDED:
            raise _foreign(manifest_key(id))
        try:
            files = digests_in(manifest)
            with self.folder(manifest, (*PLANNER, *(name for name in MIXED[:1] if name in files))) as folder:
                return Model.open(folder, id, manifest, tag)
        except FileNotFoundError:
            if self.whole(id):
                raise
            log.warning("the model %s was left half deleted; it is not there", id)
            return None

    def _still_there(self, model: Model) -> bool:
        now = time.monotonic()
        if now - self._checked.get(model.id, -RECHECK_SECONDS) < RECHECK_SECONDS:
            return True
        try:
            tag = self.store.tag(manifest_key(model.id))
            if self.store.exists(deleted_key(model.id)):
                return False
            if tag is None:
                self.store.keys(f"models/{model.id}")  # a bucket that is not there says "not found" to the other, too
        except Problem as error:
            if error.kind != "unavailable":
                raise
            tag = model.tag  # it does not answer: what was true stays so
        if tag != model.tag:
            return False
        self._checked[model.id] = now
        return True


def _foreign(key: str) -> Problem:
    return Problem("master-unreadable", f"{key} was written by another version of the service.", "Run that version.")


def no_model(reference: str) -> Problem:
    """That a reference stands for nothing."""
    return Problem("model-not-found", f"There is no model {reference[:100]!r}.", "GET /models lists those there are.")
