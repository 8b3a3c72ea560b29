"""A .pt2 file in its own runtime, torch.

Its loader opens pickles and evaluates sizes as Python. So a file is handed to it only when the strict reader has read
it whole (see `checkpoint.exported`), which leaves nothing to open but the example inputs; files of ours have none.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rightrank.models.checkpoint import exported
from rightrank.models.checkpoint.archive import Archive
from rightrank.models.checkpoint.limits import OTHER_ENTRIES, Limits
from rightrank.models.emit.pt2.writer import EXTRA
from rightrank.models.errors import UnsafeCheckpoint, UnsupportedCheckpoint

if TYPE_CHECKING:
    from rightrank.models.emit.format import Network


def load(path: Path) -> Network:
    """The program in a file that this project wrote. Raises UnsafeCheckpoint and its like for any other,
    UnsupportedCheckpoint where torch does not read it."""
    found: Network = program_of(path.read_bytes()).module()
    return found


def program_of(data: bytes) -> torch.export.ExportedProgram:
    """As `load`, of a file's bytes."""
    limits = Limits()
    archive = Archive(io.BytesIO(data), limits.tensors + OTHER_ENTRIES)
    exported.read(archive, limits)
    more = [name for name in archive if name.startswith(("data/sample_inputs/", "extra/")) and name != EXTRA]
    if any(archive.size(name) for name in more):
        raise UnsafeCheckpoint("The file has example inputs, which are a pickle.", "Only files made here are run.")
    try:
        return torch.export.load(io.BytesIO(data))
    except RuntimeError as error:
        raise UnsupportedCheckpoint(
            f"torch.export.load does not read the file: {str(error)[:300]}", "Please report it with the model's code."
        ) from error
