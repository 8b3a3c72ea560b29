"""A quantised network as bytes: all of its numbers one after another, in the order of its state dict.

That is less than any file that torch would load: no code, no names, no shapes, which the reader is taken to know. Of a
quantised weight there are its steps and its levels; of everything else its float32 numbers. `raw` has levels of four
bits two a byte; `deflated` has them one a byte, all in one stream behind the other numbers, coded by zlib.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.bytes.quantise import MOST, Coded

KINDS = ("raw", "deflated")


def written(state: Mapping[str, Tensor], coded: Mapping[str, Coded], width: str, kind: str) -> bytes:
    """The bytes of a network whose `state` dict has these weights `coded` in `width`."""
    plain = [coded[name].steps if name in coded else tensor for name, tensor in state.items()]
    levels = [coded[name].levels.flatten().numpy() for name in state if name in coded]
    numbers = b"".join(each.float().numpy().tobytes() for each in plain)
    if kind == "deflated":
        return numbers + zlib.compress(b"".join(each.tobytes() for each in levels), 9)
    packed = levels if width == "int8" else [halves(each) for each in levels]
    return numbers + b"".join(each.tobytes() for each in packed)


def read(data: bytes, like: Mapping[str, Tensor], names: set[str], width: str, kind: str) -> dict[str, Tensor]:
    """The state dict again: shapes are those of `like`, and the weights that were coded have these `names`."""
    state: dict[str, Tensor] = {}
    steps: dict[str, Tensor] = {}
    place = 0
    for name, tensor in like.items():
        shape = tensor.shape[:1] if name in names else tensor.shape
        count = shape.numel()
        values = torch.from_numpy(np.frombuffer(data, np.float32, count, place).copy()).reshape(shape)
        (steps if name in names else state)[name] = values
        place += 4 * count
    rest = zlib.decompress(data[place:]) if kind == "deflated" else data[place:]
    place, whole = 0, kind == "deflated" or width == "int8"
    for name, step in steps.items():
        count = like[name].numel()
        taken = count if whole else (count + 1) // 2
        stored = np.frombuffer(rest, np.uint8, taken, place)
        levels = stored.view(np.int8).copy() if whole else unpacked(stored, count)
        state[name] = Coded(torch.from_numpy(levels).reshape(like[name].shape), step).weight
        place += taken
    return state


def halves(levels: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two levels of four bits a byte, the first in the lower half."""
    shifted = (levels + MOST["int4"]).astype(np.uint8)
    even = np.append(shifted, np.uint8(0)) if len(shifted) % 2 else shifted
    packed: NDArray[np.uint8] = np.bitwise_or(even[::2], np.left_shift(even[1::2], 4)).astype(np.uint8)
    return packed


def unpacked(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """The first `count` levels of such bytes."""
    both = np.stack([packed & 15, packed >> 4], 1).ravel()[:count]
    found: NDArray[np.int8] = both.astype(np.int8) - np.int8(MOST["int4"])
    return found
