"""What a layer may be: the options that are worth their bytes."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.plan.options import Options


def options(*pairs: tuple[float, float]) -> Options:
    return Options(*np.array(pairs, dtype=float).T)


def test_what_is_dearer_and_no_better_is_off_the_hull() -> None:
    given = options((10, 1.0), (20, 0.9), (30, 0.1), (40, 0.2), (50, 0.0), (10, 0.9))
    assert given.hull.tolist() == [5, 2, 4]
    assert given.gains.tolist() == pytest.approx([0.04, 0.005])


def test_of_equal_options_the_first_counts() -> None:
    assert options((10, 1.0), (20, 0.5), (20, 0.5)).hull.tolist() == [0, 1]
