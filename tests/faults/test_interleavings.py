"""An attempt that stands still before any of its steps, while others do whatever they may from beginning to end: they
wait for nothing of it, since its lease and its locks have lapsed, and it has seen no sign of them when it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from rightrank.service.jobs import attempt
from rightrank.service.registry import cache
from rightrank.service.registry.layout import deleted_key, upload_key
from tests.faults import verdict
from tests.faults.conftest import some
from tests.faults.scenes import SCENES, Scene
from tests.faults.steps import Step, Steps
from tests.faults.table import TABLE
from tests.faults.world import World

CANCEL, DELETE, PURGE, UPLOAD, WORK = "cancel", "delete", "purge", "upload", "work"
# What others do meanwhile, one after the other. `work` performs all that there is to do, this job included.
ACTS = (
    (CANCEL,),
    (PURGE,),
    (CANCEL, UPLOAD),
    (PURGE, UPLOAD),
    (WORK,),
    (WORK, PURGE),
    (WORK, PURGE, UPLOAD),
    (PURGE, UPLOAD, WORK),
    (CANCEL, UPLOAD, WORK),
    (DELETE,),
    (WORK, DELETE),
    (WORK, DELETE, UPLOAD),
)
# How many steps a quick run tries of each case.
QUICK = 2


@pytest.fixture(scope="module")
def frozen() -> Iterator[None]:
    """Whoever stands still renews nothing and hears of nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "BEAT_SECONDS", 3600.0)
        patch.setattr(cache, "_renew", lambda *_: None)
        yield


def do(world: World, scene: Scene, acts: tuple[str, ...]) -> None:
    for act in acts:
        parts = world.another()
        if act == CANCEL:
            parts.cancel(scene.operation)
        elif act in (DELETE, PURGE):
            parts.remove(scene.model, purge=act == PURGE)
        elif act == UPLOAD:
            world.upload(parts)
        else:
            while world.work():
                pass


def broken(world: World, steps: Steps, scene: Scene, acts: tuple[str, ...], place: int) -> Iterator[str]:
    """What is wrong after the others did this before the step `place`."""
    scene.begin()
    there: list[tuple[bool, bool]] = []
    wrong: list[str] = []

    def at(number: int, step: Step, go_on: Callable[[], Any]) -> Any:
        if number == place:
            with steps.unwatched():
                world.lapse()
                try:
                    do(world, scene, acts)
                except Exception as error:
                    wrong.append(f"{acts}: {type(error).__name__}: {error}")
                store = world.another().store
                there.append((store.exists(upload_key(scene.model)), store.exists(deleted_key(scene.model))))
        return go_on()

    with steps.watched(at):
        world.work()
    yield from wrong
    if not there:
        yield f"step {place} did not come"
        return
    if not world.settle():
        yield f"it does not come to an end: {world.history()}"
    yield from verdict.ends_once(world)
    wanted, hidden = there[0]
    if hidden:
        if world.another().catalogue.deleted(scene.model) is None:
            yield "a deleted model is back"
        world.parts.restore(scene.model)
    if wanted:
        yield from verdict.whole(world, scene.model, scene.known)
    else:
        yield from verdict.gone(world, scene.model)
    yield from verdict.tidy(world)


@pytest.mark.parametrize("acts", ACTS, ids="+".join)
@pytest.mark.parametrize("name", SCENES)
def test_what_others_do_while_an_attempt_stands_still_is_what_counts(
    frozen: None, the_world: World, watched: Steps, the_scenes: Mapping[str, Scene], name: str, acts: tuple[str, ...]
) -> None:
    scene = the_scenes[name]
    # The first steps take the job from the queue: before that, there is no attempt.
    places = [number for number, step in enumerate(scene.taken) if step.part != "engine.take"]
    found: list[str] = []
    for place in some(places, QUICK, (name, acts)):
        step = scene.taken[place]
        violations = list(broken(the_world, watched, scene, acts, place))
        TABLE.add(f"{name}, frozen", f"{' '.join(acts)}", step.part, violations)
        found += [f"step {place}, {step.call} of {step.part}: {each}" for each in violations]
    assert found == []
