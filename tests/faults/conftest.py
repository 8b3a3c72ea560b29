"""One Valkey, a small network that has been read, and worlds to break."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pytest

from rightrank.service.run.valkey import Embedded
from rightrank.service.settings import MIB, Settings
from tests.faults import steps, world
from tests.faults.scenes import SCENES, Scene
from tests.faults.steps import Steps
from tests.faults.table import TABLE
from tests.faults.world import Files, World

T = TypeVar("T")
# `make test-faults` sets it: then everything is tried, and otherwise a part that is drawn by the test's name.
ALL = bool(os.environ.get("FAULTS"))


def some(everything: Sequence[T], most: int, seed: object) -> list[T]:
    """All of it, or in a quick run so many, drawn by `seed`, in their order."""
    if ALL or len(everything) <= most:
        return list(everything)
    chosen = set(random.Random(str(seed)).sample(range(len(everything)), most))
    return [each for number, each in enumerate(everything) if number in chosen]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if ALL and TABLE.cells:
        terminalreporter.section("faults")
        for line in TABLE.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = Settings(data=tmp_path_factory.mktemp("valkey"), cache_bytes=64 * MIB)
    with Embedded(settings):
        yield f"{settings.redis}?db=2"


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return world.files_in(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def small(net: Files) -> Iterator[None]:
    """Short times, a journal of operations, and a reading child that has done its work beforehand."""
    with pytest.MonkeyPatch.context() as patch:
        world.small_times(patch)
        world.journalled(patch)
        world.read_beforehand(patch, net)
        yield


@pytest.fixture(scope="module")
def the_world(small: None, redis_url: str, net: Files, tmp_path_factory: pytest.TempPathFactory) -> World:
    return world.world_in(tmp_path_factory.mktemp("world"), redis_url, net)


@pytest.fixture(scope="module")
def watched(the_world: World) -> Iterator[Steps]:
    with steps.installed() as installed:
        yield installed


@pytest.fixture(scope="module")
def the_scenes(the_world: World, watched: Steps) -> dict[str, Scene]:
    return {name: scene(the_world, watched) for name, scene in SCENES.items()}
