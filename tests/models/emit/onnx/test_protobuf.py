from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.models.emit.onnx import protobuf


@settings(deadline=None)
@given(st.integers(0, 2**62))
def test_the_size_of_a_number_is_that_of_its_bytes(number: int) -> None:
    assert int(protobuf.varint_size(number)) == len(protobuf.varint(number))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**31), max_size=4), st.text(max_size=200))
def test_a_tensor_takes_what_was_said_for_each_rank(shape: list[int], name: str) -> None:
    shape = [size % 400 for size in shape]
    several = [np.array([size, size + 1, 130]) for size in shape]
    raw = np.asarray(4 * np.prod(several, axis=0, dtype=np.int64))
    sizes = np.broadcast_to(protobuf.tensor_size(name.encode(), several, raw), (3,)) if shape else None
    for place, each in enumerate(zip(*several, strict=True)):
        data = 4 * int(np.prod(each, dtype=np.int64))
        assert sizes is not None
        assert sizes[place] == len(protobuf.tensor_opening(name.encode(), 1, each, data)) + data


def test_a_tensor_is_read_by_onnx() -> None:
    onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = protobuf.tensor_opening(b"w", 1, numbers.shape, numbers.nbytes) + numbers.tobytes()
    graph = onnx.GraphProto.FromString(data)
    assert graph.initializer[0].name == "w"
    assert (onnx.numpy_helper.to_array(graph.initializer[0]) == numbers).all()
