"""A layer's matrix as bases sorted by how much each carries.

For `W ∈ R^{m×n}` (paper 1's y = Wᵀx; a layer's form says which matrix a weight is) there are two nested factors,
`down` (R×m) and `up` (R×n) with `W = downᵀ·up`; their leading r rows are the best rank-r layer, so every size is a
prefix.

Best in which sense is the metric's to say. Without data it is the Frobenius norm: the SVD. With
calibration data it is the expected change of the network's outputs (ours): for output covariance S and
output-gradient moment G, the eigenvectors U of `G^{1/2} S G^{1/2}` give `up = Uᵀ G^{-1/2}` and
`down = Uᵀ G^{1/2} Wᵀ`, and the eigenvalues are what each basis is worth. G = I is one-sided whitening. From the
inputs, of covariance C, the same bases are had with the moment H of the gradients that reach them: the eigenvectors V
of `C^{1/2} H C^{1/2}` give `down = Vᵀ C^{-1/2}` and `up = Vᵀ C^{1/2} W`, and the eigenvalues are the same. So the
problem is as large as the smaller side.

In the spatial form the inputs' covariance is needed itself. Of a k_h×k_w patch it is taken to be a product, C ⊗ K
(C between the C_in·k_h numbers of a column, K between the k_w columns), so that with the matrix M (C_in·k_h,
C_out·k_w) of the weight the SVD of `C^{1/2} M (G ⊗ K)^{1/2}` is best (ours). On 3×3 layers that were tried the loss
that this predicts is mostly within a tenth of the loss under the whole covariance.

Singular vectors come from the eigenvectors of the smaller Gram matrix, in double precision: for a 3×3
convolution of 512 channels in the channel form that is a 512×512 symmetric problem instead of a 4608×512 SVD, in
the spatial form one of 1536×1536. Squaring in
double keeps singular values to about 1e-8 of the largest, finer than a float32 weight resolves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rightrank.models.factor.factors import Moved
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.patches import Columns
from rightrank.models.factor.rounding import settled
from rightrank.models.factor.solve import solve

RIDGE = 1e-4
# Outputs that vary less than this beside their mean, both squared, do so by rounding.
CONSTANT = 1e-10
# Of `fit_columns`.
LIGHT, ROUNDS, STEPS = 1e-9, 2, 4


@dataclass(frozen=True)
class Pair:
    """`down` (R×m) and `up` (R×n) in the weight's dtype; `sigma` (R,) in double, never rising: the
    singular values, or with a metric the roots of what the bases are worth in it.

    With data also how the cut has `moved` the outputs.
    """

    down: Tensor
    up: Tensor
    sigma: Tensor
    moved: Moved | None = None

    def keep(self, rank: int) -> tuple[Tensor, Tensor]:
        """The leading rows of both."""
        return self.down[:rank].contiguous(), self.up[:rank].contiguous()


def spatial_matrix(weight: Tensor) -> Tensor:
    """A convolution's weight (C_out, C_in, k_h, k_w) in the spatial form: (C_in·k_h, C_out·k_w)."""
    outputs, inputs, height, width = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width)


