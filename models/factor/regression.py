"""A layer's call as a regression: rows of what it is given and of what it is to make, and its weight as a matrix.

A grouped convolution is one in each of its groups. A transposed convolution is one where no output is in the patches
of two inputs: from an input to the patch that it makes. Of a recurrent call each product is one, a row a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.factor.layer import Layer
from rightrank.models.program.calls import Call, Convolution, Handed, Linear, Recurrent, transposed

# About so many rows are taken, so many of them at a time of a linear layer, and of a convolution those of so many
# samples, or fewer where patches would be more numbers than these.
ROWS, PART = 40_000, 8192
CHUNK, NUMBERS = 64, 1 << 26


@dataclass(frozen=True)
class Regression:
    """Of a call, from `inputs` to `outputs` numbers in each of its `groups`."""

    call: Linear | Convolution | Recurrent | Handed
    layer: Layer
    groups: int
    inputs: int
    outputs: int

    @staticmethod
    def of(call: Call | None, layer: Layer) -> Regression | None:
        """None for a call that is none."""
        if isinstance(call, (Linear, Recurrent, Handed)):
            return Regression(call, layer, 1, layer.inputs, layer.outputs)
        if not isinstance(call, Convolution):
            return None
        if not call.transposed:
            return Regression(call, layer, call.groups, layer.inputs, layer.outputs // call.groups)
        axes = list(zip(layer.shape[2:], call.stride, call.dilation, strict=True))
        apart = all(size == 1 or (size <= step and spread == 1) for size, step, spread in axes)
        return Regression(call, layer, 1, layer.outputs, layer.inputs) if apart and call.groups == 1 else None

    def matrix(self, weight: Tensor) -> Tensor:
        """A weight as (g, outputs, inputs)."""
        if transposed(self.call):
            return weight.flatten(1).T.unsqueeze(0)
        return weight.reshape(self.groups, self.outputs, self.inputs)

    def weight(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        if transposed(self.call):
            matrix = matrix.squeeze(0).T
        return matrix.reshape(self.layer.shape).contiguous()

    def offset(self, bias: Tensor | None) -> Tensor | None:
        """A bias as a number for each column of the rows of outputs."""
        if bias is None or not transposed(self.call):
            return bias
        return bias.repeat_interleave(math.prod(self.layer.shape[2:]))

    def shift(self, moved: Tensor) -> Tensor:
        """By how much each channel's mean has moved, where those columns' means have so."""
        if not isinstance(self.call, Convolution) or not self.call.transposed:
            return moved
        # Where the stride is larger than the kernel, some outputs are the bias and have not moved.
        return moved.reshape(self.layer.shape[1], -1).sum(1) / math.prod(self.call.stride)

    def pairs(self, several: Sequence[Tensor], wanted: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (k, g·inputs) of inputs and (k, g·outputs) of outputs of each group of samples, about `ROWS` in all, a
        part at a time."""
        generator, total = torch.Generator().manual_seed(0), sum(map(len, several))
        for data, outputs in zip(several, wanted, strict=True):
            most = max(1, ROWS * len(data) // max(total, 1))
            if isinstance(self.call, Convolution):
                yield from self._patches(self.call, data, outputs, most, generator)
                continue
            x, y = data.reshape(-1, self.inputs), outputs.reshape(-1, self.outputs)
            for chosen in torch.split(torch.randperm(len(x), generator=generator)[:most], PART):
                yield x[chosen], y[chosen]

    def _patches(
        self, call: Convolution, data: Tensor, outputs: Tensor, most: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        positions = max(1, most // max(len(data), 1))
        kernel = self.layer.shape[2:]
        most_at_once = NUMBERS // (self.groups * max(self.inputs, self.outputs))
        for x, y in zip(torch.split(data, CHUNK), torch.split(outputs, CHUNK), strict=True):
            if call.transposed:
                covered = _covered(x, y, kernel, call.stride, call.padding)
                if covered is None:
                    return
                x, y = covered[0], _windows(covered[1], kernel, call.stride, (1,) * len(kernel))
            else:
                padding = [each for size in reversed(call.padding) for each in (size, size)]
                x = _windows(functional.pad(x, padding), kernel, call.stride, call.dilation)
            places = x.shape[2 : 2 + len(kernel)]
            chosen = torch.randperm(math.prod(places), generator=generator)[:positions]
            for few in torch.split(chosen, max(1, most_at_once // len(x))):
                at: tuple[slice | Tensor, ...] = (slice(None), slice(None), *torch.unravel_index(few, places))
                rows, made = (each[at].movedim(2, 1).flatten(0, 1).flatten(1) for each in (x, y))
                yield rows, made


def _windows(values: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """What a kernel meets of (N, C, …) at each of its positions: (N, C, positions…, kernel…), a view."""
    for dim, (size, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
        values = values.unfold(dim, spread * (size - 1) + 1, step)[..., ::spread]
    return values


def _covered(
    x: Tensor, y: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> tuple[Tensor, Tensor] | None:
    """Of the inputs of a transposed convolution those whose patches are not cut by its padding, and the outputs that
    the patches make up; None where there are none."""
    for dim, (size, step, cut) in enumerate(zip(kernel, stride, padding, strict=True), 2):
        first = -(-cut // step)
        count = max(0, min(x.shape[dim] - 1, (y.shape[dim] + cut - size) // step) - first + 1)
        if not count:
            return None
        x = x.narrow(dim, first, count)
        y = y.narrow(dim, first * step - cut, step * (count - 1) + size)
    return x, y
