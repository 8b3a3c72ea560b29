"""What a plan of ranks and steps gains from work of its own (see `choose`): its levels chosen anew.

The candidates are the cut, its levels as they were made at ingest; the refit, each layer of which is quantised where it
is fitted, so that later ones make good what its levels lose; and both with batch norms taken anew. A file is no larger
for it: each layer gets as many bytes as the cut's levels of it and of those before it took, and has coarser steps where
it would take more.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.emit import formats
from rightrank.models.emit.coded import block_bytes, coded
from rightrank.models.emit.encoding.packing import PACKINGS
from rightrank.models.emit.torchscript.deflate import LAST, Bits, block
from rightrank.models.factor.factors import by_basis, in_call
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.layer import Layer
from rightrank.models.improve.choose import BATCH, CUT, METHOD, REFIT
from rightrank.models.improve.quantising import Fitted, Quantising
from rightrank.models.improve.refit import INPUTS, affordable, refit
from rightrank.models.improve.renorm import renorm
from rightrank.models.master import entries, gradients
from rightrank.models.master.levels import FIXED, OWN, Levels
from rightrank.models.master.master import Master
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.master.variant import Variant, changes, variant
from rightrank.models.measure.nearness import nearness
from rightrank.models.plan.mixture import Mixture
from rightrank.models.plan.planner import Plan
from rightrank.models.program.calls import Convolution, Linear, transposed
from rightrank.models.program.samples import Samples
from rightrank.models.program.shapes import Classes
from rightrank.models.progress import Progress
from rightrank.models.quantise import metric
from rightrank.models.quantise.scaled import Scaled
from rightrank.models.quantise.whole import whole

# How often a layer's steps are made coarser before it keeps the levels that it had.
TRIES = 6
# What another packing may take of a file's text, in bytes.
OF_PACKING = 16


def improve_mixed(folder: Path, plan: Plan, out: Path, progress: Progress, classes: Classes = True) -> str:
    """Find what is best for a plan of coded levels of the master in `folder`; write what it changes to `out`.

    The answer says what won: "cut", "cut+bn", "refit" or "refit+bn"; inputs are held back to decide as in `choose`.
    """
    master = Master.open(folder)
    template, stored = replace(master.template, tuned=None), master.tensors()
    kept = load_file(folder / entries.REFIT)
    inputs = Samples.stored(template.graph, kept)
    count = min(len(inputs) // 5, max(INPUTS // 5, template.graph.batch or 0))
    batch = template.graph.batch or min(BATCH, max(count, 1))
    made = _Made.of(master, plan)
    base = variant(template, stored, plan.ranks)
    cut = base.with_({name: made.numbers(name)[""] for name in made.whole}, {n: made.numbers(n) for n in made.cut})
    candidates: dict[str, Variant] = {CUT: cut}
    own: dict[str, dict[str, Levels]] = {CUT: {}}
    best = CUT
    if count >= batch and template.graph.batch is None:
        held, data = inputs[:count], inputs[count:]
        original = master.program(stored)
        few = data[: INPUTS - count]
        reached = gradients.read(template.decomposed, kept)
        quantiser = WithinBytes(made, reached, made.grids(Mixture.open(folder)))
        ranks = template.by_weight(plan.ranks)
        fits = refit(original, template.layers, ranks, reached, cut.program(), few, progress, quantiser)
        found = variant(template, stored, plan.ranks, fits)
        same = {name: made.numbers(name) for name in (*made.whole, *made.cut) if name not in quantiser.found}
        found = found.with_(
            {name: sides[""] for name, sides in same.items() if "" in sides},
            {name: sides for name, sides in same.items() if "" not in sides},
        )
        candidates[REFIT], own[REFIT] = found, quantiser.levels()
        some = next(few[: affordable(original, few)].largest().parts(len(few)))
        for name, each in list(candidates.items()):
            if moved := renorm(original, each.program(), some):
                candidates[f"{name}+bn"], own[f"{name}+bn"] = each.with_(moved), own[name]
        progress("compare", 0, 1, "plans")
        measure = nearness(original, held, batch, classes)
        several = measure.distances(original, [each.program() for each in candidates.values()], held, batch)
        order = sorted(zip(several, candidates, strict=True))
        best = next(
            name for _, name in order if _save(master, plan, stored, base, candidates[name], own[name], out, name)
        )
    else:
        _save(master, plan, stored, base, cut, {}, out, CUT)
    return best


def _save(
    master: Master,
    plan: Plan,
    stored: Mapping[str, Tensor],
    base: Variant,
    wanted: Variant,
    own: Mapping[str, Levels],
    out: Path,
    method: str,
) -> bool:
    """Writes what a candidate changes to `out`; whether its file is then as large as it was planned, and no larger."""
    template = replace(master.template, tuned=None)
    weights = {layer.weight for layer in template.layers}
    others = Variant(
        template, base.factors, {n: base.whole[n] if n in weights else wanted.whole[n] for n in base.whole}
    )
    found = changes(template, stored, plan.ranks, others)
    for source, levels in own.items():
        found |= {name: torch.from_numpy(array.copy()) for name, array in levels.entries(OWN, source).items()}
    save_file(found, out, {METHOD: method})
    size = sum(len(piece) for piece in formats.pieces(master, plan, TensorFile(out)))
    return size == plan.bytes


@dataclass(frozen=True)
class _Made:
    """The levels that a plan takes of a master, by tensor: of those that are `whole` or `cut`."""

    master: Master
    plan: Plan
    whole: Mapping[str, Layer]
    cut: Mapping[str, Layer]

    @staticmethod
    def of(master: Master, plan: Plan) -> _Made:
        template = master.template
        layers = {layer.weight: layer for layer in template.layers if template.tensors[layer.weight].dtype == "float32"}
        ranks = template.by_weight(plan.ranks)
        whole = {name: layer for name, layer in layers.items() if not ranks.get(name)}
        return _Made(master, plan, whole, {name: layer for name, layer in layers.items() if ranks.get(name)})

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

    def numbers(self, name: str) -> dict[str, Tensor]:
        """A tensor's numbers, or those of its factors, by side."""
        layer = {**self.whole, **self.cut}[name]
        found = {}
        for side, levels in self.levels(name).items():
            shape = layer.factor_shapes(self.rank(name))[side] if side else layer.shape
            found[side] = numbers(layer, side, shape, levels, self._rows(name, levels))
        return found


