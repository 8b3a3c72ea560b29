"""Which bases the low-rank pass of a step keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rightrank.models.factor.layer import Layer
from rightrank.models.papers.learning.decomposition import Decomposition
from rightrank.models.plan.criteria import CRITERIA, Criterion, Importance, Spectrum


def rule(name: str) -> Criterion:
    """The criterion of that name; ValueError where there is none, or it needs calibration data."""
    usable = [known for known, rule in CRITERIA.items() if rule.metric == "svd"]
    if name not in usable:
        raise ValueError(f"criterion={name!r} cannot rank bases while training. Use one of {', '.join(usable)}.")
    return CRITERIA[name].rate


def importance(criterion: Criterion, layers: Sequence[Layer], svds: Sequence[Decomposition]) -> Importance:
    """What each basis of each layer is worth now."""
    return criterion(
        [
            Spectrum(svd.sigma.cpu().numpy(), layer.params, layer.macs, layer.params_of_basis)
            for layer, svd in zip(layers, svds, strict=True)
        ]
    )


def draw(low: float, high: float) -> float:
    """The kept fraction `Z ~ U(low, high)`, from torch's global generator of the CPU."""
    return low + (high - low) * torch.rand(()).item()


def keep(importance: Importance, fraction: float) -> tuple[int, ...]:
    """A rank for each layer when `(1−fraction)·ΣR` bases are removed network-wide, the least important first.

    Bases of infinite importance and the first of every layer stay in any case.
    """
    values = [np.concatenate([[np.inf], layer[1:]]) for layer in importance]
    everything = np.concatenate(values)
    count = max(everything.size - round((1 - fraction) * everything.size), int(np.isinf(everything).sum()))
    owners = np.repeat(np.arange(len(values)), [layer.size for layer in values])
    kept = np.argsort(-everything, kind="stable")[:count]
    return tuple(np.bincount(owners[kept], minlength=len(values)).tolist())
