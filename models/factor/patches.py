"""What the spatial form wants to know of a convolution's inputs (see `metric`): second moments of the numbers in a
column of its kernel, and of its columns.

They are taken from the inputs as they lie, without copying a patch for every position.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.program.calls import Geometry

# So many numbers of the inputs are looked at together.
NUMBERS = 1 << 24


@dataclass(frozen=True)
class Columns:
    """Of a convolution's inputs, in double: of the C_in·k_h numbers of a column of the kernel the `covariance`, mean
    over the k_w columns, and the `mean` (C_in·k_h, k_w); `across` (k_w, k_w), the covariance between the columns
    summed over those numbers, as a share of its mean diagonal."""

    covariance: Tensor
    mean: Tensor
    across: Tensor


def columns_of(covariance: Tensor, mean: Tensor, width: int) -> Columns:
    """The same from the covariance and the mean of all C_in·k_h·k_w numbers."""
    count = len(mean) // width
    inputs = covariance.reshape(count, width, count, width)
    return Columns(
        torch.einsum("pxqx->pq", inputs) / width, mean.reshape(count, width), _share(torch.einsum("pxpy->xy", inputs))
    )


class ColumnSums:
    """Gathers them over the calls of a convolution. Padding counts as the zeros that it is. Sums are of differences
    from the first inputs' mean, so that single precision does not lose a variance beside a large mean."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Of a weight of this shape, (C_out, C_in, k_h, k_w)."""
        channels, height, width = self._channels, self._height, self._width = shape[1:]
        self._positions = 0
        self._origin: Tensor | None = None  # (C_in,)
        self._square = torch.zeros(channels, height, channels, height, dtype=torch.float64)
        self._total = torch.zeros(channels, height, width, dtype=torch.float64)
        self._across = torch.zeros(width, width, dtype=torch.float64)

    def add(self, data: Tensor, geometry: Geometry, outputs: tuple[int, int]) -> None:
        """Inputs (N, C_in, h, w) of a call whose outputs are (high, wide); what is not finite is left out."""
        data = finite(data)
        if not len(data):
            return
        if self._origin is None:
            self._origin = single(data).mean((0, 2, 3))
        for part in torch.split(data, max(1, NUMBERS // (data[0].numel() * self._height))):
            self._add(part, geometry, outputs)
            self._positions += len(part) * outputs[0] * outputs[1]

    def _add(self, data: Tensor, geometry: Geometry, outputs: tuple[int, int]) -> None:
        (down, along), (top, side), (spread, apart) = geometry
        assert self._origin is not None
        padded = single(functional.pad(data, (side, side, top, top))).permute(2, 0, 3, 1)  # (h, N, w, C_in)
        padded = torch.sub(padded, self._origin, out=padded.new_empty(padded.shape))
        # Which of the inputs' rows, and columns, each row and column of the kernel meets.
        rows = [slice(i * spread, i * spread + down * (outputs[0] - 1) + 1, down) for i in range(self._height)]
        columns = [slice(x * apart, x * apart + along * (outputs[1] - 1) + 1, along) for x in range(self._width)]

        total = padded.sum(1).double()
        for i, x in itertools.product(range(self._height), range(self._width)):
            self._total[:, i, x] += total[rows[i], columns[x]].sum((0, 1))

        times = _times_met(rows, padded.shape[0]).double()
        for lag in range(self._width):
            later = padded[:, :, lag * apart :]
            shared = (padded[:, :, : later.shape[2]] * later).sum((1, 3)).double().T @ times
            for x in range(self._width - lag):
                value = shared[columns[x]].sum()
                self._across[x, x + lag] += value
                self._across[x + lag, x] += value if lag else 0

        padded *= _times_met(columns, padded.shape[2]).sqrt().unsqueeze(1)
        flat = [padded[each].reshape(-1, self._channels) for each in rows]
        for i, j in itertools.combinations_with_replacement(range(self._height), 2):
            square = (flat[i].T @ flat[j]).double()
            self._square[:, i, :, j] += square
            if i != j:
                self._square[:, j, :, i] += square.T

    def columns(self) -> Columns:
        count, positions = self._channels * self._height, max(self._positions, 1)
        mean = self._total.reshape(count, self._width) / positions
        square = self._square.reshape(count, count) / positions
        across = self._across / positions - mean.T @ mean
        origin = torch.zeros(self._channels) if self._origin is None else self._origin
        shifted = mean + origin.double().repeat_interleave(self._height).unsqueeze(1)
        return Columns((square - mean @ mean.T) / self._width, shifted, _share(across))


def single(values: Tensor) -> Tensor:
    """In single precision, or what is finer: sums in half of it overflow."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def finite(values: Tensor) -> Tensor:
    """Of (N, …) those whose numbers are all finite."""
    return values if bool(values.sum().isfinite()) else values[values.flatten(1).isfinite().all(1)]


def _times_met(slices: Sequence[slice], count: int) -> Tensor:
    """How many of the slices of `count` things each is in."""
    times = torch.zeros(count)
    for each in slices:
        times[each] += 1
    return times


def _share(across: Tensor) -> Tensor:
    """As a share of the mean diagonal; of nothing, columns that have nothing to do with each other."""
    scale = float(across.diagonal().mean())
    return across / scale if scale > 0 else torch.eye(len(across), dtype=torch.float64)