def numbers(layer: Layer, side: str, shape: tuple[int, ...], levels: Levels, count: int) -> Tensor:
    """The numbers that the first `count` rows of levels are, in a tensor's shape."""
    word, length, packing = levels.end.tolist()
    pieces = [*block(levels.stream, int(levels.ends[count]), Bits(word, length)), LAST]
    raw = zlib.decompressobj(-15).decompress(b"".join(bytes(piece) for piece in pieces))
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(count, -1)
    numbers_in_row = int(np.prod(shape)) // count
    found = torch.from_numpy(PACKINGS[packing].unpack(rows, numbers_in_row).astype(np.float32))
    scale = torch.from_numpy(levels.scale[: shape[0]].copy()).reshape(-1, *(1,) * (len(shape) - 1))
    return (in_call(layer, side, found) if side else found.reshape(shape)).contiguous() * scale


def _rounded(weight: Tensor, grid: float) -> Scaled:
    """A weight at a grid where each number costs the same."""
    rows = weight.flatten(1).double()
    inputs, outputs = (torch.ones(size, dtype=torch.float64) for size in reversed(rows.shape))
    made = whole(rows, inputs, outputs, grid)
    return Scaled(made.levels.reshape(weight.shape), made.scales.reshape(-1, *(1,) * (weight.ndim - 1)))


@dataclass
class WithinBytes:
    """Quantises each layer at its grid, or as much coarser as its bytes want it. What it has made is `found`, by weight
    and side; what the layers before it have left of their bytes it may use."""

    made: _Made
    gradients: Mapping[str, Gradients]
    grids: Mapping[str, float]
    left: int = 0
    found: dict[str, dict[str, Levels]] = field(default_factory=dict)

    def __call__(self, fitted: Fitted) -> Fitted:
        layer, name = fitted.regression.layer, fitted.regression.layer.weight
        planned, before = self.made.bytes(name), self.made.levels(name)
        if (fitted.factors is None) != (name in self.made.whole):
            return self._as_made(fitted)
        known = fitted.regression.groups == 1 and isinstance(fitted.regression.call, (Linear, Convolution))
        known = known and not transposed(fitted.regression.call) and fitted.regression.inputs <= metric.WIDE
        allowed, grid = planned + self.left, self.grids.get(name)
        for _ in range(TRIES):
            if known:
                quantising = Quantising({name: grid} if grid else {}, self.gradients)
                result = quantising(fitted)
                sides = quantising.found[name]
            elif fitted.factors is None:
                # As at ingest, where no metric is known of it.
                sides = {"": _rounded(fitted.regression.weight(fitted.matrix), grid or 0.0)}
                result = replace(fitted, matrix=fitted.regression.matrix(sides[""].numbers()))
            else:
                return self._as_made(fitted)
            rows = {
                side: by_basis(layer, side, each.levels) if side else each.levels.flatten(1)
                for side, each in sides.items()
            }
            levels = coded({s: (r.numpy().astype(np.int8), sides[s].scales.flatten().numpy()) for s, r in rows.items()})
            size = sum(block_bytes([each], len(each.ends) - 1) for each in levels.values())
            packings = [int(next(iter(each.values())).end[2]) for each in (levels, before)]
            size += OF_PACKING * (packings[0] != packings[1])
            if size <= allowed:
                self.found[name], self.left = levels, allowed - size
                return result
            if grid is None:
                break
            count = sum(r.numel() for r in rows.values())
            grid *= 2.0 ** (8 * (size - allowed) / count + 0.01)
        return self._as_made(fitted)

    def _as_made(self, fitted: Fitted) -> Fitted:
        """The layer as the cut has it."""
        name, regression = fitted.regression.layer.weight, fitted.regression
        sides = {side: each.double() for side, each in self.made.numbers(name).items()}
        if "" in sides:
            return replace(fitted, matrix=regression.matrix(sides[""]), factors=None)
        return replace(fitted, factors=sides)

    def levels(self) -> dict[str, Levels]:
        """All that was made, by the master's entries."""
        template = self.made.master.template
        named = {layer.weight: layer.name for layer in template.layers}
        return {
            entries.factor(side, named[name]) if side else template.entry(name): each
            for name, sides in self.found.items()
            for side, each in sides.items()
        }
