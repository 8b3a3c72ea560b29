"""The forward pass with other weights, leaving the model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def forward(model: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Any:
    """`model(x)` with the parameters named in `weights` replaced; all others are shared.

    Buffers are copies: in training mode batch norm normalises with the statistics of this pass, and the
    model's running statistics never hear of it.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return functional_call(model, {**buffers, **weights}, (x,))
