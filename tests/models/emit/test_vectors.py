from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rightrank.models.emit.vectors import CREST, HALF, LARGEST, TIMES, numbers, rounded, suits


def drawn(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e2])
def test_no_number_is_off_by_more_than_half_a_step(size: float) -> None:
    vector = drawn(300) * np.float32(size)
    levels, step = rounded(vector)
    assert levels.dtype == np.int8 and abs(int(np.abs(levels).max())) == LARGEST
    assert step.shape == (1,)
    off = np.abs(numbers(vector) - vector).max()
    # Half a step, and what the step is off by in half precision.
    assert off <= np.abs(vector).max() / LARGEST * (0.5 + LARGEST * 2**-10)


def test_zeros_stay_zeros() -> None:
    assert not numbers(np.zeros(5, dtype=np.float32)).any()
    assert not len(rounded(np.zeros(0, dtype=np.float32))[0])


def test_what_is_no_number_is_nothing() -> None:
    assert numbers(np.array([1, np.nan], dtype=np.float32)).tolist() == [pytest.approx(1, rel=1e-3), 0]


@pytest.mark.parametrize(
    ("vector", "does"),
    [
        (drawn(64), True),
        (np.zeros(4, dtype=np.float32), False),
        (np.zeros(0, dtype=np.float32), False),
        (np.array([np.inf, 1], dtype=np.float32), False),
        (np.full(4, LARGEST * HALF / TIMES * 1.01, dtype=np.float32), False),
        # One number that leaves the others few levels.
        (np.array([2 * CREST * CREST, *[1] * 200], dtype=np.float32), False),
    ],
)
def test_eight_bits_will_do_where_numbers_are_of_a_size(vector: NDArray[np.float32], does: bool) -> None:
    assert suits(vector) is does
