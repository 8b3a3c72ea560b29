"""Weights and metrics to quantise, drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from rightrank.models.quantise import metric


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(size: int, seed: int = 1) -> Tensor:
    """Of inputs that have much in common."""
    rows = drawn(4 * size, size, seed=seed) + 2 * drawn(4 * size, 3, seed=seed + 1) @ drawn(3, size, seed=seed + 2)
    return rows.T @ rows / len(rows)


def decomposed(outputs: int = 20, inputs: int = 60) -> tuple[Tensor, ...]:
    """A weight of falling worth, the metric around it, and its factors, the strongest basis first (see
    `factor.metric`)."""
    weight, before, after = drawn(outputs, inputs), covariance(inputs), covariance(outputs, seed=7)
    values, vectors = torch.linalg.eigh(after)
    root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
    worth, basis = torch.linalg.eigh(root @ weight @ before @ weight.T @ root)
    basis = basis.flip(1)
    return weight, before, after, basis.T @ root @ weight, basis.T @ inverse, worth.flip(0)


def lost(found: tuple[Tensor, Tensor], weight: Tensor, inputs: Tensor, outputs: Tensor) -> float:
    down, up = found
    return metric.loss(weight - up.T @ down, inputs, outputs)
