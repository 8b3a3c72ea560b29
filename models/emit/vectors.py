"""Vectors in eight bits, as a file of coded levels has them: each with a step of its own.

In a small network's file biases and norms are most of what there is beside levels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Steps and scales are stored as so many times what they are, in half precision: most are below what that holds well.
TIMES = 4096.0
# The largest number of half precision.
HALF = 65504.0
LARGEST = 127
# What a vector is stored as may grow by so much when a plan is improved, and still be held; and the largest of its
# numbers shall not be below what half precision holds with all its digits.
ROOM, SMALLEST = 2.0, 2.0**-14
# The largest number of a vector, in its root mean square, at which a step for all of them is still a fine one.
CREST = 8.0


def suits(vector: NDArray[np.float32]) -> bool:
    """Whether eight bits will do: no number is so large that the others have few levels."""
    size = float(np.sqrt(np.mean(np.square(vector, dtype=np.float64)))) if vector.size else 0.0
    largest = float(np.abs(vector).max(initial=0))
    return math.isfinite(size) and 0 < largest <= min(CREST * size, LARGEST * HALF / TIMES)


def held(vector: NDArray[Any], times: float = 1.0) -> bool:
    """Whether half precision will do for a vector, stored as so many times what it is."""
    largest = float(np.abs(vector).max(initial=0)) * times
    return largest == 0 or SMALLEST <= largest <= HALF / ROOM


def rounded(vector: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.uint16]]:
    """A vector (n,) as levels, and the step (1,) as it is stored."""
    given = np.nan_to_num(vector.astype(np.float64))
    step = np.minimum(np.abs(given).max(initial=0, keepdims=True) / LARGEST * TIMES, HALF).astype(np.float16)
    levels = np.rint(np.divide(given * TIMES, step, out=np.zeros_like(given), where=step > 0))
    return np.clip(levels, -LARGEST, LARGEST).astype(np.int8), step.view(np.uint16)


def numbers(vector: NDArray[np.float32]) -> NDArray[Any]:
    """What a file makes of a vector, in single precision."""
    levels, step = rounded(vector)
    return levels.astype(np.float32) * (step.view(np.float16).astype(np.float32) * np.float32(1 / TIMES))
