"""Channel or spatial: in which of its forms a convolution keeps more for what it costs (see `layers.Layer`)."""

from __future__ import annotations

from torch import Tensor

from rightrank.models.factor import metric as factor
from rightrank.models.factor.layers import Layer
from rightrank.models.factor.metric import Factors, decompose_columns, decompose_in_metric, fit_columns
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.patches import columns_of

# Both are compared at these shares of the layer's parameters.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def decompose(
    layer: Layer, weight: Tensor, moments: Moments | None, spatial: bool, gradient: bool = True
) -> tuple[Layer, Factors]:
    """The layer in the form that loses least, averaged over its possible sizes, and its factors: by the SVD, or where
    there are `moments`, with `columns` where the layer has some, in their metric (see `factor`). Without `spatial` it
    is the channel form."""
    whole = factor.decompose(weight) if moments is None else decompose_in_metric(weight, moments, gradient)
    if not (spatial and layer.columns):
        return layer, whole
    if moments is None:
        columns = factor.decompose(factor.spatial_matrix(weight).T)
    else:
        assert moments.columns is not None
        columns = decompose_columns(weight, moments, moments.columns)
    other, usable = layer.spatial(), bool(columns.down.isfinite().all() and columns.up.isfinite().all())
    return (other, columns) if usable and _lost(other, columns) < _lost(layer, whole) else (layer, whole)


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
