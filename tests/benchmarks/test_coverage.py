from __future__ import annotations

import pytest

from benchmarks.coverage import WORLDS, World, coverage, table
from rightrank.models.measure.metrics import METRICS


def test_every_measure_is_tried() -> None:
    assert {world.metric for world in WORLDS} == set(METRICS)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: f"{world.metric} of {world.what}")
def test_intervals_mostly_hold_the_truth(world: World) -> None:
    """Of 40 sets, on fewer samples than the benchmark's: an interval of half the width would hold it in 27."""
    found = coverage(World(world.metric, world.what, world.make, 2000, world.of_sets), 150, 40)
    assert float(found["coverage"]) >= 0.8 and float(found["width"]) > 0
    assert world.metric in table([found])
