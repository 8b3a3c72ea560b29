"""Channel or spatial: in which of its forms a convolution keeps more for what it costs (see `layers.Layer`)."""

from __future__ import annotations

from torch import Tensor

from models.factor import Factors, decompose_columns, decompose_in_metric, fit_columns
from models.layers import Layer
from models.statistics import Moments, columns_of

# Both are compared at these shares of the layer's parameters.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def decompose(layer: Layer, weight: Tensor, moments: Moments, gradient: bool = True) -> tuple[Layer, Factors]:
    """The layer in the form that loses least, averaged over its possible sizes, and its factors.

    The spatial form is tried where there are `moments.columns`; the rest as in `factor.decompose_in_metric`.
    """
    factors = decompose_in_metric(weight, moments, gradient)
    if moments.columns is None:
        return layer, factors
    spatial, others = layer.spatial(), decompose_columns(weight, moments, moments.columns)
    return (spatial, others) if _lost(spatial, others) < _lost(layer, factors) else (layer, factors)


def best(
    layer: Layer, weight: Tensor, rank: int, normal: Tensor, mean: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Factors of a rank, in the layer's form, for a weight (C_out, …) whose inputs have the covariance `normal` and
    the `mean`, and whose outputs' gradients the moment `gradient`; all in double."""
    flat = weight.reshape(layer.outputs, layer.inputs)
    moments = Moments(flat @ mean, flat @ normal @ flat.T, gradient)
    if layer.form == "channel":
        return decompose_in_metric(weight, moments).keep(rank)
    start = decompose_columns(weight, moments, columns_of(normal, mean, layer.shape[3]))
    return fit_columns(weight, normal, gradient, *start.keep(rank))


def _lost(layer: Layer, factors: Factors) -> float:
    """The share of what the bases are worth that is cut off, summed over sizes."""
    worth = factors.sigma.square()
    ranks = [max(1, int(share * layer.params / layer.width)) for share in SHARES]
    return float(sum(worth[rank:].sum() for rank in ranks) / worth.sum().clamp_min(1e-300))
