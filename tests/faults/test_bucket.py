"""A bucket that fails at any request of an ingest and of a cut, also one that has done what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from rightrank.service.registry import store
from tests import faulty_s3
from tests.faults import verdict
from tests.faults.conftest import some
from tests.faults.scenes import SCENES, Scene
from tests.faults.steps import Steps
from tests.faults.table import TABLE
from tests.faults.world import Files, World, world_in
from tests.faulty_s3 import DENY, DROP, HANG, REFUSE, RESET

FAULTS = (REFUSE, RESET, HANG, DENY, DROP)
CASES = [(name, fault, times) for name in SCENES for fault in FAULTS for times in (1, None)]
# How many of these a quick run tries, each at one request.
QUICK = 8


@pytest.fixture(scope="module")
def the_world(small: None, redis_url: str, net: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with faulty_s3.serving() as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        for name in ("PATIENT", "PATIENT_PIECE_TIME"):
            patch.setattr(store, name, timedelta(seconds=0.5))
        yield world_in(tmp_path_factory.mktemp("world"), redis_url, net, bucket)


def broken(world: World, scene: Scene, fault: str, first: int, times: int | None) -> Iterator[str]:
    """What is wrong after the bucket has failed so often from its request `first` on."""
    assert world.bucket is not None
    scene.begin()
    with world.bucket.failing(fault, first=first, times=times):
        world.work()
    if not world.settle():
        yield f"it does not come to an end: {world.history()}"
        return
    yield from (f"{id} is {states[-1]}" for id, states in world.history().items() if states[-1] != "done")
    yield from verdict.ends_once(world)
    yield from verdict.whole(world, scene.model, scene.known)
    yield from verdict.tidy(world)


@pytest.mark.parametrize(("name", "fault", "times"), some(CASES, QUICK, "bucket"))
def test_a_bucket_that_fails_costs_nothing_but_time(
    the_world: World, watched: Steps, the_scenes: dict[str, Scene], name: str, fault: str, times: int | None
) -> None:
    scene, bucket = the_scenes[name], the_world.bucket
    assert bucket is not None
    scene.begin()
    bucket.asked.clear()
    assert the_world.work()
    asked = list(bucket.asked)
    found: list[str] = []
    for place in some(range(len(asked)), 1, (name, fault, times)):
        violations = list(broken(the_world, scene, fault, place + 1, times))
        TABLE.add(f"{name}, bucket", f"{fault}, {'once' if times else 'for ever'}", asked[place][0], violations)
        found += [f"request {place}, {' '.join(asked[place])}: {each}" for each in violations]
    assert found == []


@pytest.mark.parametrize("fault", [DENY, DROP])
def test_a_manifest_that_was_written_unheard_is_still_the_attempts_own(
    the_world: World, watched: Steps, the_scenes: dict[str, Scene], fault: str
) -> None:
    """A client of buckets asks again by itself, and is told that it is there already."""
    scene, bucket = the_scenes["ingest"], the_world.bucket
    assert bucket is not None
    scene.begin()
    with bucket.failing(fault, "put", key="manifest.json", times=1):
        the_world.work()
    assert the_world.settle()
    assert list(verdict.whole(the_world, scene.model, scene.known)) == []
    assert list(verdict.ends_once(the_world, 1)) == []
