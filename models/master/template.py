"""The template: all that is known of a model's files before a plan is chosen.

Graph, layers, and every tensor's shape and dtype; enough to say the exact size of any variant's file
and to write its code, without opening the weights. As it is stored it says which format of master it is of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rightrank.models.errors import UnreadableMaster
from rightrank.models.factor.forms import layer_from_json
from rightrank.models.factor.layer import Layer
from rightrank.models.master import entries
from rightrank.models.master.integers import Integers
from rightrank.models.master.values import Values
from rightrank.models.program.graph import Graph

# Of masters as they are stored. In 1 factors are as their calls take them and layers say which forms suit them;
# before it, no format was named.
UNNAMED, FORMAT = 0, 1


class TensorSpec(NamedTuple):
    """A tensor's type and sizes."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tuned:
    """Which plans use the tuned tensors (see `tune`): those of at most `below` parameters.

    `knots` are the sizes, in parameters, whose batch-norm statistics are stored, rising; a plan uses those of
    the nearest. `tensors` are the learnt ones besides the factors, `statistics` those that the knots have.
    """

    below: int
    knots: tuple[int, ...]
    tensors: frozenset[str]
    statistics: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        names = {"tensors": sorted(self.tensors), "statistics": sorted(self.statistics)}
        return {"below": self.below, "knots": list(self.knots), **names}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tuned:
        names = frozenset(data["tensors"]), frozenset(data["statistics"])
        return Tuned(data["below"], tuple(data["knots"]), *names)

    def nearest(self, params: int) -> int:
        """The knot, by its index, whose size is nearest in ratio to `params`."""
        return min(range(len(self.knots)), key=lambda index: abs(math.log(self.knots[index] / params)))


@dataclass(frozen=True)
class Template:
    """`tensors` by qualified name; `params` and `macs` of the whole program, all of them counted; `corrected`
    names, for each tensor that a layer's cut changes, that layer.

    Where computed weights were stored or zero channels removed (see `master`), all this is said of the program that
    is left, and `uploaded` is the template of the one that came. That has no layers, since none of it is cut;
    `differing` are those of its tensors that the other has not, or has otherwise. `values` is what all values are like,
    where that can be told; templates of before have none. `format` is that of the entries beside it, and where they are
    `rounded`, so is a file of what weights are in eight bits. `card` is the text that every file carries (see
    `models.card`), "" where there is none. `integers` is what can compute in eight bits, where calibration inputs told.
    `tables` are the parameters that have levels though no layer reads them as its weight, `alike` the weights whose
    levels stand for the same in all outputs, `vectors` the parameters, of one dimension or of few numbers, that have
    eight bits beside levels, and `wide` the vectors, and the weights whose scales, that are float32 there, half
    precision having none for them (see `assemble.levels`); of those of before there are none.
    """

    graph: Graph
    layers: tuple[Layer, ...]
    tensors: Mapping[str, TensorSpec]
    params: int
    macs: int
    corrected: Mapping[str, str] = field(default_factory=dict)
    tuned: Tuned | None = None
    uploaded: Template | None = None
    differing: frozenset[str] = frozenset()
    values: Values | None = None
    format: int = FORMAT
    rounded: bool = False
    card: str = ""
    integers: Integers | None = None
    tables: frozenset[str] = frozenset()
    alike: frozenset[str] = frozenset()
    vectors: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()

    @property
    def original(self) -> Template:
        """The template of the network as uploaded, of which budgets are shares."""
        return self.uploaded or self

    def entry(self, name: str) -> str:
        """The entry of the master that holds a whole tensor."""
        return entries.uploaded(name) if name in self.differing else entries.dense(name)

    @cached_property
    def decomposed(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.decomposed)

    def params_at(self, ranks: Sequence[int]) -> int:
        """All parameters of the variant with these ranks (0: dense)."""
        pairs = zip(self.decomposed, ranks, strict=True)
        return self.params - sum(layer.params - layer.params_at(rank) for layer, rank in pairs)

    def by_weight(self, ranks: Sequence[int]) -> dict[str, int]:
        """A plan's ranks by the weights of their layers."""
        return {layer.weight: rank for layer, rank in zip(self.decomposed, ranks, strict=True)}

    def knot(self, ranks: Sequence[int]) -> int | None:
        """The knot whose statistics these ranks use, or None where they are a plain cut or the original."""
        if self.tuned is None or not any(ranks) or (params := self.params_at(ranks)) > self.tuned.below:
            return None
        return self.tuned.nearest(params)

    def to_json(self) -> dict[str, Any]:
        return {
            **({"format": self.format} if self.format else {}),
            "graph": self.graph.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "tensors": {name: [spec.dtype, list(spec.shape)] for name, spec in sorted(self.tensors.items())},
            "corrected": dict(self.corrected),
            "tuned": self.tuned.to_json() if self.tuned else None,
            "params": self.params,
            "macs": self.macs,
            **({"uploaded": self.uploaded.to_json()} if self.uploaded else {}),
            **({"apart": sorted(self.differing)} if self.differing else {}),
            **({"values": self.values.to_json()} if self.values else {}),
            **({"rounded": True} if self.rounded else {}),
            **({"card": self.card} if self.card else {}),
            **({"integers": self.integers.to_json()} if self.integers else {}),
            **({"tables": sorted(self.tables)} if self.tables else {}),
            **({"alike": sorted(self.alike)} if self.alike else {}),
            **({"vectors": sorted(self.vectors)} if self.vectors else {}),
            **({"wide": sorted(self.wide)} if self.wide else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Template:
        """The inverse of `to_json`, of this format or one before it. Raises UnreadableMaster for any other."""
        if (stored := data.get("format", UNNAMED)) not in (UNNAMED, FORMAT):
            raise UnreadableMaster(
                f"The model is stored in format {str(stored)[:20]}, and this version reads up to {FORMAT}.",
                "Run the version that stored it, or a later one; or delete the model and upload it again.",
            )
        try:
            return Template._read(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnreadableMaster(
                f"The model is stored in a way that this version does not know ({type(error).__name__}: {error}).",
                "It is of another version, or damaged: delete the model and upload it again.",
            ) from error

    @staticmethod
    def _read(data: Mapping[str, Any]) -> Template:
        return Template(
            graph=Graph.from_json(data["graph"]),
            layers=tuple(layer_from_json(layer) for layer in data["layers"]),
            tensors={name: TensorSpec(dtype, tuple(shape)) for name, (dtype, shape) in data["tensors"].items()},
            corrected=data["corrected"],
            tuned=Tuned.from_json(data["tuned"]) if data["tuned"] else None,
            params=data["params"],
            macs=data["macs"],
            uploaded=Template.from_json(data["uploaded"]) if "uploaded" in data else None,
            differing=frozenset(data.get("apart", ())),
            values=Values.from_json(data["values"]) if "values" in data else None,
            format=data.get("format", UNNAMED),
            rounded=data.get("rounded", False),
            card=data.get("card", ""),
            integers=Integers.from_json(data["integers"]) if "integers" in data else None,
            tables=frozenset(data.get("tables", ())),
            alike=frozenset(data.get("alike", ())),
            vectors=frozenset(data.get("vectors", ())),
            wide=frozenset(data.get("wide", ())),
        )

    @staticmethod
    def open(folder: Path) -> Template:
        return Template.from_json(json.loads((folder / entries.TEMPLATE).read_bytes()))

    def save(self, folder: Path) -> None:
        (folder / entries.TEMPLATE).write_text(json.dumps(self.to_json(), separators=(",", ":")))
