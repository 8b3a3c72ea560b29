"""What a plan gains from work of its own: that of several candidates which is best on inputs held back.

The cut; its tuned factors where the master has some (see `tune`); its layers refit (`refit`); the cut and the
refit with batch norms taken anew relative to the original (`renorm`); and, where asked for, the best of these
trained further on its own, at two learning rates (`polish`). Each can hurt, so that one is kept whose outputs, with
the numbers that its file has, are nearest to the original's on calibration inputs that no fit and no training has seen
(what the decomposition weighs them by has, for all alike); evaluation data play no part.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.emit.format import FIRST, Output
from rightrank.models.factor.gradients import Gradients
from rightrank.models.improve.distill import Recipe
from rightrank.models.improve.polish import polish
from rightrank.models.improve.refit import INPUTS, affordable, refit
from rightrank.models.improve.renorm import Renorm
from rightrank.models.improve.written import as_written
from rightrank.models.master import entries, gradients
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template
from rightrank.models.master.variant import Variant, changes, variant
from rightrank.models.measure.nearness import nearness
from rightrank.models.program.abreast import at_once
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.program.shapes import Classes
from rightrank.models.progress import Progress

BATCH = 64
CUT, TUNED, REFIT, POLISHED = "cut", "tuned", "refit", "polished"
METHOD = "method"
# A candidate as near as this (see `nearness`) is not trained further: nothing would be seen of it.
NEAR = 1e-3


def improve(
    folder: Path,
    ranks: Sequence[int],
    out: Path,
    progress: Progress,
    classes: Classes = True,
    training: Recipe | None = None,
    output: Output = FIRST,
) -> str:
    """Find what is best for the plan `ranks` of the master in `folder`, in files as `output` says; write the tensors
    that it changes to `out`.

    The answer says what won: "cut", "cut+bn", "refit", "refit+bn", "tuned", or with a recipe for `training` perhaps
    "polished". A fifth of the calibration inputs, at most 256 or one batch of a program for a fixed number of samples,
    are held back to decide; `classes` says what nearness is (see `nearness`).
    """
    master = Master.open(folder)
    template, stored = master.template, master.tensors()
    kept = load_file(folder / entries.REFIT)
    inputs = Samples.stored(template.graph, kept)
    original = master.program(stored)
    count, batch = held_back(original, inputs)
    plain = dataclasses.replace(template, tuned=None)
    candidates = {CUT: variant(plain, stored, ranks)}
    best = CUT
    if count >= batch and any(ranks):
        held, data = inputs[:count], inputs[count:]
        if template.tuned is not None:
            everywhere = dataclasses.replace(template, tuned=dataclasses.replace(template.tuned, below=template.params))
            candidates[TUNED] = variant(everywhere, stored, ranks)
        if template.graph.batch is None:
            few = data[: INPUTS - count]
            reached = gradients.read(template.decomposed, kept)
            candidates |= _fitted(plain, stored, ranks, original, reached, few, progress)

        measure = nearness(original, held, batch, classes)

        def distances(several: Mapping[str, Variant]) -> dict[str, float]:
            progress("compare", 0, 1, "plans")
            programs = [as_written(each, output) for each in several.values()]
            found = measure.distances(original, programs, held, batch)
            return dict(zip(several, found, strict=True))

        found = distances(candidates)
        best = min(found, key=found.__getitem__)
        if training is not None and found[best] > NEAR:
            several = polish(template, original, ranks, candidates[best], data, training, progress)
            polished = {f"{POLISHED} {number}": each for number, each in enumerate(several)}
            candidates |= polished
            found |= distances(polished)
            best = min(found, key=found.__getitem__)
    method = best.split()[0]
    save_file(changes(template, stored, ranks, candidates[best]), out, {METHOD: method})
    return method


def held_back(original: Program, inputs: Samples) -> tuple[int, int]:
    """How many of the inputs are kept from all that fits and trains, to decide; and how many are run at a time. Where
    the first are fewer, nothing can be decided."""
    fixed = original.graph.batch
    count = min(len(inputs) // 5, max(INPUTS // 5, fixed or 0))
    return count, fixed or max(1, min(BATCH, count, at_once(original, inputs)))


def _fitted(
    template: Template,
    stored: Mapping[str, Tensor],
    ranks: Sequence[int],
    original: Program,
    reached: Mapping[str, Gradients],
    data: Samples,
    progress: Progress,
) -> dict[str, Variant]:
    """The refit of a plan, and the cut and the refit with batch norms taken anew."""
    cut, by_weight = variant(template, stored, ranks), template.by_weight(ranks)
    renorm, few = Renorm(original), affordable(original, data)
    fits = refit(original, template.layers, by_weight, reached, cut.program(), few, progress, watch=renorm.watch)
    bases = {CUT: cut, REFIT: variant(template, stored, ranks, fits)}
    found = {REFIT: bases[REFIT]}
    for name, base in bases.items():
        if moved := renorm.of(base.program(), few):
            found[f"{name}+bn"] = base.with_(moved)
    return found


def method_of(improved: Path) -> str:
    """What won, as a file written by `improve` says."""
    with safe_open(improved, "numpy") as file:
        return str(file.metadata()[METHOD])
