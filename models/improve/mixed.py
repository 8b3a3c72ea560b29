"""What a plan of ranks and steps gains from work of its own (see `choose`): its levels chosen anew.

The candidates are the cut, its levels as they were made at ingest; the refit, each layer of which is quantised where it
is fitted, so that later ones make good what its levels lose; both with batch norms taken anew; and, where asked for,
the best of these trained further, its levels learning. A file is no larger for it: with all that its levels may take it
has the bytes that were planned for the cut's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.emit import formats
from rightrank.models.improve.choose import CUT, METHOD, NEAR, POLISHED, REFIT, held_back
from rightrank.models.improve.distill import Recipe
from rightrank.models.improve.made import Made, Own
from rightrank.models.improve.polish_rounded import polish_rounded
from rightrank.models.improve.refit import INPUTS, affordable, refit
from rightrank.models.improve.renorm import Renorm
from rightrank.models.improve.within import WithinBytes
from rightrank.models.improve.written import beside_levels
from rightrank.models.master import entries, gradients
from rightrank.models.master.levels import OWN
from rightrank.models.master.master import Master
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.master.variant import Variant, changes, variant
from rightrank.models.measure.nearness import nearness
from rightrank.models.plan.mixture import Mixture
from rightrank.models.plan.planner import Plan
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.program.shapes import Classes
from rightrank.models.progress import Progress


class Candidate(NamedTuple):
    """A variant, and of its layers that have levels of their `own` these."""

    variant: Variant
    own: Own


def improve_mixed(
    folder: Path,
    plan: Plan,
    out: Path,
    progress: Progress,
    classes: Classes = True,
    training: Recipe | None = None,
) -> str:
    """Find what is best for a plan of coded levels of the master in `folder`; write what it changes to `out`.

    The answer says what won: "cut", "cut+bn", "refit" or "refit+bn", or with a recipe for `training` perhaps
    "polished"; inputs are held back to decide as in `choose`.
    """
    master = Master.open(folder)
    template, stored = replace(master.template, tuned=None), master.tensors()
    kept = load_file(folder / entries.REFIT)
    inputs = Samples.stored(template.graph, kept)
    original = master.program(stored)
    count, batch = held_back(original, inputs)
    made = Made.of(master, plan)
    base = variant(template, stored, plan.ranks)
    cut = base.with_({name: made.numbers(name)[""] for name in made.whole}, {n: made.numbers(n) for n in made.cut})
    candidates = {CUT: Candidate(cut, {})}
    order = [CUT]
    if count >= batch:
        held, data = inputs[:count], inputs[count:]
        if template.graph.batch is None:
            candidates |= _fitted(folder, base, cut, made, original, kept, data[: INPUTS - count], progress)
        measure = nearness(original, held, batch, classes)

        def distances(several: Mapping[str, Candidate]) -> dict[str, float]:
            progress("compare", 0, 1, "plans")
            programs = [beside_levels(each.variant) for each in several.values()]
            found = measure.distances(original, programs, held, batch)
            return dict(zip(several, found, strict=True))

        found = distances(candidates)
        best = min(found, key=found.__getitem__)
        if training is not None and found[best] > NEAR:
            polished = Candidate(*polish_rounded(original, *candidates[best], made, data, training, progress))
            candidates[POLISHED] = polished
            found |= distances({POLISHED: polished})
        order = sorted(found, key=found.__getitem__)
    return next(method for method in order if _save(made, stored, base, candidates[method], out, method))


def _fitted(
    folder: Path,
    base: Variant,
    cut: Variant,
    made: Made,
    original: Program,
    kept: Mapping[str, Tensor],
    data: Samples,
    progress: Progress,
) -> dict[str, Candidate]:
    """The refit of a plan, and the cut and the refit with batch norms taken anew."""
    template, plan = base.template, made.plan
    reached = gradients.read(template.decomposed, kept)
    quantiser = WithinBytes(made, reached, made.grids(Mixture.open(folder)))
    renorm, few, by_weight = Renorm(original), affordable(original, data), template.by_weight(plan.ranks)
    fits = refit(
        *(original, template.layers, by_weight, reached, cut.program(), few, progress),
        quantise=quantiser,
        watch=renorm.watch,
    )
    fitted = variant(template, made.master.tensors(), plan.ranks, fits)
    same = {name: made.numbers(name) for name in made.names if name not in quantiser.found}
    fitted = fitted.with_(
        {name: sides[""] for name, sides in same.items() if "" in sides},
        {name: sides for name, sides in same.items() if "" not in sides},
    )
    found = {REFIT: Candidate(fitted, quantiser.found)}
    for name, each in {CUT: Candidate(cut, {}), **found}.items():
        if moved := renorm.of(each.variant.program(), few):
            found[f"{name}+bn"] = Candidate(each.variant.with_(moved), each.own)
    return found


def _save(made: Made, stored: Mapping[str, Tensor], base: Variant, wanted: Candidate, out: Path, method: str) -> bool:
    """Writes what a candidate changes to `out`; whether its file is then as large as it was planned, and no larger."""
    template, plan = base.template, made.plan
    weights = {layer.weight for layer in template.layers} | template.tables
    whole = wanted.variant.whole
    others = Variant(template, base.factors, {n: base.whole[n] if n in weights else whole[n] for n in base.whole})
    found = changes(template, stored, plan.ranks, others)
    for source, levels in made.entries(wanted.own).items():
        found |= {name: torch.from_numpy(array.copy()) for name, array in levels.entries(OWN, source).items()}
    save_file(found, out, {METHOD: method})
    size = sum(len(piece) for piece in formats.pieces(made.master, plan, TensorFile(out)))
    return size == plan.bytes
