from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rightrank.models.papers.learning.decomposition import Decomposition, as_matrix, decompose, truncate
from rightrank.models.papers.learning.gradient import EPSILON, v1, v3

SHAPES = [(7, 4), (4, 7), (5, 5)]


def matrix(shape: tuple[int, int], sigma: list[float]) -> Tensor:
    """A double-precision m×n matrix with these singular values and random bases."""
    m, n = shape
    u = torch.linalg.qr(torch.randn(m, len(sigma), dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(n, len(sigma), dtype=torch.float64)).Q
    return u @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ v.T


def svd_of(w: Tensor) -> Decomposition:
    return decompose(w.T)


def truncated(w: Tensor, rank: int) -> Tensor:
    u, sigma, v = torch.linalg.svd(w, full_matrices=False)
    return (u[:, :rank] * sigma[:rank]) @ v[:rank]


def curved(w: Tensor) -> Tensor:
    """A loss whose gradient differs from entry to entry and from point to point."""
    weights = torch.arange(w.numel(), dtype=torch.float64).reshape(w.shape).sin()
    return (weights * w + 0.3 * w**3).sum()


def slope(w: Tensor) -> Tensor:
    leaf = w.clone().requires_grad_()
    return torch.autograd.grad(curved(leaf), leaf)[0]


def finite_differences(w: Tensor, rank: int, step: float = 1e-5) -> Tensor:
    result = torch.zeros_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            bump = torch.zeros_like(w)
            bump[i, j] = step
            change = curved(truncated(w + bump, rank)) - curved(truncated(w - bump, rank))
            result[i, j] = change / (2 * step)
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_v3_is_the_derivative_that_finite_differences_show(shape: tuple[int, int], seed: int) -> None:
    torch.manual_seed(seed)
    sigma = [3.0, 2.0, 1.3, 0.7, 0.2][: min(shape)]
    w = matrix(shape, sigma)
    for rank in range(1, len(sigma) + 1):
        found = v3(slope(truncated(w, rank)), svd_of(w), rank)
        assert torch.allclose(found, finite_differences(w, rank), rtol=1e-6, atol=1e-6)


def test_v3_is_what_autograd_makes_of_a_truncated_svd() -> None:
    torch.manual_seed(2)
    w = matrix((6, 4), [3.0, 2.0, 1.3, 0.7]).requires_grad_()
    (expected,) = torch.autograd.grad(curved(truncated(w, 2)), w)
    detached = w.detach()
    assert torch.allclose(v3(slope(truncated(detached, 2)), svd_of(detached), 2), expected)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(1, 3), st.floats(0, 1), st.integers(0, 99))
def test_clipping_bounds_v3_however_close_the_singular_values_come(
    shape: tuple[int, int], rank: int, closeness: float, seed: int
) -> None:
    torch.manual_seed(seed)
    sigma = [2.0] * rank + [2.0 * closeness] * (4 - rank)
    g = torch.randn(shape, dtype=torch.float64)
    bound = g.norm() / (1 - math.sqrt(EPSILON))
    assert v3(g, svd_of(matrix(shape, sigma)), rank).norm() <= bound * (1 + 1e-6)


def test_where_singular_values_nearly_meet_the_true_derivative_is_beyond_the_bound() -> None:
    torch.manual_seed(3)
    w = matrix((5, 5), [3, 2, 1.9999, 1, 0.5]).requires_grad_()
    g = torch.randn(5, 5, dtype=torch.float64)
    (true,) = torch.autograd.grad((g * truncated(w, 2)).sum(), w)
    bound = g.norm() / (1 - math.sqrt(EPSILON))
    assert v3(g, svd_of(w.detach()), 2).norm() <= bound < true.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_v1_projects_the_gradient_onto_the_kept_left_bases(shape: tuple[int, int]) -> None:
    torch.manual_seed(4)
    w = torch.randn(shape, dtype=torch.float64)
    g = torch.randn(shape, dtype=torch.float64)
    u = torch.linalg.svd(w, full_matrices=False).U
    for rank in range(1, min(shape) + 1):
        assert torch.allclose(v1(g, svd_of(w), rank), u[:, :rank] @ u[:, :rank].T @ g)


@pytest.mark.parametrize("shape", SHAPES)
def test_v3_with_all_bases_is_the_gradient_itself(shape: tuple[int, int]) -> None:
    torch.manual_seed(5)
    g = torch.randn(shape, dtype=torch.float64)
    assert torch.allclose(v3(g, svd_of(torch.randn(shape, dtype=torch.float64)), min(shape)), g)


def test_a_weight_of_zeros_has_a_finite_gradient() -> None:
    assert torch.isfinite(v3(torch.randn(5, 4), svd_of(torch.zeros(5, 4)), 2)).all()


def test_the_truncation_that_the_tests_differentiate_is_the_one_that_is_trained() -> None:
    w = torch.randn(6, 4, dtype=torch.float64)
    assert torch.allclose(as_matrix(truncate(w.T, svd_of(w), 2)), truncated(w, 2))
