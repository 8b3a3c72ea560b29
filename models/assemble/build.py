"""From a program to its master: simplified, every layer factored, its bases rated (see `master.master`)."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rightrank.models.assemble import integers, levels, trial
from rightrank.models.assemble.describe import describe
from rightrank.models.assemble.plans import rate, rule_of, save_plans
from rightrank.models.assemble.survey import survey
from rightrank.models.assemble.values import values
from rightrank.models.emit import formats, rounded
from rightrank.models.errors import DataError
from rightrank.models.factor import correction
from rightrank.models.factor.decompose import decompose
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.gathering import Gathering, NoGradient
from rightrank.models.factor.layer import Form, Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.room import Room
from rightrank.models.master import entries, gradients
from rightrank.models.master.template import Template
from rightrank.models.plan import criteria
from rightrank.models.plan.planner import Planner
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.program.shapes import Classes
from rightrank.models.progress import Progress, silent
from rightrank.models.simplify.simplify import simplify

# More take longer and say hardly more of what the layers do.
STATISTICS_INPUTS = 2048


def build(
    program: Program,
    out: Path,
    calibration: Samples | None = None,
    *,
    criterion: str | None = None,
    keep: int = 0,
    classes: Classes = True,
    forms: Collection[str] | None = None,
    mixed: bool = True,
    card: str = "",
    accept: Callable[[Program, Template], None] = lambda program, template: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Decompose a program into a master in `out`, with what `calibration` inputs say where there are some.

    Zero channels are removed first, where that changes nothing.
    Without `criterion` the best that the data at hand allow is taken; where it tells `classes` apart, each sample's or
    ("places") those at each place of an output, tried out (see `trial`). By criteria of ours layers take the form that
    keeps more, of `forms` or all (see `factor.decompose`). `keep` is how many calibration inputs are kept to `improve`
    plans later, and needs a criterion that uses calibration data; with `mixed` there are also levels of
    eight bits, and others, so that ranks and steps can be mixed. `card` is what every file says of the model (see
    `models.card`). `accept` is given the program that is to be decomposed
    and its template, before it is, and may raise. Returns a description (see `describe`).
    `progress(phase, completed, total, unit)` is called per layer and batch and may raise to stop.
    Raises MalformedCheckpoint for a program that does not run, DataError where a criterion lacks data or gradients.
    """
    given = criterion
    ready = prepare(program, calibration, criterion=criterion, keep=keep, card=card, accept=accept, progress=progress)
    smaller, template, criterion = ready.program, ready.template, ready.criterion
    rule = rule_of(criterion)
    usable = FORMS if forms is None else {name: FORMS[name] for name in forms}
    work = Building(smaller, template, program, usable, classes, progress)
    tried: dict[str, float] = {}
    if rule.metric == "svd":
        work.decompose(criterion, None, out)
        if mixed:
            rounded.save(out)
            levels.make(smaller, out, rule, None, None, progress)
    else:
        assert calibration is not None
        few = calibration[:STATISTICS_INPUTS]
        choosing = given is None and classes and trial.possible(smaller, few, classes)
        try:
            criterion, tried, moments = work.learn(few, trial.CANDIDATES if choosing else (criterion,), out)
        except NoGradient:
            if given is not None:
                raise
            criterion, tried, moments = work.learn(few, (criteria.WITHOUT_GRADIENT,), out)
        work.decompose(criterion, moments, out)
        if mixed:
            rounded.save(out)
            levels.make(smaller, out, rule_of(criterion), moments, few, progress)
        if keep:
            kept = gradients.tensors(template.decomposed, moments)
            names = [spec.name for spec in program.graph.inputs]
            save_file({**kept, **calibration[:keep].tensors(names)}, out / entries.REFIT)
    if calibration is not None:
        integers.save(out, calibration, progress)
    return {"criterion": criterion, "tried": tried, **describe(Planner.open(out, formats.latest())), **ready.reports}


@dataclass(frozen=True)
class Prepared:
    """A program before it is decomposed: `program` without what it does as well without, its template, the criterion
    that bases are to be rated by, and for its description which weights were computed and which channels went."""

    program: Program
    template: Template
    criterion: str
    reports: Mapping[str, Any]


def prepare(
    program: Program,
    calibration: Samples | None = None,
    *,
    criterion: str | None = None,
    keep: int = 0,
    card: str = "",
    accept: Callable[[Program, Template], None] = lambda program, template: None,
    progress: Progress = silent,
) -> Prepared:
    """The first of what `build` does: all that can be done, and refused, without decomposing anything."""
    criterion = criterion or default_criterion(calibration is not None)
    rule = rule_of(criterion)
    if keep and rule.metric == "svd":
        raise DataError("A refit needs calibration data.", "Upload them, with criterion logit, fisher or whitened.")
    if calibration is None and rule.metric != "svd":
        raise DataError(f"The criterion {criterion} needs calibration data.", "Upload inputs as `calibration`.")
    progress("eliminate", 0, 1, "models")
    uploaded = survey(program)
    uploaded = dataclasses.replace(uploaded, values=values(program, ()), card=card)
    formats.check(uploaded)
    smaller, template, reports = simplified(program, uploaded, calibration, progress)
    progress("eliminate", 1, 1, "models")
    if template.values is None:
        template = dataclasses.replace(template, values=values(smaller, ()))
    accept(smaller, template)
    return Prepared(smaller, template, criterion, reports)


