"""The template: all that is known of a model's files before a plan is chosen.

Graph, layers, and every tensor's shape and dtype; enough to say the exact size of any variant's file
and to write its code, without opening the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from models.layers import Layer
from models.program import Graph


@dataclass(frozen=True)
class TensorSpec:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Template:
    """`tensors` by qualified name; `params` and `macs` of the original, all of them counted; `corrected`
    names, for each tensor that a layer's cut changes, that layer."""

    graph: Graph
    layers: tuple[Layer, ...]
    tensors: Mapping[str, TensorSpec]
    params: int
    macs: int
    corrected: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def decomposed(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.decomposed)

    def to_json(self) -> dict[str, Any]:
        return {
            "graph": self.graph.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "tensors": {name: [spec.dtype, list(spec.shape)] for name, spec in sorted(self.tensors.items())},
            "corrected": dict(self.corrected),
            "params": self.params,
            "macs": self.macs,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Template:
        return Template(
            graph=Graph.from_json(data["graph"]),
            layers=tuple(Layer.from_json(layer) for layer in data["layers"]),
            tensors={name: TensorSpec(dtype, tuple(shape)) for name, (dtype, shape) in data["tensors"].items()},
            corrected=data["corrected"],
            params=data["params"],
            macs=data["macs"],
        )

    @staticmethod
    def open(folder: Path) -> Template:
        return Template.from_json(json.loads((folder / "template.json").read_bytes()))
