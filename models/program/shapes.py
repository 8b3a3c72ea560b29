"""Which axis of outputs has the classes, and which output each target is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

# What torch's losses leave out by default. An unsigned mask says it by 255, which reading the data turns into this.
IGNORED = -100

# Whether outputs are scores of classes: no; of each sample (N, C); or of each place of it too, as of a tagger's.
Classes: TypeAlias = bool | Literal["places"]


def scores(outputs: Tensor, classes: Classes, axis: int) -> Tensor | None:
    """Outputs (N, …) as the scores of classes (P, C) of every sample or place, the classes being along `axis`; None
    where they are none."""
    if not classes or not outputs.is_floating_point() or outputs.ndim < 2 or outputs.shape[axis] < 2:
        return None
    if outputs.ndim == 2:
        return outputs
    return positions(outputs, axis).flatten(0, 1) if classes == "places" else None


def class_axis(outputs: Tensor, inputs: Sequence[Tensor] = (), targets: Tensor | None = None) -> int:
    """The axis of `outputs` (n, …) that has the classes. Class indices as `targets`, of the outputs' shape without that
    axis, tell it; otherwise it is the second, as in segmentation, but the last of a tagger's or a decoder's three:
    where an input is integers (n, s) and the outputs are (n, s, C)."""
    last = outputs.ndim - 1
    by_token = outputs.ndim == 3 and any(
        not each.is_floating_point() and each.shape == outputs.shape[:2] for each in inputs
    )
    usual = last if by_token else min(1, last)
    if targets is not None and not targets.is_floating_point():
        # There may be more targets than outputs: those of all batches.
        shape = squeezed(targets.shape)[1:]
        fits = [axis for axis in dict.fromkeys((usual, 1, last)) if squeezed(without(outputs.shape, axis))[1:] == shape]
        if fits:
            return fits[0]
    return usual


def without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape (n, …) without the axes of size 1 behind the first, which say nothing."""
    return (*shape[:1], *(size for size in shape[1:] if size != 1))


def positions(outputs: Tensor, axis: int) -> Tensor:
    """Outputs (n, …) as (n, P, C): the positions in their order, each with its classes."""
    if outputs.ndim == 1:
        return outputs.reshape(-1, 1, 1)
    moved = outputs.movedim(axis, -1)
    return moved.reshape(len(outputs), -1, outputs.shape[axis])


def counted(weights: Tensor | None, rows: int, places: int) -> Tensor:
    """Which of (rows, places) count: those that `weights` (rows, …) do not set to zero, where it has one for each."""
    if weights is None or len(weights) != rows or weights.reshape(rows, -1).shape[1] != places:
        return torch.ones(rows, places, dtype=torch.bool)
    return weights.reshape(rows, -1) != 0
