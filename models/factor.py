"""A layer's matrix as bases sorted by how much each carries.

For `W ∈ R^{m×n}` (paper 1's y = Wᵀx) two nested factors are kept, `down` (R×m) and `up` (R×n) with
`W = downᵀ·up`; their leading r rows are the best rank-r layer, so every size is a prefix.

Best in which sense is the metric's to say. Without data it is the Frobenius norm: the SVD. With
calibration data it is the expected change of the network's outputs (ours): for output covariance S and
output-gradient moment G, the eigenvectors U of `G^{1/2} S G^{1/2}` give `up = Uᵀ G^{-1/2}` and
`down = Uᵀ G^{1/2} Wᵀ`, and the eigenvalues are what each basis is worth. G = I is one-sided whitening.

Singular vectors come from the eigenvectors of the smaller Gram matrix, in double precision: for a 3×3
convolution of 512 channels that is a 512×512 symmetric problem instead of a 4608×512 SVD. Squaring in
double keeps singular values to about 1e-8 of the largest, finer than a float32 weight resolves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.statistics import Moments

RIDGE = 1e-4


@dataclass(frozen=True)
class Factors:
    """`down` (R×m) and `up` (R×n) in the weight's dtype; `sigma` (R,) in double, never rising: the
    singular values, or with a metric the roots of what the bases are worth in it.

    With data also, both (R×n) and in double: `shift`, row r-1 the mean of the rank-r layer's outputs
    minus the whole layer's, and `scale`, its variance over the whole layer's.
    """

    down: Tensor
    up: Tensor
    sigma: Tensor
    shift: Tensor | None = None
    scale: Tensor | None = None


def decompose(weight: Tensor) -> Factors:
    """SVD of a layer's weight, shape (C_out, …): the channel form of paper 1, section 3."""
    matrix = weight.reshape(weight.shape[0], -1).double()
    n, m = matrix.shape
    if n <= m:
        values, basis = _eigen(matrix @ matrix.T)
        down, up = basis.T @ matrix, basis.T
    else:
        values, basis = _eigen(matrix.T @ matrix)
        down, up = basis.T, basis.T @ matrix.T
    return Factors(down.to(weight.dtype).contiguous(), up.to(weight.dtype).contiguous(), values.sqrt())


def decompose_in_metric(weight: Tensor, moments: Moments, gradient: bool = True) -> Factors:
    """Factors that change the network's outputs least at every rank, given what calibration data said.

    `gradient=False` takes G = I: the layer's own outputs count, not what the network makes of them.
    Directions that the data never excite keep a small weight, so that the full rank is exact.
    """
    matrix = weight.reshape(weight.shape[0], -1).double()
    n, rank = len(matrix), min(matrix.shape)
    gram = matrix @ matrix.T
    energy = moments.covariance.diagonal().sum() / gram.diagonal().sum().clamp_min(1e-300)
    spread = moments.covariance + RIDGE * energy * gram
    metric = moments.gradient if gradient else torch.eye(n, dtype=torch.float64)
    metric = metric + (RIDGE * metric.diagonal().mean() + 1e-30) * torch.eye(n, dtype=torch.float64)
    values, vectors = _eigen(metric)
    root = (vectors * values.sqrt()) @ vectors.T
    inverse = (vectors / values.sqrt()) @ vectors.T
    worth, basis = _eigen(root @ spread @ root)
    worth, basis = worth[:rank], basis[:, :rank]
    up = basis.T @ inverse
    coordinates = basis.T @ root
    means = torch.cumsum(up * (coordinates @ moments.mean).unsqueeze(1), 0)
    variances = torch.cumsum(up**2 * worth.unsqueeze(1), 0)
    return Factors(
        down=(coordinates @ matrix).to(weight.dtype).contiguous(),
        up=up.to(weight.dtype).contiguous(),
        sigma=worth.sqrt(),
        shift=means - means[-1],
        scale=torch.where(variances[-1] > 0, variances / variances[-1].clamp_min(1e-300), 1.0),
    )


def _eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first and not below zero, and eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(symmetric)
    return values.flip(0).clamp_min(0), vectors.flip(1)
