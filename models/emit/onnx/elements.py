"""The elements of tensors in ONNX files: those of a program's types, and levels of four bits, two in a byte."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.int4 import INT4
from rightrank.models.master.template import TensorSpec
from rightrank.models.program.dtypes import DTYPES

# TensorProto.INT4 (onnx.proto).
NUMBER_OF_INT4 = 22


def number_of(dtype: str) -> int:
    """A type's number in ONNX."""
    return NUMBER_OF_INT4 if dtype == INT4 else DTYPES[dtype].onnx


def bytes_of(spec: TensorSpec) -> NDArray[np.int64]:
    """What the numbers of such a tensor take; where its sizes are arrays, for each of them."""
    count = np.asarray(math.prod(np.asarray(size, dtype=np.int64) for size in spec.shape), dtype=np.int64)
    return np.asarray((count + 1) // 2 if spec.dtype == INT4 else count * DTYPES[spec.dtype].width)


def packed(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Levels of four bits, of which each lies in a byte, two in one: the first in the lower half. What a last one
    leaves is zero."""
    flat = np.ascontiguousarray(levels).reshape(-1).view(np.uint8) & 15
    flat = np.append(flat, np.zeros(flat.size % 2, dtype=np.uint8))
    found: NDArray[np.uint8] = np.bitwise_or(flat[0::2], np.left_shift(flat[1::2], 4, dtype=np.uint8))
    return found
