"""What is kept of a layer's moments so that its factors can be fitted anew: second moments of the gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rightrank.models.factor.moments import Moments, Side
from rightrank.models.factor.solve import solve

# A weight's own Gram matrix is solved with so light a ridge, as a share of its mean diagonal.
LIGHT = 1e-9


@dataclass(frozen=True)
class Gradients:
    """`square` (s, s) on a `side` of a layer's weight as it was when they were gathered, in double, and seen from the
    inputs `far`, the mean second moment of a gradient at an output (see `moments.Moments`)."""

    square: Tensor
    side: Side = "outputs"
    far: float = 0.0

    @staticmethod
    def of(moments: Moments) -> Gradients:
        return Gradients(moments.gradient, moments.side, moments.far)

    def moments(self, weight: Tensor, normal: Tensor, mean: Tensor, gathered: Tensor) -> Moments:
        """Those of a weight (C_out, …) whose inputs have the covariance `normal` and the `mean`, where `gathered` was
        the weight before; all in double. Of a weight in groups each has its own, (g, m, m) and (g, m).

        What is known from the inputs is WᵀGW, of the weight W that was there. For what the new one makes beside the
        span of W's outputs, G is taken to be the same in all directions.
        """
        if self.side == "outputs":
            normals = normal.reshape(-1, *normal.shape[-2:])
            means, groups = mean.reshape(len(normals), -1), weight.flatten(1).chunk(len(normals))
            covariances = [new @ each @ new.T for new, each in zip(groups, normals, strict=True)]
            passed = torch.cat([new @ each for new, each in zip(groups, means, strict=True)])
            covariance: Tensor = torch.block_diag(*covariances)  # type: ignore[no-untyped-call]
            return Moments(passed, covariance, self.square)
        new, old = weight.flatten(1), gathered.flatten(1)
        gram = old.T @ old
        both = solve(gram, torch.cat([old.T @ new, self.square], 1), LIGHT * float(gram.diagonal().mean()))
        within, spanned = both[:, : len(gram)], float(both[:, len(gram) :].trace())
        left = len(new) - len(gram)
        beside = max(0.0, (self.far * len(new) - spanned) / left) if left > 0 else 0.0
        reached = within.T @ self.square @ within + beside * (new.T @ new - within.T @ gram @ within)
        return Moments(mean, normal, (reached + reached.T) / 2, {}, "inputs", 1, self.far)
