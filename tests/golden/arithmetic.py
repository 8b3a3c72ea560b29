"""Masters whose numbers are made by arithmetic, so that a test has their every byte without storing them.

A fixture folder has `template.json` and `plans.npz` as a master has them, and of master.safetensors only
`entries.json`: each entry's dtype and shape. No decomposition and no random generator has a say in the numbers, which
would come out otherwise with another build of torch: integers are mixed, and divided by a power of two.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

COPIED = ("template.json", "plans.npz")
# What an entry's name has where its numbers may not be zero or less.
VARIANCE = "running_var"


def fill(entries: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[Any]]:
    """Numbers for each entry, `name: [dtype, shape]`: they follow from its name, dtype and shape.

    Floats are k/1024 from -1 up to, not including, 1, or for a variance (k + 1)/2048 above 0 up to 1: exact in half
    precision too. Integers are 0 to 127.
    """
    return {name: _numbers(name, str(dtype), tuple(shape)) for name, (dtype, shape) in entries.items()}


def write(folder: Path, out: Path) -> None:
    """The whole master of the fixture in `folder`, to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        (out / name).write_bytes((folder / name).read_bytes())
    save_file(fill(json.loads((folder / "entries.json").read_text())), out / "master.safetensors")


def _numbers(name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    mixed = _mixed(zlib.crc32(name.encode()), math.prod(shape))
    if dtype == "bool":
        numbers: NDArray[Any] = mixed >> 31 == 1
    elif dtype.startswith("float"):
        eleven = (mixed >> 21).astype(np.float64)
        numbers = (eleven + 1) / 2048 if VARIANCE in name else (eleven - 1024) / 1024
    else:
        numbers = mixed >> 25
    return numbers.astype(dtype).reshape(shape)


def _mixed(seed: int, count: int) -> NDArray[np.uint32]:
    """`count` integers of 32 bits that follow from `seed` and each one's place (the last steps of MurmurHash3); sums
    and products wrap around."""
    mixed = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(seed)
    mixed = (mixed ^ (mixed >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> np.uint32(16))
