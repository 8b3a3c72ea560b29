"""The levels that a plan takes of its master, and the numbers that they are."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rightrank.models.emit.coded import block_bytes, coded
from rightrank.models.emit.encoding.packing import PACKINGS
from rightrank.models.emit.torchscript.deflate import LAST, Bits, block
from rightrank.models.factor.factors import by_basis, in_call
from rightrank.models.factor.layer import Layer
from rightrank.models.master import entries
from rightrank.models.master.levels import FIXED, Levels
from rightrank.models.master.master import Master
from rightrank.models.plan.mixture import Mixture
from rightrank.models.plan.planner import Plan
from rightrank.models.quantise.scaled import Scaled

# A tensor's levels, or those of its factors by side, the tensor under ""; and these of several tensors, by name.
Sides: TypeAlias = Mapping[str, Levels]
Own: TypeAlias = Mapping[str, Sides]


@dataclass(frozen=True)
class Made:
    """The levels that a plan takes of a master, by tensor: of those that are `whole` or `cut`."""

    master: Master
    plan: Plan
    whole: Mapping[str, Layer]
    cut: Mapping[str, Layer]

    @staticmethod
    def of(master: Master, plan: Plan) -> Made:
        template = master.template
        layers = {layer.weight: layer for layer in template.layers if template.tensors[layer.weight].dtype == "float32"}
        ranks = template.by_weight(plan.ranks)
        whole = {name: layer for name, layer in layers.items() if not ranks.get(name)}
        return Made(master, plan, whole, {name: layer for name, layer in layers.items() if ranks.get(name)})

    def rank(self, name: str) -> int:
        return self.master.template.by_weight(self.plan.ranks).get(name, 0)

    def grids(self, mixture: Mixture) -> dict[str, float]:
        """The grid of each layer that can be cut (see `quantise.steps`)."""
        names = [layer.weight for layer in self.master.template.decomposed]
        return {
            name: float(finest) * 2.0 ** mixture.grids.index(grid)
            for name, finest, grid in zip(names, mixture.finest, self.plan.grids, strict=True)
        }

    def levels(self, name: str) -> dict[str, Levels]:
        """A tensor's, by side."""
        template = self.master.template
        named = dict(zip((layer.weight for layer in template.decomposed), self.plan.grids, strict=True))
        layer, grid = {**self.whole, **self.cut}[name], named.get(name, FIXED)
        if name in self.whole:
            return {"": Levels.of(self.master.levels, grid, template.entry(name))}
        sources = {side: entries.factor(side, layer.name) for side in layer.form.sides}
        return {side: Levels.of(self.master.levels, grid, source) for side, source in sources.items()}

    def bytes(self, name: str) -> int:
        """What its levels take of the file."""
        return sum(block_bytes([each], self._rows(name, each)) for each in self.levels(name).values())

    def _rows(self, name: str, levels: Levels) -> int:
        return self.rank(name) or len(levels.ends) - 1

    def scaled(self, name: str, own: Sides | None = None) -> dict[str, Scaled]:
        """A tensor, or its factors, by side; of the levels that a plan has of its `own`, where it has some."""
        layer = {**self.whole, **self.cut}[name]
        found = {}
        for side, levels in (own or self.levels(name)).items():
            shape = layer.factor_shapes(self.rank(name))[side] if side else layer.shape
            found[side] = decoded(layer, side, shape, levels, self._rows(name, levels))
        return found

    def numbers(self, name: str) -> dict[str, Tensor]:
        """The numbers that they are, in single precision."""
        return {side: each.numbers(torch.float32) for side, each in self.scaled(name).items()}

    def entries(self, own: Own) -> dict[str, Levels]:
        """Levels by the master's entries."""
        template = self.master.template
        named = {layer.weight: layer.name for layer in template.layers}
        return {
            entries.factor(side, named[name]) if side else template.entry(name): each
            for name, sides in own.items()
            for side, each in sides.items()
        }


def coded_of(layer: Layer, sides: Mapping[str, Scaled]) -> dict[str, Levels]:
    """A tensor, or its factors, by side, as they are coded: a basis or an output a row."""
    rows = {
        side: by_basis(layer, side, each.levels) if side else each.levels.flatten(1) for side, each in sides.items()
    }
    return coded({side: (each.numpy(), sides[side].scales.flatten().numpy()) for side, each in rows.items()})


def decoded(layer: Layer, side: str, shape: tuple[int, ...], levels: Levels, count: int) -> Scaled:
    """What the first `count` rows of levels stand for, in a tensor's shape."""
    word, length, packing = levels.end.tolist()
    pieces = [*block(levels.stream, int(levels.ends[count]), Bits(word, length)), LAST]
    raw = zlib.decompressobj(-15).decompress(b"".join(bytes(piece) for piece in pieces))
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(count, -1)
    found = torch.from_numpy(PACKINGS[packing].unpack(rows, int(np.prod(shape)) // count))
    scales = torch.from_numpy(levels.scale[: shape[0]].astype(np.float64)).reshape(-1, *(1,) * (len(shape) - 1))
    return Scaled((in_call(layer, side, found) if side else found.reshape(shape)).contiguous(), scales)
