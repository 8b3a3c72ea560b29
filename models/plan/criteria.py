"""Criteria: how much each basis of each layer is worth.

A criterion maps the layers' spectra to one array per layer, a value per basis, higher = kept longer;
`inf` marks a basis that no budget may drop. A new one is a function and a line in `CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Importance: TypeAlias = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Spectrum:
    """What a criterion may look at: a layer's singular values (R,) in the metric that it was decomposed
    in, dense parameters P, MACs M, and `cost` (R,), the parameters that each basis takes (m + n)."""

    sigma: NDArray[np.float64]
    params: int
    macs: int
    cost: NDArray[np.int64]


Criterion: TypeAlias = Callable[[Sequence[Spectrum]], Importance]


def c1(layers: Sequence[Spectrum]) -> Importance:
    """`C₁(ℓ,k) = σ_k / ‖W‖₂` (arXiv:1910.13141, Eq. 1): each layer on its own scale."""
    return [layer.sigma / max(float(layer.sigma[0]), np.finfo(float).tiny) for layer in layers]


def c2(layers: Sequence[Spectrum]) -> NDArray[np.float64]:
    """`C₂(ℓ) = (1 − P/ΣP)·(1 − M/ΣM)` (arXiv:1910.13141, Eq. 2), one value per layer.

    The sums run over the layers given.
    """
    params = np.array([layer.params for layer in layers], dtype=float)
    macs = np.array([layer.macs for layer in layers], dtype=float)
    return np.asarray((1 - params / params.sum()) * (1 - macs / macs.sum()))


def c1c2(layers: Sequence[Spectrum]) -> Importance:
    """`C = C₁·C₂` (arXiv:1910.13141): large layers give way first."""
    return [first * second for first, second in zip(c1(layers), c2(layers), strict=True)]


def sigma(layers: Sequence[Spectrum]) -> Importance:
    """Raw singular values pooled over all layers, at least 5 bases each (arXiv:1910.13141 v3)."""
    floor = 5
    return [np.concatenate([np.full(min(floor, s.size), np.inf), s[floor:]]) for s in (x.sigma for x in layers)]


def uniform(layers: Sequence[Spectrum]) -> Importance:
    """The same share of bases in every layer, the last layer whole (arXiv:1910.13141, baseline)."""
    ramps = [1 - np.arange(layer.sigma.size) / layer.sigma.size for layer in layers]
    ramps[-1] = np.full(layers[-1].sigma.size, np.inf)
    return ramps


def energy(layers: Sequence[Spectrum]) -> Importance:
    """Share of the layer's energy per parameter spent, `σ_k² / Σσ² / (m+n)`.

    Ranks by a Lagrangian: every kept basis buys at least as much of its layer's energy per parameter
    as any basis left out.
    """
    totals = [max(float(np.sum(layer.sigma**2)), np.finfo(float).tiny) for layer in layers]
    return [layer.sigma**2 / total / layer.cost for layer, total in zip(layers, totals, strict=True)]


def loss(layers: Sequence[Spectrum]) -> Importance:
    """Expected squared change of the network's outputs per parameter spent, `σ_k² / (m+n)`; ours. By the Fisher
    matrix it is the change of the loss.

    Only in a metric that makes σ² the same unit in every layer.
    """
    return [layer.sigma**2 / layer.cost for layer in layers]


@dataclass(frozen=True)
class Rule:
    """A criterion and the decomposition that it ranks: "svd", or, from calibration data, "outputs"
    (one-sided whitening), "logits" or "loss" (whitening weighed by gradients of either, see `factor.moments`).
    `per_parameter`: it says what a basis is worth for each parameter spent, so that for a budget of MACs there is
    another order; the paper's have one order for both. `any_form`: layers may take each form that suits them (see
    `factor.decompose`); the criteria of others are for the first one, the paper's."""

    rate: Criterion
    metric: Literal["svd", "outputs", "logits", "loss"] = "svd"
    per_parameter: bool = False
    any_form: bool = False

    @property
    def gradient(self) -> Literal["logits", "loss"]:
        """Of what calibration data are asked the gradient."""
        return "loss" if self.metric == "loss" else "logits"


CRITERIA: Mapping[str, Rule] = {
    "uniform": Rule(uniform),
    "c1": Rule(c1),
    "c1c2": Rule(c1c2),
    "sigma": Rule(sigma),
    "energy": Rule(energy, per_parameter=True, any_form=True),
    "whitened": Rule(energy, "outputs", per_parameter=True),
    "logit": Rule(loss, "logits", per_parameter=True, any_form=True),
    "fisher": Rule(loss, "loss", per_parameter=True, any_form=True),
}
WITHOUT_DATA, WITHOUT_GRADIENT, WITH_DATA = "energy", "whitened", "logit"
