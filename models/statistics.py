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
from models.layers import LINEAR, Layer
from models.program import Graph, Node

BATCH = 64
Gradient: TypeAlias = Literal["logits", "loss"]


@dataclass(frozen=True)
class Moments:
    """Of one layer, in double: `mean` (n,) and `covariance` (n, n) of its outputs `Wᵀx` without the bias,
    per position; `gradient` (n, n), the second moment of the outputs' gradients summed over a sample's
    positions."""

    mean: Tensor
    covariance: Tensor
    gradient: Tensor


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

    def moments(self, samples: int) -> Moments:
        mean = self.total / self.positions
        covariance = self.square / self.positions - torch.outer(mean, mean)
        return Moments(mean, covariance, self.gradient / samples)


def gather(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    layers: tuple[Layer, ...],
    inputs: Tensor,
    progress: Callable[[str, int, int, str], None],
    seed: int = 0,
    gradient: Gradient = "logits",
) -> list[Moments]:
    """The moments of every layer's outputs over `inputs` (N, …), one entry per layer.

    The random projections, or the classes, are drawn from `seed`. A static batch size in the program is respected; what
    does not fill a batch is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = [_Sums(layer.n) for layer in layers]
    owner = {call: index for index, layer in enumerate(layers) for call in layer.calls}

    def watch(node: Node, arguments: list[Any], result: Any) -> Any:
        index = owner.get(node.name)
        if index is None:
            return result
        linear = node.op == LINEAR
        bias = arguments[2] if len(arguments) > 2 else None
        values = _rows(result.detach(), linear)
        sums[index].add(values if bias is None else values - bias)
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
    return [each.moments(samples) for each in sums]


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
