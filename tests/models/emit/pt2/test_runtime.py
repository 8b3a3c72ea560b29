from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rightrank.models.emit.pt2.runtime import load
from rightrank.models.errors import CheckpointError, UnsafeCheckpoint


def test_a_file_that_was_not_made_here_is_not_handed_to_torch(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),)), tmp_path / "a.pt2")
    with pytest.raises(UnsafeCheckpoint, match="example inputs, which are a pickle"):
        load(tmp_path / "a.pt2")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"PK" + bytes(100))
    with pytest.raises(CheckpointError):
        load(tmp_path / "a.pt2")
