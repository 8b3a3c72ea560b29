"""Every error at every step of an ingest and of a cut: nothing is lost, nothing ends twice, nothing false is served."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from rightrank.service.registry.layout import upload_key
from tests.faults import verdict
from tests.faults.conftest import some
from tests.faults.errors import ERRORS, FOR_EVER, HEARD, Error
from tests.faults.scenes import SCENES, Scene
from tests.faults.steps import REDIS, Step, Steps
from tests.faults.table import TABLE
from tests.faults.world import TRIES, World

CASES = [(scene, error, mode) for scene in SCENES for error in ERRORS for mode in error.modes]
# How many steps a quick run tries of each case.
QUICK = 1


def failing(error: Error, mode: str, first: int) -> Callable[[int, Step, Callable[[], Any]], Any]:
    """What becomes of each step: it is the first that the error fits, from `first` on, that meets it. On a busy machine
    there may be others before than in the run that was counted."""
    met = False

    def at(number: int, step: Step, do: Callable[[], Any]) -> Any:
        nonlocal met
        if number >= first and error.fits(step) and (mode == FOR_EVER or not met):
            met = True
            if mode == HEARD:
                do()
            raise error.make()
        return do()

    return at


def broken(world: World, steps: Steps, scene: Scene, error: Error, mode: str, first: int) -> Iterator[str]:
    """What is wrong after this error at this step, once it has passed or was mended."""
    scene.begin()
    # Where Redis is away nobody gets another job; where anything else is, it is tried until it is given up.
    rounds = TRIES + 2 if mode == FOR_EVER and REDIS not in error.needs else 1
    with steps.watched(failing(error, mode, first)):
        for _ in range(rounds):
            with contextlib.suppress(redis.RedisError):
                world.work()
            with steps.unwatched():
                world.lapse()
                if not world.unfinished():
                    break
    if not world.settle():
        yield f"it does not come to an end: {world.history()}"
        return
    begun = 1
    for id in world.history():
        operation = world.parts.operation(id)
        if operation.state != "done":
            told = operation.error or {}
            if not told.get("type", "").endswith("/gave-up"):
                yield f"{id} is {operation.state}: {told}"
            if not world.parts.store.exists(upload_key(scene.model)):
                yield "the upload is lost"
                return
            world.parts.retry(id)
            begun += id == scene.operation and scene.name == "ingest"
    if not world.settle():
        yield f"tried again it does not come to an end: {world.history()}"
    yield from (f"{id} is {states[-1]}" for id, states in world.history().items() if states[-1] != "done")
    yield from verdict.ends_once(world, begun if scene.name == "ingest" else None)
    yield from verdict.whole(world, scene.model, scene.known)
    yield from verdict.tidy(world)


@pytest.mark.parametrize(("name", "error", "mode"), CASES, ids=[f"{s}-{e.name}-{m}" for s, e, m in CASES])
def test_an_error_at_any_step_costs_nothing_but_time(
    the_world: World, watched: Steps, the_scenes: Mapping[str, Scene], name: str, error: Error, mode: str
) -> None:
    scene = the_scenes[name]
    places = [number for number, step in enumerate(scene.taken) if error.fits(step)]
    found: list[str] = []
    for place in some(places, QUICK, (name, error.name, mode)):
        step = scene.taken[place]
        violations = list(broken(the_world, watched, scene, error, mode, place))
        TABLE.add(name, f"{error.name}, {mode}", step.part, violations)
        found += [f"step {place}, {step.call} of {step.part}: {each}" for each in violations]
    assert found == []
