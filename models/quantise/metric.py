"""What an error in a layer costs, from the second moments around it, in the unit in which its bases have their worth.

An error E (o, i) costs `tr(G E C Eᵀ)`, C the covariance of the inputs and G the moment of the outputs' gradients.
Either may be given as a vector, where nothing is known but what each costs by itself: of many outputs a matrix would be
more than the weight.
"""

from __future__ import annotations

import math

from torch import Tensor

from rightrank.models.quantise.feedback import SINGLE, Feedback

# Of more inputs a second moment would take more memory than all else; such a layer is rounded.
WIDE = 6144


def times(rows: Tensor, metric: Tensor) -> Tensor:
    """Rows (k, n) times a metric (n, n), or the diagonal of one, (n,)."""
    return rows @ metric if metric.ndim == 2 else rows * metric


def alone(metric: Tensor) -> Tensor:
    """What an error in each number costs that nothing makes good, (n,)."""
    return metric.diagonal() if metric.ndim == 2 else metric


def feedback(metric: Tensor) -> Feedback | None:
    """How errors are made good in a metric; None in one where nothing can be."""
    return Feedback.of(metric) if metric.ndim == 2 else None


def left(metric: Tensor, made_good: Feedback | None) -> Tensor:
    """What an error in each number costs beside what its feedback makes good, (n,)."""
    return metric if made_good is None else made_good.left


def of_rounding(error: Tensor, missed: Tensor, made_good: Feedback, inputs: Tensor, outputs: Tensor) -> float:
    """The `loss` of an error (o, i) that rounding made, of what its columns `missed` (see `feedback`): in the damped
    metric it is the sum of what each of them costs, so that the inputs' metric is not needed."""
    if made_good.ridge is None:
        return loss(error, inputs, outputs)
    left, ridge = made_good.left, made_good.ridge
    if outputs.ndim == 1:
        return _least(float(left @ (missed.square() @ outputs)) - ridge * float(error.square().sum(1) @ outputs))
    if len(missed) >= SINGLE:
        missed, error = (missed * left.sqrt().unsqueeze(1)).float(), error.float()
        square = (missed.T @ missed).double() - ridge * (error @ error.T).double()
    else:
        square = missed.T @ (missed * left.unsqueeze(1)) - ridge * error @ error.T
    return _least(float((square * outputs).sum()))


def loss(error: Tensor, inputs: Tensor, outputs: Tensor) -> float:
    """What an error (o, i) in a weight costs, all in double."""
    if inputs.ndim == 1 and outputs.ndim == 1:
        return _least(float(error.square() @ inputs @ outputs))
    return _least(float((times(error, inputs) * times(error.T, outputs).T).sum()))


def _least(loss: float) -> float:
    """A loss that rounding has not put below nothing; one that is no number is worse than any."""
    return math.inf if math.isnan(loss) else max(0.0, loss)
