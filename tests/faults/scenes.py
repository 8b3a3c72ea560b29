"""What a worker is given to do in a world, again and again from the same beginning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rightrank.service.jobs.operations import cut_id, ingest_id
from tests.faults.steps import Step, Steps
from tests.faults.world import World

# A size that the ingest does not have cut ahead.
BUDGET = 0.7


@dataclass(frozen=True)
class Scene:
    """`begin` brings the world to where `operation` is about to be taken by a worker; `taken` are the steps of a good
    run of it, and `known` the SHA-256 of every artifact that comes of a good run and all that follows from it, by
    plan."""

    name: str
    model: str
    operation: str
    begin: Callable[[], None]
    taken: list[Step]
    known: dict[str, str]


def ingest(world: World, steps: Steps) -> Scene:
    """An upload has been accepted."""
    world.restore({})
    model = world.upload()
    uploaded = world.kept()

    def begin() -> None:
        world.restore(uploaded)
        world.parts.ingest(model)

    return _recorded(world, steps, "ingest", model, ingest_id(model), begin)


def cut(world: World, steps: Steps) -> Scene:
    """A device has asked for a size of a finished model."""
    world.restore({})
    model = world.upload()
    assert world.settle()
    plan, finished = world.plan(model, BUDGET), world.kept()

    def begin() -> None:
        world.restore(finished)
        world.parts.cut(model, plan)

    return _recorded(world, steps, "cut", model, cut_id(model, plan.digest), begin)


SCENES = {"ingest": ingest, "cut": cut}


def _recorded(world: World, steps: Steps, name: str, model: str, operation: str, begin: Callable[[], None]) -> Scene:
    runs = []
    for _ in range(2):  # in the first, Redis and torch learn things
        begin()
        with steps.watched() as taken:
            assert world.work()
        runs.append(taken)
    assert world.settle()
    known = {record.plan.digest: record.sha256 for record in world.another().catalogue.records(model)}
    return Scene(name, model, operation, begin, runs[-1], known)
