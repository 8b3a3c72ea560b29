"""Levels of four bits as onnx packs them."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.emit.onnx import elements
from rightrank.models.master.template import TensorSpec
from rightrank.models.program.dtypes import DTYPES


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (1,), (0, 7), (3, 1, 3, 3)])
def test_they_are_read_as_they_were(shape: tuple[int, ...]) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    levels = np.random.default_rng(0).integers(-7, 8, shape).astype(np.int8)
    data = elements.packed(levels)
    assert data.nbytes == elements.bytes_of(TensorSpec("int4", shape)) == (levels.size + 1) // 2
    number = elements.number_of("int4")
    assert number == onnx.TensorProto.INT4
    tensor = onnx.helper.make_tensor("levels", number, shape, data.tobytes(), raw=True)
    assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(np.int8), levels)


def test_others_take_their_width_at_every_rank() -> None:
    ranks = np.arange(1, 5)
    found = elements.bytes_of(TensorSpec("float32", (ranks, 3)))  # type: ignore[arg-type]
    assert found.tolist() == [12, 24, 36, 48]
    assert elements.bytes_of(TensorSpec("int4", (ranks, 3))).tolist() == [2, 3, 5, 6]  # type: ignore[arg-type]
    assert all(elements.number_of(name) == row.onnx for name, row in DTYPES.items())
