"""The bytes of protobuf messages, as far as their sizes have to be known before they are written.

Nodes come from `onnx.helper`; tensors are written here, so that their numbers are never copied, and what surrounds them
all, so that a file's size is a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the fields that are written here, by message: their numbers (onnx.proto).
MODEL = {"ir_version": 1, "producer_name": 2, "doc_string": 6, "graph": 7, "opset_import": 8, "metadata_props": 14}
GRAPH = {"node": 1, "name": 2, "initializer": 5, "doc_string": 10, "input": 11, "output": 12}
TENSOR = {"dims": 1, "data_type": 2, "name": 8, "raw_data": 9}
# The most bytes of a message that any reader takes, and the bytes of the longest length below it.
LARGEST, LONGEST = 2**31 - 1, 5
_VARINT, _BYTES = 0, 2


def varint(number: int) -> bytes:
    """A number that is not negative, seven bits a byte."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def varint_size(number: Any) -> Any:
    """The bytes of `varint`, of a number or of each in an array."""
    number = np.asarray(number, dtype=np.int64)
    return 1 + sum((number >> 7 * digits > 0).astype(np.int64) for digits in range(1, 10 - 1))


def integer(field: int, number: int) -> bytes:
    """A field that is a number."""
    return varint(field << 3 | _VARINT) + varint(number)


def opening(field: int, size: int) -> bytes:
    """What precedes so many bytes of a field."""
    return varint(field << 3 | _BYTES) + varint(size)


def whole(field: int, data: bytes) -> bytes:
    """A field that is bytes, a text or a message."""
    return opening(field, len(data)) + data


def tensor_opening(name: bytes, dtype: int, shape: Sequence[int], size: int) -> bytes:
    """What precedes a tensor's numbers, of which there are `size` bytes, in a graph."""
    inner = b"".join(integer(TENSOR["dims"], each) for each in shape)
    inner += integer(TENSOR["data_type"], dtype) + whole(TENSOR["name"], name) + opening(TENSOR["raw_data"], size)
    return opening(GRAPH["initializer"], len(inner) + size) + inner


def tensor_size(name: bytes, shape: Sequence[Any], raw: NDArray[np.int64]) -> NDArray[np.int64]:
    """All bytes of a tensor in a graph whose numbers take `raw`; where its sizes are arrays, for each of them."""
    inner = sum((1 + varint_size(each) for each in shape), np.int64(0)) + 2
    inner = inner + 1 + varint_size(len(name)) + len(name) + 1 + varint_size(raw) + raw
    return np.asarray(1 + varint_size(inner) + inner, dtype=np.int64)