def spatial_product(down: Tensor, up: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The weight (C_out, C_in, k_h, k_w) of this shape that two factors in the spatial form make."""
    outputs, inputs, height, width = shape
    whole = (up.T @ down).reshape(outputs, width, inputs, height)
    return whole.permute(0, 2, 3, 1).contiguous()


def decompose(weight: Tensor) -> Pair:
    """SVD of a layer's weight, shape (C_out, …): the channel form of paper 1, section 3. Both factors take the root of
    each singular value, so that what lies between them is no larger than half precision holds."""
    factors = svd(weight)
    return Pair(*settled(*_balanced(factors.down, factors.up), None, weight.dtype), factors.sigma)


def svd(weight: Tensor) -> Pair:
    """The same in double, the rows of the factor of the smaller side orthonormal."""
    matrix = weight.reshape(weight.shape[0], -1).double()
    n, m = matrix.shape
    if n <= m:
        values, basis = _eigen(matrix @ matrix.T)
        down, up = basis.T @ matrix, basis.T
    else:
        values, basis = _eigen(matrix.T @ matrix)
        down, up = basis.T, basis.T @ matrix.T
    return Pair(down, up, values.sqrt())


def decompose_in_metric(weight: Tensor, moments: Moments, gradient: bool = True) -> Pair:
    """Factors that change the network's outputs least at every rank, given what calibration data said.

    `gradient=False` takes G = I: the layer's own outputs count, not what the network makes of them.
    Directions that the data never excite keep a small weight, so that the full rank is exact.
    """
    matrix = weight.reshape(weight.shape[0], -1).double()
    near = matrix if moments.axis == 0 else matrix.T
    gram, rank = near @ near.T, min(matrix.shape)
    if not gradient:
        moments = moments.alike(gram)
    covariance, mean = moments.covariance, moments.mean
    total = gram.diagonal().sum().clamp_min(1e-300)
    if moments.side == "outputs":
        least = CONSTANT * mean.square().sum()
        if covariance.diagonal().sum() <= least:
            covariance = least.clamp_min(1e-30) / total * gram
        energy = covariance.diagonal().sum() / total
        found = whitened(near, *_roots(moments.gradient), covariance + RIDGE * energy * gram, rank)
        passed, variances = found.along @ mean, found.worth
    else:
        # The same two ridges, as they are seen from here: what the outputs take of them for all directions.
        least = CONSTANT * (mean @ gram @ mean)
        if (covariance * gram).sum() <= least:
            covariance = least.clamp_min(1e-30) / total * torch.eye(len(near), dtype=torch.float64)
        energy = (covariance * gram).sum() / total
        roots = _roots(covariance, RIDGE * float(energy))
        found = whitened(near, *roots, moments.gradient + RIDGE * moments.far * gram, rank)
        passed, variances = found.near @ mean, torch.ones_like(found.worth)
    down, up = (found.far, found.near) if moments.axis == 0 else (found.near, found.far)
    spread = covariance if moments.side == "inputs" and moments.axis == 1 else None
    return Pair(
        *settled(*_balanced(down, up), spread, weight.dtype),
        sigma=found.worth.sqrt(),
        moved=Moved(lambda: (up * passed.unsqueeze(1), up**2 * variances.unsqueeze(1))),
    )


class Whitened(NamedTuple):
    """A matrix (s, t) as nested factors, a basis a row: `near` (R, s) and `far` (R, t), whose product nearᵀ·far is the
    matrix; what each basis is `worth` (R,), and `along` (R, s), by which far = along·matrix."""

    near: Tensor
    far: Tensor
    worth: Tensor
    along: Tensor


def whitened(matrix: Tensor, root: Tensor, inverse: Tensor, through: Tensor, rank: int) -> Whitened:
    """The best factors of a matrix (s, t) at every rank, where an error E costs tr(A·E·B·Eᵀ): `root` is A's square root
    and `inverse` the inverse of that, `through` what the matrix M makes of B, M·B·Mᵀ (s, s)."""
    worth, basis = _eigen(root @ through @ root)
    worth, basis = worth[:rank], basis[:, :rank]
    along = basis.T @ root
    return Whitened(basis.T @ inverse, along @ matrix, worth, along)


def decompose_columns(weight: Tensor, moments: Moments, columns: Columns, most: int | None = None) -> Pair:
    """The same in the spatial form, of a convolution's weight (C_out, C_in, k_h, k_w); the first `most` bases, or all.

    What the bases are worth adds up to what the whole layer is worth in the channel form. The `scale` follows from the
    covariance being a product; all else is exact.
    """
    outputs, width = len(weight), weight.shape[3]
    left, left_inverse = _factors(columns.covariance)
    right, right_inverse = _roots(moments.gradient)
    across, across_inverse = _roots(columns.across)

    def by(rows: Tensor, for_outputs: Tensor, for_columns: Tensor) -> Tensor:
        """Rows (k, C_out·k_w) times a product of matrices."""
        return torch.einsum("kox,op,xy->kpy", rows.reshape(-1, outputs, width), for_outputs, for_columns).flatten(1)

    plain = spatial_matrix(weight.double())
    whitened = by(left @ plain, right, across)
    if len(whitened) <= whitened.shape[1]:
        worth, basis = _eigen(whitened @ whitened.T)
        basis = basis[:, :most]
        down, up = basis.T @ left_inverse.T, basis.T @ left @ plain
    else:
        worth, basis = _eigen(whitened.T @ whitened)
        basis = basis[:, :most]
        down, up = by(basis.T, right, across) @ plain.T, by(basis.T, right_inverse, across_inverse)

    def of_bases() -> tuple[Tensor, Tensor]:
        per_output = up.reshape(-1, outputs, width)
        passed = (down @ left.T).square().sum(1)
        means = torch.einsum("kox,kx->ko", per_output, down @ columns.mean)
        return means, torch.einsum("kox,xy,k->koy", per_output, across, passed.sqrt()).square().sum(2)

    energy = (moments.covariance * moments.gradient).sum().clamp_min(0)
    return Pair(
        *settled(*_balanced(down, up), columns.covariance, weight.dtype),
        sigma=(worth[:most] * (energy / worth.sum().clamp_min(1e-300))).sqrt(),
        moved=Moved(of_bases),
    )


def fit_columns(weight: Tensor, normal: Tensor, gradient: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Factors in the spatial form, of the same rank, that are nearer to a weight (C_out, C_in, k_h, k_w).

    Near is `tr(Gᵀ E N Eᵀ)` of the difference E (C_out, C_in·k_h·k_w), for the whole covariance N of the inputs and the
    moment G of the outputs' gradients, where `decompose_columns` takes N for a product. Alternating least squares:
    `up` exactly, `down` by conjugate gradients, which that product makes quick. All in double. Factors that are not
    finite are not taken, nor such as are not nearer, since the steps damp G: then it is those given.
    """
    outputs, width = len(weight), weight.shape[3]
    rank, count = down.shape
    target = weight.reshape(outputs, -1)
    inputs = normal.reshape(count, width, count, width)
    spread, across = torch.einsum("pxqx->pq", inputs), torch.einsum("pxpy->xy", inputs)
    plain, (root, _) = gradient, _roots(gradient)  # one of low rank would leave directions of `down` free
    gradient = root @ root

    # Of factors, not of the products that they stand for: those are many more numbers.
    drawn = (target @ normal).reshape(outputs, count, width)
    wanted = (gradient @ drawn.flatten(1)).reshape(drawn.shape)

    def light(normal: Tensor, right: Tensor) -> Tensor:
        return solve(normal, right, LIGHT * float(normal.diagonal().mean()))

    def met(down: Tensor) -> Tensor:
        """What bases have to do with the inputs, (r, k_w, C_in·k_h, k_w)."""
        return torch.einsum("kp,pxqy->kxqy", down, inputs)

    def pull(seen: Tensor, per_output: Tensor, passed: Tensor) -> Tensor:
        """The slope along `down` of half what factors cost by themselves."""
        between = (passed.mT.flatten(0, 1) @ per_output.movedim(1, 0).flatten(1)).reshape(rank, width, rank, width)
        return torch.einsum("kylx,lxqy->kq", between, seen)

    def around(down: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What the least squares for `up` are of: the second moment (r·k_w, r·k_w) of what it is given, and what that
        has to do with the outputs (r·k_w, C_out)."""
        features = torch.einsum("kxqy,lq->kxly", seen, down).reshape(rank * width, -1)
        return features, torch.einsum("kp,opx->kxo", down, drawn).flatten(0, 1)

    def best_up(features: Tensor, reached: Tensor) -> Tensor:
        found = light(features, reached)
        return found.reshape(rank, width, outputs).transpose(1, 2).reshape(rank, -1)

    def gained(features: Tensor, reached: Tensor, up: Tensor) -> float:
        """By how much factors are nearer than none."""
        rows = up.reshape(rank, outputs, width).transpose(1, 2).reshape(rank * width, outputs)
        return float(((2 * reached - features @ rows) * (rows @ plain)).sum())

    seen = met(down)
    fitted = around(down, seen)
    given, least = (down, up), gained(*fitted, up)
    kept = down, best_up(*fitted)
    for _ in range(ROUNDS):
        down, up = kept
        per_output = up.reshape(rank, outputs, width)
        passed = torch.einsum("kox,op->kpx", per_output, gradient)
        inner = torch.einsum("kpx,xy,lpy->kl", passed, across, per_output)
        rest = torch.einsum("kox,opx->kp", per_output, wanted) - pull(seen, per_output, passed)
        step = light(inner, light(spread, rest.T).T)
        energy = (rest * step).sum()
        for _ in range(STEPS):
            more = met(step)
            moved = pull(more, per_output, passed)
            curvature = (step * moved).sum()
            if not (energy > 0 and curvature > 0):
                break
            down, seen = down + energy / curvature * step, seen + energy / curvature * more
            rest = rest - energy / curvature * moved
            turned = light(inner, light(spread, rest.T).T)
            before, energy = energy, (rest * turned).sum()
            step = turned + energy / before * step
        fitted = around(down, seen)
        kept = down, best_up(*fitted)
    return kept if gained(*fitted, kept[1]) >= least and all(bool(each.isfinite().all()) for each in kept) else given


def _balanced(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The same bases, the rows of both factors as long as each other: where the outputs hardly depend on a layer, `up`
    is beyond what half precision holds."""
    lengths, others = down.norm(dim=1), up.norm(dim=1)
    scale = torch.where(lengths > 0, (others / lengths).sqrt(), others)
    scale = torch.where(scale > 0, scale, 1.0).unsqueeze(1)
    return down * scale, up / scale


def _roots(metric: Tensor, ridge: float | None = None) -> tuple[Tensor, Tensor]:
    """A second moment's square root and the inverse of that, directions never seen counting a little: `ridge`, or a
    share of what the others do.

    Rounding may have left it with eigenvalues below zero; they count as zero."""
    values, vectors = _eigen(metric)
    values = values + (RIDGE * values.mean() if ridge is None else ridge) + 1e-30
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def _factors(metric: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `_roots` where any root R will do, of which RᵀR is the moment, and its inverse: in a tenth of the
    time."""
    damped = metric.clone()
    damped.diagonal().add_(RIDGE * metric.diagonal().mean() + 1e-30)
    root, failed = torch.linalg.cholesky_ex(damped, upper=True)
    if failed:
        return _roots(metric)
    return root, torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=True)


def _eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first and not below zero, and eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(symmetric)
    return values.flip(0).clamp_min(0), vectors.flip(1)
