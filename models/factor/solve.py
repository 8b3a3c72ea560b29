"""Least squares by normal equations."""

from __future__ import annotations

import torch
from torch import Tensor

# Each try has ten times the ridge of the one before.
TRIES = 40


def solve(normal: Tensor, right: Tensor, ridge: float) -> Tensor:
    """`(normal + ridge·I)⁻¹ right` for a symmetric (k, k), the ridge as much heavier as it takes to be solved.

    Where numbers are not finite, neither is the answer.
    """
    ridge = ridge if ridge > 0 else 1.0
    for _ in range(TRIES):
        damped = normal.clone()
        damped.diagonal().add_(ridge)
        root, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            return torch.cholesky_solve(right, root)
        ridge *= 10
    return torch.full_like(right, torch.nan)
