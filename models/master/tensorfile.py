"""Tensors of a safetensors file as raw bytes, by memory map, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}


class TensorFile:
    """Read-only views into a file that this project wrote; elements are unsigned integers of the
    dtype's width, since only their bytes matter here (and numpy has no bfloat16)."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self._header: Mapping[str, Any] = header
        # As a plain array: views of a memmap are an order of magnitude slower to make.
        self._data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)) if header else None

    def __len__(self) -> int:
        return len(self._header)

    def __contains__(self, name: str) -> bool:
        return name in self._header

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._header[name]["shape"])

    def array(self, name: str, width: int) -> NDArray[Any]:
        """The tensor `name`, whose elements take `width` bytes, in its stored shape."""
        entry = self._header[name]
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if math.prod(shape) * width != end - start:
            raise ValueError(f"{name} has {end - start} bytes, not those of {shape} of {width} each")
        if start == end or self._data is None:
            return np.zeros(shape, dtype=f"u{width}")
        return np.ndarray(shape, TYPES[width], self._data, start)
