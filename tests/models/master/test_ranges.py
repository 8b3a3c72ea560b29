"""A plan between two sizes that were looked at has ranges that hold those of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rightrank.models.errors import UnreadableMaster
from rightrank.models.master import ranges
from rightrank.models.master.tensorfile import TensorFile


def stored(folder: Path, name: str, **tensors: list[object]) -> TensorFile:
    entries = {"value": ranges.of_value("add"), "bases": ranges.of_bases("head.weight")}
    save_file({entries[each]: torch.tensor(rows, dtype=torch.float32) for each, rows in tensors.items()}, folder / name)
    return TensorFile(folder / name)


def test_ends_are_those_of_both_and_a_plans_own_come_first(tmp_path: Path) -> None:
    known = stored(tmp_path, "ranges", value=[[-1, 2], [-3, 1], [0, 9]], bases=[[4, 1], [3, 2], [0, 7]])
    assert ranges.value("add", (0, 1), known, None) == (-3, 2)
    assert ranges.value("add", (2,), known, None) == (0, 9)
    assert np.array_equal(ranges.bases("head.weight", (0, 1), known, None), [4, 2])
    own = stored(tmp_path, "changes", value=[-0.5, 0.25])
    assert ranges.value("add", (0, 1), known, own) == (-0.5, 0.25)
    assert np.array_equal(ranges.bases("head.weight", (1,), known, own), [3, 2])


def test_what_is_nowhere_is_refused(tmp_path: Path) -> None:
    known = stored(tmp_path, "ranges", value=[[-1, 2]])
    with pytest.raises(UnreadableMaster, match="range/mul"):
        ranges.value("mul", (0,), known, None)
    with pytest.raises(UnreadableMaster, match="inside/"):
        ranges.bases("head.weight", (0,), None, None)
