"""In which of its forms a layer keeps most for what it costs, and its factors in that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from rightrank.models.factor.factors import Factors
from rightrank.models.factor.layer import Form, Layer
from rightrank.models.factor.moments import Moments

# They are compared at these shares of the layer's parameters.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def decompose(
    layer: Layer, weight: Tensor, moments: Moments | None, forms: Mapping[str, Form], gradient: bool = True
) -> tuple[Layer, Factors]:
    """The layer in the form that loses least, averaged over its possible sizes, and its factors: in the metric of the
    `moments`, or by the SVD where there are none (see `metric`).

    It stays in its own form, or takes another of `forms` that suits it and loses less.
    """
    found = layer, layer.form.factors(layer, weight, moments, gradient)
    for name, form in forms.items():
        if name == layer.form.name or name not in layer.suits:
            continue
        other = replace(layer, form=form)
        factors = form.factors(other, weight, moments, gradient)
        usable = all(bool(each.isfinite().all()) for each in factors.tensors.values())
        if usable and _lost(other, factors) < _lost(*found):
            found = other, factors
    return found


def _lost(layer: Layer, factors: Factors) -> float:
    """The share of what the bases are worth that is cut off, summed over sizes."""
    worth = factors.sigma.square()
    # What a basis takes on average, up to each rank.
    widths = layer.params_by_rank / np.arange(1, layer.rank + 1)
    ranks = [max(1, int((np.arange(1, layer.rank + 1) <= share * layer.params / widths).sum())) for share in SHARES]
    return float(sum(worth[rank:].sum() for rank in ranks) / worth.sum().clamp_min(1e-300))
