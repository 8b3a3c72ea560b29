"""What an elimination did, for people and for the model's description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerReport:
    """One convolution or linear layer: how many of its `channels` were `removed`, its own parameters (weight
    and bias) before and after, and for the dead channels that had to stay, how many for which reason."""

    name: str
    channels: int
    removed: int
    params_before: int
    params_after: int
    kept: Mapping[str, int]

    @property
    def saved(self) -> int:
        return self.params_before - self.params_after


@dataclass(frozen=True)
class Report:
    """`difference` is the largest between the outputs before and after, relative to the largest output, on so many
    inputs as were `compared` on (0: on random ones); `exact` says that what went was zero to the last digit.
    `rejected` says why an elimination was not accepted, and is empty where it was or nothing was removed."""

    layers: tuple[LayerReport, ...]
    params_before: int
    params_after: int
    difference: float = 0.0
    rejected: str = ""
    exact: bool = True
    compared: int = 0

    @property
    def removed(self) -> int:
        return sum(layer.removed for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Of the layers, those that have dead channels."""
        layers = [asdict(layer) for layer in self.layers if layer.removed or layer.kept or layer.saved]
        return {**asdict(self), "layers": layers, "removed": self.removed}
