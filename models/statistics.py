"""What calibration inputs say about each layer: second moments of its outputs and of the gradients there.

One forward and one backward pass over the data, no labels. The gradient is of either

* "logits": a random normal projection of the network's outputs; its second moment is the Gauss-Newton matrix
  without the softmax (ours). It does not vanish on a network that fits its training images.
* "loss": the loss at a class drawn from the network's own softmax; its second moment is the Fisher matrix, of
  which outputs and gradients of a layer are the two Kronecker factors (arXiv:1503.05671).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from models import execute
from models.errors import DataError
from models.layers import LINEAR, Geometry, Layer, geometry_of
from models.program import Graph, Node

BATCH = 64
# Columns are taken out of so many inputs at a time that they are about as many numbers as this.
NUMBERS = 1 << 24
Gradient: TypeAlias = Literal["logits", "loss"]


@dataclass(frozen=True)
class Moments:
    """Of one layer, in double: `mean` (n,) and `covariance` (n, n) of its outputs `Wᵀx` without the bias,
    per position; `gradient` (n, n), the second moment of the outputs' gradients summed over a sample's
    positions."""

    mean: Tensor
    covariance: Tensor
    gradient: Tensor
    columns: Columns | None = None


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


def _share(across: Tensor) -> Tensor:
    """As a share of the mean diagonal; of nothing, columns that have nothing to do with each other."""
    scale = float(across.diagonal().mean())
    return across / scale if scale > 0 else torch.eye(len(across), dtype=torch.float64)


class _ColumnSums:
    """Padding counts as the zeros that it is. Sums are of differences from the first inputs' mean, so that single
    precision does not lose a variance beside a large mean."""

    def __init__(self, layer: Layer) -> None:
        self._height, self._width = layer.shape[2:]
        count = layer.shape[1] * self._height
        self._positions = 0
        self._origin: Tensor | None = None
        self._square = torch.zeros(count, count, dtype=torch.float64)
        self._total = torch.zeros(count, self._width, dtype=torch.float64)
        self._across = torch.zeros(self._width, self._width, dtype=torch.float64)

    def add(self, data: Tensor, geometry: Geometry, places: int) -> None:
        """Inputs (N, C_in, h, w) of a call whose outputs are `places` wide."""
        for part in torch.split(data, max(1, NUMBERS // (data[0].numel() * self._height))):
            self._add(part, geometry, places)

    def _add(self, data: Tensor, geometry: Geometry, places: int) -> None:
        (down, along), (top, side), (spread, apart) = geometry
        kernel, padding = (self._height, 1), (top, 0)
        patches = functional.unfold(data, kernel, (spread, 1), padding, (down, 1))
        patches = patches.reshape(*patches.shape[:2], -1, data.shape[3])  # (N, C_in·k_h, outputs high, w)
        padded = functional.pad(patches, (side, side))
        if self._origin is None:
            self._origin = padded.mean((0, 2, 3))
        padded = padded - self._origin.reshape(-1, 1, 1)
        reach = along * (places - 1) + 1
        views = [padded[..., x * apart : x * apart + reach : along] for x in range(self._width)]
        used = torch.zeros(padded.shape[3])
        for x, view in enumerate(views):
            used[x * apart : x * apart + reach : along] += 1
            self._total[:, x] += view.sum((0, 2, 3)).double()
            for y in range(x + 1):
                shared = float((view * views[y]).sum(dtype=torch.float64))
                self._across[x, y] += shared
                self._across[y, x] += shared if x != y else 0.0
        weighed = (padded * used.sqrt()).movedim(1, -1).flatten(0, 2)
        self._square += (weighed.T @ weighed).double()
        self._positions += len(data) * views[0].shape[2] * places

    def columns(self) -> Columns:
        mean = self._total / self._positions
        covariance = (self._square / self._positions - mean @ mean.T) / self._width
        across = self._across / self._positions - mean.T @ mean
        origin = 0.0 if self._origin is None else self._origin.double().unsqueeze(1)
        return Columns(covariance, mean + origin, _share(across))


class _Sums:
    def __init__(self, n: int) -> None:
        self.positions = 0
        self.total = torch.zeros(n, dtype=torch.float64)
        self.square = torch.zeros(n, n, dtype=torch.float64)
        self.gradient = torch.zeros(n, n, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        self.positions += len(rows)
        self.total += rows.sum(0).double()
        self.square += (rows.T @ rows).double()

    def add_gradient(self, rows: Tensor) -> None:
        self.gradient += (rows.T @ rows).double()

    def moments(self, samples: int, columns: Columns | None) -> Moments:
        mean = self.total / self.positions
        covariance = self.square / self.positions - torch.outer(mean, mean)
        return Moments(mean, covariance, self.gradient / samples, columns)


def gather(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    layers: tuple[Layer, ...],
    inputs: Tensor,
    progress: Callable[[str, int, int, str], None],
    seed: int = 0,
    gradient: Gradient = "logits",
    columns: bool = False,
) -> list[Moments]:
    """The moments of every layer's outputs over `inputs` (N, …), one entry per layer; with `columns` also those of
    its inputs where it can take the spatial form.

    The random projections, or the classes, are drawn from `seed`. A static batch size in the program is respected; what
    does not fill a batch is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = [_Sums(layer.outputs) for layer in layers]
    inner = {index: _ColumnSums(layer) for index, layer in enumerate(layers) if columns and layer.columns}
    owner = {call: index for index, layer in enumerate(layers) for call in layer.calls}

    def watch(node: Node, arguments: list[Any], result: Any) -> Any:
        index = owner.get(node.name)
        if index is None:
            return result
        linear = node.op == LINEAR
        bias = arguments[2] if len(arguments) > 2 else None
        values = _rows(result.detach(), linear)
        sums[index].add(values if bias is None else values - bias)
        if index in inner:
            inner[index].add(arguments[0].detach(), geometry_of(node), result.shape[3])
        if result.requires_grad:
            result.register_hook(lambda g: sums[index].add_gradient(_rows(g, linear)))
        # A later in-place call must not change what the hook belongs to.
        return result.clone() if result.requires_grad else result

    static = graph.inputs[0].shape[0] if graph.inputs[0].shape else None
    batch = static or BATCH
    samples = 0
    for start in range(0, len(inputs) - (batch - 1 if static else 0), batch):
        progress("calibrate", start, len(inputs), "samples")
        data = inputs[start : start + batch].clone().requires_grad_()
        with torch.enable_grad():
            outputs = execute.run(graph, tensors, [data], visit=watch)
            loss = sum(_scalar(out, gradient, generator) for out in outputs if out.requires_grad)
            if isinstance(loss, Tensor):
                loss.backward()  # type: ignore[no-untyped-call]
        samples += len(data)
    if not samples:
        raise DataError(
            f"{len(inputs)} calibration inputs do not fill one batch of {batch}.",
            "Give more, or export the model with a dynamic batch size.",
        )
    progress("calibrate", len(inputs), len(inputs), "samples")
    found = {index: each.columns() for index, each in inner.items()}
    return [each.moments(samples, found.get(index)) for index, each in enumerate(sums)]


def _scalar(outputs: Tensor, gradient: Gradient, generator: torch.Generator) -> Tensor:
    """What is propagated back from one of the network's outputs."""
    if gradient == "logits":
        return (outputs * torch.randn(outputs.shape, generator=generator)).sum()
    if outputs.ndim != 2:
        raise DataError(
            f"Classes are drawn from outputs (batch, classes), not {tuple(outputs.shape)}.", "Choose criterion logit."
        )
    drawn = torch.multinomial(outputs.detach().softmax(1), 1, generator=generator).squeeze(1)
    return functional.cross_entropy(outputs, drawn, reduction="sum")


def _rows(value: Tensor, linear: bool) -> Tensor:
    """A layer's output as (positions, channels)."""
    if linear:
        return value.reshape(-1, value.shape[-1])
    return value.movedim(1, -1).reshape(-1, value.shape[1])
