"""Looks through a store: whether what a model needs is there and is what was written, and what is there for nothing.

It changes nothing unless it is asked to repair: then it removes leftovers of more than a day, which no upload under way
can need, and sets aside what cannot be read.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rightrank.models.master.ranges import RANGES
from rightrank.models.master.rounded import ROUNDED
from rightrank.service.registry.layout import (
    EVALUATION,
    MASTER,
    MIXED,
    REFERENCE,
    REFIT,
    digests_of,
    manifest_key,
    tuning_key,
    upload_key,
)
from rightrank.service.registry.reports import KEY as REPORT
from rightrank.service.registry.store import DAMAGED, PARTIAL, STAGED, Store

# Something is gone for good; something is damaged that the service makes again; something is there for nothing;
# something that an operator may want to know.
LOST, REMADE, LEFTOVER, NOTE = "lost", "remade", "leftover", "note"
DAY = 24 * 3600
# What versions before this one called a file that is not whole yet.
OLD_PARTIAL = re.compile(r"\.partial-[0-9a-f]{32}$")
# A model's files, and what belongs to it besides, by the first part of its key.
FILES = frozenset({*MASTER, *MIXED, ROUNDED, RANGES, EVALUATION, REFERENCE, REFIT, "tuning.safetensors"})
OWN = frozenset(
    {"upload.json", "manifest.json", "deleted.json", "failure.json"}
    | {"wanted", "measurements", "reported", "improved", "artifacts"}
)
AGAIN = "Restore it from a backup, or delete the model and publish it again."
REPORT_AGAIN = "Have its publisher report it again."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found at `key`: its kind, what is wrong, what to do, and whether that was done."""

    kind: str
    key: str
    what: str
    todo: str
    done: bool = False


