"""From the gradient at a truncated weight, G = ∂L/∂W_r, to the gradient at the weight, ∂L/∂W.

All matrices are `m×n` as in paper 1. A new way is a function and a line in `GRADIENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from rightrank.models.papers.learning.decomposition import Decomposition

EPSILON = 0.99

Gradient: TypeAlias = Callable[[Tensor, Decomposition, int], Tensor]


def v1(g: Tensor, svd: Decomposition, rank: int) -> Tensor:
    """`U_r U_rᵀ G` (arXiv:1910.13141 v1, Eq. 4): the bases count as constants.

    For m > n this projects at full rank too, since U then spans only n of m dimensions.
    """
    basis = svd.u[:, :rank]
    return basis @ (basis.T @ g)


def v3(g: Tensor, svd: Decomposition, rank: int) -> Tensor:
    """The derivative through the truncated SVD itself (arXiv:1910.13141 v3).

    With κ_ij = min(σ_j²/σ_i², ε) for kept i and dropped j, and for m ≥ n (otherwise transposed):

        A = V_rᵀ Gᵀ U_o          B = U_rᵀ G V_o
        ∂L/∂W = G V_r V_rᵀ
              + U_r [ √κ/(1−κ) ∘ A + 1/(1−κ) ∘ B ] V_oᵀ
              + U_o [ κ/(1−κ) ∘ A + √κ/(1−κ) ∘ B ]ᵀ V_rᵀ

    Where the last kept and the first dropped singular value meet there is no derivative; ε = 0.99 keeps
    the norm below 1/(1−√ε) ≈ 199.5 times that of G.
    """
    if g.shape[0] < g.shape[1]:
        return v3(g.T, svd.transposed, rank).T
    u_kept, u_dropped = svd.u[:, :rank], svd.u[:, rank:]
    v_kept, v_dropped = svd.v[:, :rank], svd.v[:, rank:]
    squares = svd.sigma**2
    # The clamp gives κ = 0 where a kept singular value is zero, instead of 0/0.
    kappa = (squares[rank:] / squares[:rank, None].clamp_min(torch.finfo(squares.dtype).tiny)).clamp_max(EPSILON)
    kappa = kappa.to(g.dtype)
    root, gap = kappa.sqrt(), 1 - kappa
    kept = g @ v_kept
    a = kept.T @ u_dropped
    b = (u_kept.T @ g) @ v_dropped
    return (
        kept @ v_kept.T
        + u_kept @ ((root * a + b) / gap) @ v_dropped.T
        + u_dropped @ ((kappa * a + root * b) / gap).T @ v_kept.T
    )


@dataclass(frozen=True)
class Mode:
    """A gradient, and whether each layer's is scaled to the norm of its full-rank gradient before mixing."""

    through: Gradient
    matched: bool


GRADIENTS: Mapping[str, Mode] = {"v1": Mode(v1, matched=False), "v3": Mode(v3, matched=True)}
