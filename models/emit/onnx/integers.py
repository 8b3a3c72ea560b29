"""The numbers of a layer that computes in eight bits: levels of its weight or factors and of its biases, and the grid
between its factors.

A bias is added to sums of products of levels, so that its own level stands for what theirs does: the step of the values
that come, times the scale of each output. Between factors all bases are brought to one magnitude, which the second
factor takes back: so that each has as many levels as the others, whatever it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightrank.models.emit.encoding.w8a8 import W8A8
from rightrank.models.emit.onnx.model import INSIDE, Integer, Place
from rightrank.models.quantise.activations import Grid, even

# The most of a bias's level, well within 32 bits, so that sums have room.
MOST = 2.0**30


def layer(
    weight: str,
    calls: Sequence[Integer],
    factors: Mapping[str, NDArray[Any]],
    encoding: W8A8,
    biases: Sequence[NDArray[np.float32] | None],
    steps: Sequence[np.float32],
    bases: NDArray[np.float32] | None,
) -> dict[Place, NDArray[Any]]:
    """By place, of a layer of this weight as it is in `factors` by side ("" where it is whole), float32 as unsigned
    integers, and of its `calls` that have these `biases` (n,) and are given values of these `steps`. `bases` (r,): the
    magnitudes between its factors."""
    found: dict[Place, NDArray[Any]] = {}
    numbers = {side: np.ascontiguousarray(array).view(np.float32) for side, array in factors.items()}
    if bases is not None:
        reach = np.maximum(bases.astype(np.float64), np.finfo(np.float32).tiny)
        inside = even(1.0)
        found |= places(weight, INSIDE, inside)
        steps = [inside.scale] * len(calls)
        first, last = numbers
        by = reach.reshape(-1, *(1,) * (numbers[first].ndim - 1))
        numbers[first] = (numbers[first] / by).astype(np.float32)
        by = reach.reshape(1, -1, *(1,) * (numbers[last].ndim - 2))
        numbers[last] = (numbers[last] * by).astype(np.float32)
    *_, last = numbers
    least = np.zeros(len(numbers[last]), dtype=np.float32)
    for bias, step in zip(biases, steps, strict=True):
        if bias is not None:
            least = np.maximum(least, (np.abs(bias) / (float(step) * MOST)).astype(np.float32))
    for side, array in numbers.items():
        encoded = encoding.encode(array.view(np.uint32), "float32", least if side == last else None)
        found |= {Place(weight, side, part): each for part, each in encoded.items()}
    scale = found[Place(weight, last, "scale")].reshape(-1)
    for call, bias, step in zip(calls, biases, steps, strict=True):
        if bias is None:
            continue
        stands_for = (scale * step).astype(np.float32)
        levels = bias.astype(np.float64) / np.where(stands_for > 0, stands_for, 1)
        found[Place(weight, call.side)] = np.rint(np.clip(levels, -2 * MOST, 2 * MOST - 1)).astype(np.int32)
        found[Place(weight, call.side, "scale")] = stands_for
    return found


def places(tensor: str, side: str, grid: Grid) -> dict[Place, NDArray[Any]]:
    """The parts of a grid."""
    return {Place(tensor, side, part): np.asarray(number) for part, number in zip(grid._fields, grid, strict=True)}
