"""Second moments around a layer's weight, and of the gradients there: what calibration inputs say about it.

A layer of W ∈ R^{n×m}, y = Wx, is looked at from its smaller side. From the outputs: the covariance W·C·Wᵀ of y and the
moment G of their gradients. From the inputs: the covariance C of x and the moment WᵀGW of the gradients that reach
them through W. Either pair gives the same factors (see `metric`), so that a head of 50,000 outputs costs what its 768
inputs do. A transposed convolution is seen from its inputs, each of which makes a patch of outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Side: TypeAlias = Literal["outputs", "inputs"]


@dataclass(frozen=True)
class Moments:
    """Of one layer, in double, seen from a `side` of s numbers: `mean` (s,) and `covariance` (s, s) of its outputs Wx
    without the bias, or of its inputs x, per position; `gradient` (s, s), the second moment of the gradients there,
    summed over a sample's positions.

    `axis` is that of the weight's matrix (n, m) which the side lies along. Seen from the inputs, `far` is the mean
    second moment of a gradient at an output. `seen` has what forms of the layer gathered of its inputs, by their
    names. Where calls read the weight both ways, `ways` has those of each (see `together`)."""

    mean: Tensor
    covariance: Tensor
    gradient: Tensor
    seen: Mapping[str, Any] = field(default_factory=dict)
    side: Side = "outputs"
    axis: int = 0
    far: float = 0.0
    ways: tuple[Moments, ...] = ()

    def alike(self, gram: Tensor) -> Moments:
        """The same with gradients that are unity at the outputs, for a weight of this Gram matrix along the axis."""
        if self.ways:
            return together([each.alike(gram) for each in self.ways])
        unity = torch.eye(len(gram), dtype=torch.float64) if self.side == "outputs" else gram
        return replace(self, gradient=unity, far=float(self.side == "inputs"))

    @property
    def turned(self) -> bool:
        """Whether they are of calls that read the weight the other way round, as an embedding does."""
        return (self.side == "outputs") != (self.axis == 0)


def together(several: Sequence[Moments]) -> Moments:
    """One pair of moments for calls that read a weight both ways, as an embedding and the head that is tied to it do.

    What each way says is a product of what meets the weight along the axis and of what passes through it. The sum of
    two is none; in its place stands the product of the two sums, each way with its share of what both are worth.
    """
    pairs = [(m.gradient, m.covariance) if m.side == "outputs" else (m.covariance, m.gradient) for m in several]
    worths = [float((met * through).sum().clamp_min(0)) for met, through in pairs]
    whole = sum(worths)
    shares = [worth / whole for worth in worths] if whole > 0 else [1 / len(worths)] * len(worths)
    met, through = (
        torch.stack([s * each / each.trace().clamp_min(1e-300) for s, each in zip(shares, both, strict=True)]).sum(0)
        for both in zip(*pairs, strict=True)
    )
    through = through * (whole / (met * through).sum().clamp_min(1e-300))
    mean, seen, axis = torch.zeros_like(several[0].mean), several[0].seen, several[0].axis
    return Moments(mean, through, met, seen, "outputs", axis, ways=tuple(several))
