"""The versions of ONNX that files are written in, and what reads them."""

from __future__ import annotations

from typing import NamedTuple

from rightrank.models.emit.encoding.encoding import Encoding
from rightrank.models.emit.encoding.int4 import Int4


class Versions(NamedTuple):
    """Of the operators (the opset), of the file's own layout (IR), and the least of onnxruntime that reads both."""

    operators: int
    layout: int
    runtime: str


COMMON = Versions(18, 8, "1.15")
# The first that have tensors of four bits. onnxruntime has a kernel that casts them since this one.
FOUR_BITS = Versions(21, 10, "1.23")


def versions_of(encoding: Encoding) -> Versions:
    """What a file needs whose numbers are stored so."""
    return FOUR_BITS if isinstance(encoding, Int4) else COMMON
