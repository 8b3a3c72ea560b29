"""The types of numbers that a tensor may have, and how each format spells them.

One row per type: what is not here (complex numbers, floats of 8 bits, wide unsigned integers) is refused when a
checkpoint is read, so that nothing after it has to ask. Without torch, since the writer of files reads this too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class DType:
    """One type, by torch's name for it.

    width: bytes of an element.
    schema: its number in the JSON of torch.export.save (torch/_export/serde/schema.py, ScalarType).
    script: its number in TorchScript's code (c10/core/ScalarType.h); another numbering.
    storage: the class that a pickle of torch's names where elements of this type lie.
    onnx: its number in ONNX (onnx.proto, TensorProto.DataType).
    """

    name: str
    width: int
    floating: bool
    schema: int
    script: int
    storage: str
    onnx: int


DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        row.name: row
        for row in (
            DType("uint8", 1, False, schema=1, script=0, storage="ByteStorage", onnx=2),
            DType("int8", 1, False, schema=2, script=1, storage="CharStorage", onnx=3),
            DType("int16", 2, False, schema=3, script=2, storage="ShortStorage", onnx=5),
            DType("int32", 4, False, schema=4, script=3, storage="IntStorage", onnx=6),
            DType("int64", 8, False, schema=5, script=4, storage="LongStorage", onnx=7),
            DType("float16", 2, True, schema=6, script=5, storage="HalfStorage", onnx=10),
            DType("float32", 4, True, schema=7, script=6, storage="FloatStorage", onnx=1),
            DType("float64", 8, True, schema=8, script=7, storage="DoubleStorage", onnx=11),
            DType("bool", 1, False, schema=12, script=11, storage="BoolStorage", onnx=9),
            DType("bfloat16", 2, True, schema=13, script=15, storage="BFloat16Storage", onnx=16),
        )
    }
)
BY_SCHEMA: Mapping[int, DType] = MappingProxyType({row.schema: row for row in DTYPES.values()})