class Fsck:
    """One look through `store`. `quick`: sizes only, no bytes are read but those of JSON files."""

    def __init__(self, store: Store, quick: bool = False, repair: bool = False) -> None:
        self.store, self.quick, self.repair = store, quick, repair
        self._there: dict[str, tuple[int, float]] = {}
        self._json: dict[str, dict[str, Any]] = {}
        # What a model or an upload refers to.
        self._blobs: set[str] = set()

    def run(self) -> Iterator[Finding]:
        """All that is found. Raises `Problem` where the store does not answer."""
        self._there = self.store.sizes("")
        yield from self._partial()
        yield from self._readable()
        models: dict[str, list[str]] = defaultdict(list)
        for key in self._there:
            top, _, rest = key.partition("/")
            if top == "models" and "/" in rest:
                models[rest.partition("/")[0]].append(key)
            elif top == DAMAGED:
                yield Finding(NOTE, key, "It was set aside: it could not be read.", "Look into it, then remove it.")
            elif top == STAGED:
                yield self._leftover(key, "It was on its way into the store.")
            elif top not in ("checkpoints", "names", "aliases", "refused"):
                yield Finding(NOTE, key, "It is no part of a store.", "Find out whose it is.")
        for id, keys in sorted(models.items()):
            yield from self._model(id, keys)
        yield from self._checkpoints()
        yield from self._names()

    def _partial(self) -> Iterator[Finding]:
        """Files that were never finished, which only a folder can have."""
        root = self.store.root
        for parent, _, names in os.walk(root) if root is not None else ():
            for name in names:
                if PARTIAL.search(name) or (OLD_PARTIAL.search(name) and Path(parent).name != "wanted"):
                    path = Path(parent, name)
                    key = path.relative_to(root or path).as_posix()
                    self._there.pop(key, None)
                    old = self.repair and time.time() - path.stat().st_mtime > DAY
                    if old:
                        path.unlink(missing_ok=True)
                    yield Finding(LEFTOVER, key, "It was never finished.", "It can be removed.", old)

    def _readable(self) -> Iterator[Finding]:
        """Reads every JSON file."""
        for key in sorted(self._there):
            top, id, name, *_ = (*key.split("/"), "", "")
            if not key.endswith(".json") or not (
                top in ("names", "aliases", "refused") or (top == "models" and name in OWN)
            ):
                continue  # of a model's own files its manifest says what they are
            try:
                data = self.store.read(key)
            except FileNotFoundError:  # just deleted
                del self._there[key]
                continue
            try:
                found = json.loads(data)
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                self._json[key] = found
                continue
            remade = name == "measurements" or (name == "manifest.json" and upload_key(id) in self._there)
            if self.repair:
                self.store.set_aside(key, data)
            yield Finding(
                REMADE if remade else LOST,
                key,
                f"Its {len(data)} bytes are not a JSON object.",
                "The service makes it again." if remade else REPORT_AGAIN if name == "reported" else AGAIN,
                self.repair,
            )

    def _model(self, id: str, keys: list[str]) -> Iterator[Finding]:
        manifest, upload = self._json.get(manifest_key(id)), self._json.get(upload_key(id))
        unreadable = {manifest_key(id), upload_key(id)} & self._there.keys() - self._json.keys()
        for source in (manifest, upload):
            self._blobs |= set(digests_of(source or {}))
        if manifest is None:
            # Of an upload all may belong to an attempt; of a model that cannot be read nothing is thrown away.
            for key in keys if upload is None and not unreadable else ():
                yield self._leftover(key, "It belongs to no model.")
            return
        below = f"models/{id}/" + (f"{manifest['folder']}/" if manifest.get("folder") else "")
        files = files_of(manifest)
        for name, file in files.items():
            yield from self._file(below + name, file)
        records = {key.rsplit("/", 1)[-1].removesuffix(".json") for key in keys if "/measurements/" in key}
        for key in sorted(keys):
            first = key.split("/")[2]
            if first == "artifacts" and key.rsplit("/", 1)[-1].partition(".")[0] not in records:
                yield self._leftover(key, "It is an artifact that nobody knows of.")
            elif first not in OWN and not (key.startswith(below) and key.removeprefix(below) in files):
                if key.rsplit("/", 1)[-1] in FILES and ("files" in manifest or key == tuning_key(id)):
                    yield self._leftover(key, "It is of an attempt that came to nothing.")
                elif "files" in manifest:
                    yield Finding(NOTE, key, "The model's manifest does not name it.", "Find out whose it is.")
        yield from self._artifacts(id, keys)
        yield from self._reports(keys)

    def _file(self, key: str, file: Mapping[str, Any]) -> Iterator[Finding]:
        """Whether a file of a model is what its manifest says, as far as it says."""
        if key not in self._there:
            yield Finding(LOST, key, "It is not there, and its model needs it.", AGAIN)
        elif file and self._there[key][0] != file["size"]:
            size = self._there[key][0]
            yield Finding(LOST, key, f"It has {size} bytes, and had {file['size']} when it was written.", AGAIN)
        elif file and not self.quick and self._differs(key, file["sha256"]):
            yield Finding(LOST, key, "Its bytes are not those that were written.", AGAIN)

    def _artifacts(self, id: str, keys: list[str]) -> Iterator[Finding]:
        """Artifacts that lie in the store against what is recorded of them."""
        for key in keys:
            record = self._json.get(key) if key.split("/")[2] == "measurements" else None
            if not record or not record.get("stored"):
                continue
            plan = key.rsplit("/", 1)[-1].removesuffix(".json")
            found = [each for each in keys if each.startswith(f"models/{id}/artifacts/{plan}.")]
            for artifact in (each for each in found if not each.endswith(".pieces")):
                wrong = self._there[artifact][0] != record["size"]
                if wrong or (not self.quick and self._differs(artifact, record["sha256"])):
                    if self.repair:
                        self.store.drop_artifact(artifact)
                    what = "Its bytes are not those that were measured."
                    yield Finding(REMADE, artifact, what, "The service cuts it again.", self.repair)

    def _reports(self, keys: list[str]) -> Iterator[Finding]:
        """What publishers have reported, of which only the last of each metric of a file counts."""
        reports = sorted(key for key in keys if key.split("/")[2] == "reported")
        found = {key: match for key in reports if (match := REPORT.fullmatch(key))}
        last: dict[tuple[str, str], int] = {}
        for match in found.values():
            place = match["file"], match["metric"]
            last[place] = max(last.get(place, 0), int(match["number"]))
        files = {
            self._json[key].get("sha256") for key in keys if key.split("/")[2] == "measurements" and key in self._json
        }
        for key in reports:
            match = found.get(key)
            if match is None:
                yield Finding(NOTE, key, "It is no report.", "Find out whose it is.")
            elif int(match["number"]) < last[match["file"], match["metric"]]:
                yield self._leftover(key, "A later report has taken its place.")
            elif match["file"] not in files:
                yield Finding(NOTE, key, "No size of the model is the file that it is of.", "Nothing: it is not shown.")

    def _checkpoints(self) -> Iterator[Finding]:
        # An upload that was set aside may have been the one that refers to a checkpoint.
        unsure = any(key.startswith(f"{DAMAGED}/models/") and "/upload.json" in key for key in self._there)
        unsure |= any(key.endswith("/upload.json") and key not in self._json for key in self._there)
        for sha256 in sorted(self._blobs):
            if f"checkpoints/{sha256}" not in self._there:
                yield Finding(LOST, f"checkpoints/{sha256}", "It is not there, and was uploaded.", AGAIN)
        for key in sorted(key for key in self._there if key.startswith("checkpoints/")):
            sha256 = key.partition("/")[2]
            if sha256 not in self._blobs:
                if unsure:
                    what = "Nobody refers to it, but an upload that cannot be read may have."
                    yield Finding(NOTE, key, what, "Look into that upload first.")
                else:
                    yield self._leftover(key, "Nobody refers to it.")
            elif not self.quick and self._differs(key, sha256):
                yield Finding(LOST, key, "Its bytes are not those that were uploaded.", AGAIN)

    def _names(self) -> Iterator[Finding]:
        for key in sorted(key for key in self._json if key.startswith("names/")):
            id = self._json[key].get("id")
            if not {manifest_key(str(id)), upload_key(str(id))} & self._there.keys():
                what = f"The model {id} does not exist any more."
                yield Finding(NOTE, key, what, "Nothing, if it was deleted: its number is not given again.")

    def _differs(self, key: str, sha256: str) -> bool:
        """Whether an object has other bytes; one that has just been deleted has none."""
        try:
            return self.store.sha256(key) != sha256
        except FileNotFoundError:
            return False

    def _leftover(self, key: str, what: str) -> Finding:
        old = self.repair and time.time() - self._there[key][1] > DAY
        if old:
            self.store.delete(key)
        return Finding(LEFTOVER, key, what, "It can be removed.", old)


def files_of(manifest: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """A model's files by name, with the size and the SHA-256 of each, which older manifests do not have."""
    if "files" in manifest:
        files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        return files
    return {name: {} for name in (*MASTER, *([EVALUATION] if manifest.get("evaluation") else []))}
