from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._export.serde.schema import ScalarType
from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

from rightrank.models.program.dtypes import BY_SCHEMA, DTYPES, DType


@torch.jit.script
def number_of(x: torch.Tensor) -> int:
    return x.dtype


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("row", DTYPES.values(), ids=lambda row: row.name)
def test_every_fact_is_what_torch_says(row: DType) -> None:
    dtype = getattr(torch, row.name)
    assert (row.width, row.floating) == (dtype.itemsize, dtype.is_floating_point)
    assert _SERIALIZE_TO_TORCH_DTYPE[ScalarType(row.schema)] is dtype
    assert number_of(torch.zeros(1, dtype=dtype)) == row.script
    assert getattr(torch, row.storage).dtype is dtype


def test_a_number_of_the_schema_leads_to_its_type() -> None:
    assert {row.schema for row in DTYPES.values()} == set(BY_SCHEMA)
    assert BY_SCHEMA[7] is DTYPES["float32"]


def test_the_table_needs_no_torch() -> None:
    code = "import sys; import rightrank.models.program.dtypes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
