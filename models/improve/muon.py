"""Muon: momentum whose step is made orthogonal, so that it is as large in every direction (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon).

torch's own does the same in bfloat16. On a processor without that type a step takes eleven times as long, half of what
the rest of a training's takes; this one is in the numbers' own precision.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Of the odd polynomial of degree five that is applied to the singular values: it brings all but the smallest to
# between 0.7 and 1.2 in so many rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices alone; steps are longer by the root of rows to columns where there are more rows."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for value in group["params"]:
                if value.grad is None:
                    continue
                state = self.state[value]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(value)
                mean = state["momentum_buffer"].lerp_(value.grad, 1 - momentum)
                rows, columns = value.shape
                direction = value.grad.lerp(mean, momentum)
                # Rows of zeros, bases that no size so far has had, would come out as zeros.
                alive = direction.any(dim=1)
                value[alive] -= orthogonal(direction[alive]) * (rate * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest (semi-)orthogonal matrix, by Newton and Schulz's iteration; zero stays zero."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    wide: Tensor = matrix.mT if tall else matrix
    wide = wide / wide.norm().clamp_min(TINY)
    for _ in range(ROUNDS):
        square = wide @ wide.mT
        wide = a * wide + (b * square + c * square @ square) @ wide
    return wide.mT if tall else wide
