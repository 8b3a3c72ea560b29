from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rightrank.models.emit.encoding.int8 import Int8
from rightrank.models.errors import PrecisionError
from rightrank.models.master.template import TensorSpec

INT8 = Int8()


def stored(numbers: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The levels and the scales that stand for numbers in a file."""
    parts = INT8.encode(numbers.view(np.uint32), "float32")
    return parts[""], parts["scale"]


rows = st.lists(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1, max_size=6
)


@given(rows)
def test_no_number_is_further_off_than_half_a_step_of_its_row(rows: list[list[float]]) -> None:
    numbers = np.array(rows, np.float32)
    levels, scale = stored(numbers)
    assert levels.dtype == np.int8 and scale.shape == (len(rows), 1) and np.isfinite(scale).all()
    error = np.abs(levels.astype(np.float64) * scale - numbers)
    # A scale that is no normal number of float32 is off by more; of such rows nothing is left but noise anyway.
    tiny = np.finfo(np.float32).tiny
    assert (error <= np.maximum(scale * 0.50001, 127 * tiny)).all()
    assert (np.abs(levels.astype(int)) <= 127).all()


def test_a_row_of_zeros_stays_one_and_the_largest_of_each_row_is_the_last_level() -> None:
    levels, scale = stored(np.array([[0, 0, 0], [2.54, -1.27, 0.02], [-1e-3, 5e-4, 0]], np.float32))
    assert levels.tolist() == [[0, 0, 0], [127, -64, 1], [-127, 64, 0]]
    assert scale[0] == 0 and scale[1] == np.float32(2.54) / np.float32(127)


def test_scales_are_along_the_first_axis_of_any_number() -> None:
    numbers = np.random.default_rng(0).normal(size=(4, 3, 5, 2)).astype(np.float32)
    levels, scale = stored(numbers)
    spec = TensorSpec("float32", numbers.shape)
    assert INT8.parts(spec) == {"": TensorSpec("int8", levels.shape), "scale": TensorSpec("float32", scale.shape)}
    assert scale.shape == (4, 1, 1, 1)
    assert np.array_equal(scale.ravel(), np.abs(numbers).reshape(4, -1).max(1) / np.float32(127))


def test_what_is_not_in_order_in_memory_is_read_in_its_own() -> None:
    numbers = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    part = numbers[:, :2]
    assert all(np.array_equal(one, other) for one, other in zip(stored(part), stored(part.copy()), strict=True))


def test_an_empty_tensor_has_no_levels() -> None:
    levels, scale = stored(np.zeros((3, 0), np.float32))
    assert levels.shape == (3, 0) and not scale.any()


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(PrecisionError, match="no level for a number that is not finite"):
        stored(np.array([[1, number]], np.float32))


@pytest.mark.parametrize(
    "spec", [TensorSpec("float32", (5,)), TensorSpec("int64", (5, 2)), TensorSpec("float16", (5, 2))]
)
def test_what_has_one_dimension_or_another_type_stays(spec: TensorSpec) -> None:
    array = np.zeros(spec.shape, np.uint8)
    assert INT8.parts(spec) == {"": spec} and INT8.encode(array, spec.dtype)[""] is array
    assert INT8.decode("x", spec, {}) == ()
