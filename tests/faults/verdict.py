"""What must be true of a service, whatever went wrong in it, once everything is mended and all work is done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from rightrank.service.jobs.operations import ENDED, kind_of
from rightrank.service.problems import Problem
from rightrank.service.registry.fsck import LEFTOVER, LOST, REMADE, Fsck
from rightrank.service.registry.layout import MADE, where
from rightrank.service.registry.store import PARTIAL
from tests.faults.world import NAME, World


def ends_once(world: World, begun: int | None = None) -> Iterator[str]:
    """Each operation that was begun has ended, and only once; `begun`: how often the ingest was."""
    for id, states in world.history().items():
        ended = True
        for state in states:
            if state in ENDED and ended:
                yield f"{id} ended twice: {states}"
            if state == "running" and ended:
                yield f"{id} ran after its end: {states}"
            ended = state in ENDED
        if not ended:
            yield f"{id} has never ended: {states}"
        count = sum(state in ENDED for state in states)
        if begun is not None and kind_of(id) == "ingest" and count != begun:
            yield f"{id} was begun {begun} times and ended {count} times: {states}"


def whole(world: World, id: str, known: Mapping[str, str], name: str | None = NAME) -> Iterator[str]:
    """The model is there with every file that its manifest names, under its name, and every artifact that is served is
    the right one: `known` has the SHA-256 of each plan's."""
    parts = world.another()
    try:
        model = parts.catalogue.open(id)
    except (Problem, OSError) as error:
        yield f"lost: {error}"
        return
    for file, facts in model.manifest["files"].items():
        data = parts.store.read(f"{where(model.manifest)}/{file}")
        if {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} != facts:
            yield f"{file} is not what the manifest says"
    if name is not None:
        try:
            if parts.catalogue.resolve(name) != id:
                yield f"{name} is another model"
        except Problem:
            yield f"lost: it is not called {name}"
    wanted = parts.store.keys(f"models/{id}/wanted")
    if wanted:
        yield f"names were asked for and not given: {wanted}"
    made = set(parts.store.keys(f"models/{id}/{MADE}"))
    if others := made - {f"{where(model.manifest)}/{file}" for file in model.manifest["files"]}:
        yield f"of other attempts: {sorted(others)}"
    yield from right_bytes(world, id, known)


def right_bytes(world: World, id: str, known: Mapping[str, str]) -> Iterator[str]:
    """What is served of a model is what was recorded, and what a good run gives."""
    parts = world.another()
    for record in parts.catalogue.records(id):
        if record.sha256 != known[record.plan.digest]:
            yield f"the record of {record.plan.digest} is not of its bytes"
    for plan, sha256 in known.items():
        artifact = parts.cache.find(id, plan)
        if artifact is not None:
            served = hashlib.sha256(b"".join(parts.cache.read(artifact, 0, artifact.size))).hexdigest()
            if not artifact.sha256 == served == sha256:
                yield f"false bytes of {plan}"


def gone(world: World, id: str, interrupted: bool = False) -> Iterator[str]:
    """Nothing of the model is left, and nothing of it is served. `interrupted`: where removing it broke off, the files
    that were uploaded may be, which nothing refers to any more."""
    parts = world.another()
    spared = ("names/", "checkpoints/") if interrupted else ("names/",)
    left = [key for key in parts.store.keys("") if not key.startswith(spared)]
    if left:
        yield f"left of a deleted model: {left}"
    try:
        parts.catalogue.open(id)
        yield "a deleted model is there"
    except Problem as error:
        if error.kind != "model-not-found":
            yield f"a deleted model is {error.kind}"


def tidy(world: World, interrupted: bool = False) -> Iterator[str]:
    """No scratch is left, no file that is not whole, and nothing that `rightrank fsck` finds lost, false or left over;
    `interrupted`: but for the files of an upload (see `gone`)."""
    store = world.parts.store
    if left := [path.name for path in store.scratch.iterdir()]:
        yield f"left in scratch: {left}"
    if store.root is not None and (left := [path.name for path in store.root.rglob("*") if PARTIAL.search(path.name)]):
        yield f"left unfinished: {left}"
    for found in Fsck(store).run():
        if interrupted and found.kind == LEFTOVER and found.key.startswith("checkpoints/"):
            continue
        if found.kind in (LOST, REMADE, LEFTOVER):
            yield f"fsck: {found.kind}: {found.key}: {found.what}"
