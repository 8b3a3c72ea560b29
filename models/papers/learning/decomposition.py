"""A weight as `W = U S Vᵀ`, and its truncation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rightrank.models.factor import metric


@dataclass(frozen=True)
class Decomposition:
    """The thin SVD of `W ∈ R^{m×n}`: `u` (m×R), `v` (n×R) in the weight's dtype, `sigma` (R,) in double.

    The vectors of the smaller side are orthonormal; one of the larger side is zero where its singular
    value is (to double precision of a square root, 1e-8 of the largest), for there it is not determined.
    """

    u: Tensor
    sigma: Tensor
    v: Tensor

    @property
    def transposed(self) -> Decomposition:
        return Decomposition(self.v, self.sigma, self.u)


def as_matrix(weight: Tensor) -> Tensor:
    """(C_out, …) → `W ∈ R^{m×n}`, the matrix of paper 1's y = Wᵀx; a view."""
    return weight.flatten(1).T


def as_weight(matrix: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `as_matrix`."""
    return matrix.T.reshape(shape)


def decompose(weight: Tensor) -> Decomposition:
    """The SVD of a layer's weight, shape (C_out, …), detached from any graph."""
    factors = metric.svd(weight.detach())
    down, up, sigma = factors.down.to(weight.dtype), factors.up.to(weight.dtype), factors.sigma
    inverse = torch.where(sigma > 1e-8 * sigma[0], 1 / sigma, 0.0).to(weight.dtype)
    m, n = as_matrix(weight).shape
    if n <= m:
        return Decomposition(down.T * inverse, sigma, up.T)
    return Decomposition(down.T, sigma, up.T * inverse)


def truncate(weight: Tensor, svd: Decomposition, rank: int) -> Tensor:
    """The weight on its `rank` leading bases: `W V_r V_rᵀ`, or `U_r U_rᵀ W` where m < n.

    With the weight's own SVD that is its best rank-r approximation; with that of a step before, a
    projection onto the bases of then. All bases leave the weight as it is.
    """
    if rank == svd.sigma.numel():
        return weight
    matrix = as_matrix(weight)
    if matrix.shape[0] >= matrix.shape[1]:
        basis = svd.v[:, :rank]
        return as_weight((matrix @ basis) @ basis.T, weight.shape)
    basis = svd.u[:, :rank]
    return as_weight(basis @ (basis.T @ matrix), weight.shape)
