"""The levels that a plan takes of its master, and the numbers that they are."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from rightrank.models.emit.coded import block_bytes, coded
from rightrank.models.emit.encoding.packing import PACKINGS, SINGLE
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
    """The levels that a plan takes of a master, by tensor: of those that are `whole`, layers' weights and tables (see
    `Template`), or `cut`."""

    master: Master
    plan: Plan
    whole: frozenset[str]
    cut: Mapping[str, Layer]

    @staticmethod
    def of(master: Master, plan: Plan) -> Made:
        template = master.template
        layers = {layer.weight: layer for layer in template.layers if template.tensors[layer.weight].dtype == "float32"}
        ranks = template.by_weight(plan.ranks)
        cut = {name: layer for name, layer in layers.items() if ranks.get(name)}
        return Made(master, plan, frozenset(layers.keys() | template.tables) - cut.keys(), cut)

    @property
    def names(self) -> list[str]:
        """All of them, in one order."""
        return sorted({*self.whole, *self.cut})

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
        grid, layer = named.get(name, FIXED), self.cut.get(name)
        if layer is None:
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
        layer, whole = self.cut.get(name), self.master.template.tensors[name].shape
        shapes = {"": whole} if layer is None else layer.factor_shapes(self.rank(name))
        return {
            side: decoded(layer, side, shapes[side], levels, self._rows(name, levels))
            for side, levels in (own or self.levels(name)).items()
        }

    def coded(self, name: str, sides: Mapping[str, Scaled]) -> dict[str, Levels]:
        """The same the other way round."""
        layer = self.cut.get(name)
        rows = {
            s: each.levels.flatten(1) if layer is None else by_basis(layer, s, each.levels) for s, each in sides.items()
        }
        packing = None if name in {each.weight for each in self.master.template.decomposed} else SINGLE
        return coded({s: (each.numpy(), sides[s].scales.flatten().numpy()) for s, each in rows.items()}, packing)

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


def decoded(layer: Layer | None, side: str, shape: tuple[int, ...], levels: Levels, count: int) -> Scaled:
    """What the first `count` rows of levels stand for, in the shape of a tensor, or of the factor on a layer's side."""
    word, length, packing = levels.end.tolist()
    pieces = [*block(levels.stream, int(levels.ends[count]), Bits(word, length)), LAST]
    raw = zlib.decompressobj(-15).decompress(b"".join(bytes(piece) for piece in pieces))
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(count, -1)
    found = torch.from_numpy(PACKINGS[packing].unpack(rows, math.prod(shape) // count))
    made = in_call(layer, side, found) if layer is not None and side else found.reshape(shape)
    scales = torch.from_numpy(levels.scale[: shape[0]].astype(np.float64))
    return Scaled(made.contiguous(), scales.reshape(-1, *(1,) * (len(shape) - 1)))
