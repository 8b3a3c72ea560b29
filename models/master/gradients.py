"""The layers' gradients as a master keeps them in `REFIT`, to refit plans later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.master import entries


def tensors(layers: Sequence[Layer], moments: Sequence[Moments]) -> dict[str, Tensor]:
    """What is stored, in single precision; nothing of layers without a kernel whose calls read the weight the other way
    round, which are not refit."""
    found = {}
    for layer, each in zip(layers, moments, strict=True):
        if each.turned and len(layer.shape) == 2:
            continue
        if each.side == "outputs":
            found[entries.gradient(layer.name)] = each.gradient.float()
        else:
            found[entries.reached(layer.name)] = each.gradient.float()
            found[entries.far(layer.name)] = torch.tensor([each.far])
    return found


def read(layers: Sequence[Layer], stored: Mapping[str, Tensor]) -> dict[str, Gradients]:
    """The inverse of `tensors`, by the layers' weights and in double."""
    found = {}
    for layer in layers:
        gradient, reached = (stored.get(name(layer.name)) for name in (entries.gradient, entries.reached))
        if gradient is not None:
            found[layer.weight] = Gradients(gradient.double())
        elif reached is not None:
            far = float(stored[entries.far(layer.name)])
            found[layer.weight] = Gradients(reached.double(), "inputs", far)
    return found
