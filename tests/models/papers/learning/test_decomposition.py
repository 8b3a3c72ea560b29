from __future__ import annotations

import pytest
import torch

from rightrank.models.papers.learning.decomposition import as_matrix, as_weight, decompose, truncate

SHAPES = [(6, 4), (4, 6), (5, 5), (8, 3, 3, 3), (30, 2, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parts_multiply_to_the_weight_and_their_vectors_are_orthonormal(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    svd = decompose(weight)
    assert torch.allclose((svd.u * svd.sigma) @ svd.v.T, as_matrix(weight))
    for vectors in (svd.u, svd.v):
        assert torch.allclose(vectors.T @ vectors, torch.eye(svd.sigma.numel(), dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_truncation_is_the_best_approximation_of_its_rank(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    weight = torch.randn(shape, dtype=torch.float64)
    u, sigma, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    for rank in range(1, sigma.numel() + 1):
        best = ((u[:, :rank] * sigma[:rank]) @ v[:rank]).reshape(shape)
        assert torch.allclose(truncate(weight, decompose(weight), rank), best)


def test_all_bases_leave_the_very_weight_whatever_svd_it_is_projected_on() -> None:
    weight = torch.randn(6, 4)
    assert torch.equal(truncate(weight, decompose(torch.randn(6, 4)), 4), weight)


@pytest.mark.parametrize("weight", [torch.zeros(5, 3), torch.ones(5, 3), torch.ones(3, 5)])
def test_a_weight_of_lower_rank_decomposes_without_a_division_by_zero(weight: torch.Tensor) -> None:
    svd = decompose(weight)
    assert torch.isfinite(svd.u).all() and torch.isfinite(svd.v).all()
    assert torch.allclose((svd.u * svd.sigma.float()) @ svd.v.T, as_matrix(weight), atol=1e-6)


def test_a_matrix_goes_back_to_the_weight_that_it_came_from() -> None:
    weight = torch.randn(4, 3, 2, 5)
    assert torch.equal(as_weight(as_matrix(weight), weight.shape), weight)