def try_gradient(ready: Prepared, calibration: Samples) -> None:
    """Raises NoGradient, as `build` would, where the criterion wants a gradient that the program does not have: tried
    on the first samples."""
    rule = rule_of(ready.criterion)
    if rule.metric in ("logits", "loss"):
        program, layers = ready.program, ready.template.decomposed
        with tempfile.TemporaryDirectory() as folder:
            gathering = Gathering(program, layers, [rule.gradient], {}, Room(Path(folder)))
            gathering.add(calibration[: program.graph.batch or 2], lambda done: None)


def whole(program: Program, uploaded: Program, template: Template) -> dict[str, torch.Tensor]:
    """The entries of a master that are tensors of its program, and of the one as `uploaded` those that differ."""
    stored = {entries.dense(name): tensor for name, tensor in program.tensors.items()}
    original = template.original
    return stored | {original.entry(name): uploaded.tensors[name] for name in original.differing}


@dataclass(frozen=True)
class Building:
    """A master being made: the simplified program and its template, the program as uploaded, the forms that layers may
    take, whether outputs are scores of classes, and who hears of progress."""

    program: Program
    template: Template
    uploaded: Program
    forms: Mapping[str, Form]
    classes: Classes
    progress: Progress

    def learn(
        self, inputs: Samples, candidates: Sequence[str], out: Path
    ) -> tuple[str, dict[str, float], Sequence[Moments]]:
        """What calibration inputs say, for the best of criteria, and how far each was in the trial (see
        `trial`), which takes a folder in `out` for a while."""
        rules = [rule_of(name) for name in candidates]
        forms = self.forms if any(rule.any_form for rule in rules) else {}
        kinds = [rule.gradient for rule in rules]
        weighed = any(rule.metric in kinds for rule in rules)
        gathering = Gathering(self.program, self.template.decomposed, kinds, forms, Room(out), weighed)

        def tell(done: int) -> None:
            self.progress("calibrate", done, len(inputs), "samples")

        def make(criterion: str, out: Path) -> None:
            self.decompose(criterion, gathering.moments(rule_of(criterion).gradient), out)

        # In the same parts whether there is a choice or not: sums in another order are other sums.
        fixed = self.program.graph.batch is not None
        first, held, others = (inputs, inputs[:0], inputs[:0]) if fixed else trial.split(inputs)
        gathering.add(first, tell)
        criterion, tried = candidates[0], {}
        if len(candidates) > 1:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out) as folder:
                tried = trial.choose(candidates, held, Path(folder), make, self.classes)
            criterion = next(iter(tried))
        gradient = rule_of(criterion).gradient
        gathering.only(gradient)
        gathering.add(others, tell)
        return criterion, tried, gathering.moments(gradient)

    def decompose(self, criterion: str, moments: Sequence[Moments] | None, out: Path) -> None:
        """Writes the master by a criterion, from what calibration inputs said where it uses them, to `out`."""
        rule, program, template = rule_of(criterion), self.program, self.template
        stored = whole(program, self.uploaded, template)
        forms = self.forms if rule.any_form else {}
        sigmas = []
        corrected: dict[str, str] = {}
        formed: dict[str, Layer] = {}
        for index, layer in enumerate(template.decomposed):
            self.progress("decompose", index, len(template.decomposed), "layers")
            weight, seen = program.tensors[layer.weight], None if moments is None else moments[index]
            layer, factors = decompose(layer, weight, seen, forms, rule.metric != "outputs")
            formed[layer.name] = layer
            if seen is not None:
                for each in correction.corrections(program, layer):
                    corrected[each.tensor] = layer.name
                    rows = correction.rows(each, program.tensors[each.tensor], factors)
                    stored[entries.corrected(each.tensor)] = rows[: layer.break_even]
            stored |= {entries.factor(side, layer.name): tensor for side, tensor in factors.tensors.items()}
            sigmas.append(factors.sigma.numpy())
        self.progress("decompose", len(template.decomposed), len(template.decomposed), "layers")
        layers = tuple(formed.get(layer.name, layer) for layer in template.layers)
        described = values(program, layers)
        template = dataclasses.replace(template, layers=layers, corrected=corrected, values=described)
        importance = rate(template.decomposed, sigmas, rule)
        out.mkdir(parents=True, exist_ok=True)
        save_file(stored, out / entries.MASTER)
        template.save(out)
        save_plans(template.decomposed, importance, rule, out)


def default_criterion(calibrated: bool) -> str:
    """The best one that the data allow."""
    return criteria.WITH_DATA if calibrated else criteria.WITHOUT_DATA


def simplified(
    program: Program, uploaded: Template, inputs: Samples | None, progress: Progress = silent
) -> tuple[Program, Template, Mapping[str, Any]]:
    """The program that is decomposed (see `simplify`), and its template, which names the `uploaded` one where the
    program is another; and for its description which weights were `computed`, and which channels were `eliminated`."""
    smaller, plain, reports = simplify(program, inputs, progress)
    if smaller is program:
        return program, uploaded, reports
    # A call with a computed weight is no layer of the uploaded program, but takes as many MACs.
    macs = uploaded.macs if plain is program else survey(plain).macs
    uploaded = dataclasses.replace(uploaded, layers=(), differing=program.differing(smaller), macs=macs)
    return smaller, dataclasses.replace(survey(smaller), uploaded=uploaded, card=uploaded.card), reports
