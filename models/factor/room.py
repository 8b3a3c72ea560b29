"""Where the running sums of a pass over calibration inputs lie.

Of a layer they take at most three times the square of its smaller side, in double: six times the network's own bytes
where all layers are square. A network of billions of parameters has more than a machine's memory, so what is beyond a
limit lies in files, which the system writes out and reads in as it needs the memory. Each pass touches all of them:
that is disk, where more passes over a part of the layers each would be the whole network run again.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

MEMORY = 1 << 31


class Room:
    """Room for sums of doubles: `memory` bytes in memory, and the rest in `folder`."""

    def __init__(self, folder: Path, memory: int | None = None) -> None:
        self._folder, self._left = folder, MEMORY if memory is None else memory

    def zeros(self, *sizes: int) -> Tensor:
        """Of this shape, in double. Raises OSError where the disk has no room for it."""
        count = math.prod(sizes)
        if not count or 8 * count <= self._left:
            self._left -= 8 * count
            return torch.zeros(sizes, dtype=torch.float64)
        with _file(self._folder, 8 * count) as path:
            return torch.from_file(str(path), shared=True, size=count, dtype=torch.float64).reshape(sizes)


@contextmanager
def _file(folder: Path, size: int) -> Iterator[Path]:
    """A file of zeros, which the disk has room for, until it is mapped: it goes with what is mapped."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="sums-")
    try:
        os.ftruncate(descriptor, size)
        if sys.platform == "linux":
            # Written to beyond what the disk holds, a mapped file would end the process.
            os.posix_fallocate(descriptor, 0, size)
        yield Path(name)
    finally:
        os.close(descriptor)
        os.unlink(name)
