"""The master form: full factors, their importance, and everything that any cut of it needs.

A master is a folder of three files, and a fourth where plans are to be improved:

    template.json        the graph, the layers, shapes and dtypes (see `emit.template`)
    master.safetensors   `dense/<tensor>` every tensor of the program, `down/<layer>` (R, m) and
                         `up/<layer>` (C_out, R, n/C_out) the factors, the most important basis first,
                         `corrected/<tensor>` what a bias or batch norm becomes at each rank
    plans.npz            `importance` of all bases, layer after layer; `floor` and `steps`, the path
                         of plans that the criterion asks for, and perhaps `steps_by_macs` (see `path`)
    refit.safetensors    `inputs` for calibration, `gradient/<layer>` (n×n) (see `improve`)

The program is the upload, or where its layers have computed weights (see `fold`) or zero channels (see `sparsity`),
the same without those. Then `uploaded/<tensor>` are the tensors of the upload that differ, so that a budget of 1 is
still the upload.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rightrank.models.assemble import trial as choice
from rightrank.models.emit.torchscript import writer as torchscript
from rightrank.models.errors import CheckpointError, DataError, MalformedCheckpoint, UnsupportedCheckpoint
from rightrank.models.factor import correction, form
from rightrank.models.factor.layers import Layer, find
from rightrank.models.factor.metric import in_order
from rightrank.models.factor.moments import Gathering, Moments, NoGradient
from rightrank.models.master.template import Template, TensorSpec
from rightrank.models.plan import criteria, path
from rightrank.models.plan import planner as plan
from rightrank.models.plan.criteria import Importance, Rule, Spectrum
from rightrank.models.program import execute
from rightrank.models.program.graph import Graph
from rightrank.models.progress import Progress, silent
from rightrank.models.simplify import fold
from rightrank.models.simplify import zeros as sparsity
from rightrank.models.simplify.zeros import Report

# More take longer and say hardly more of what the layers do.
STATISTICS_INPUTS = 2048
# On so many calibration inputs a program is compared with what is left of it without its zero channels.
COMPARED = 16


def build(
    source: Path,
    out: Path,
    *,
    criterion: str | None = None,
    keep: int = 0,
    classes: bool = True,
    spatial: bool = True,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Decompose the program in `source` (`program.json`, `weights.safetensors`, and perhaps
    `calibration.safetensors`) into a master in `out`.

    Zero channels are removed first, where that changes nothing.
    Without `criterion` the best that the data at hand allow is taken; where it tells `classes` apart, tried out
    (see `choice`). By criteria of ours convolutions take the form that keeps more, if they may be `spatial` (see
    `form`). `keep` is how many calibration inputs are kept to `improve` plans later, and needs a criterion that uses
    calibration data. Returns a description: parameters, MACs and file size of the original, its inputs, the smallest
    budgets, and each layer.
    `progress(phase, completed, total, unit)` is called per layer and batch and may raise to stop.
    Raises MalformedCheckpoint for a program that does not run, DataError where a criterion lacks data or gradients.
    """
    graph = Graph.from_json(json.loads((source / "program.json").read_bytes()))
    uploaded: Mapping[str, Tensor] = load_file(source / "weights.safetensors")
    calibration = source / "calibration.safetensors"
    given, criterion = criterion, criterion or default_criterion(calibration)
    rule = find_rule(criterion)
    if keep and rule.metric == "svd":
        raise DataError("A refit needs calibration data.", "Upload them, with criterion logit, fisher or whitened.")
    progress("eliminate", 0, 1, "models")
    graph, tensors, template, reports = simplified(graph, uploaded, comparable(calibration, graph))
    progress("eliminate", 1, 1, "models")
    program = Program(graph, tensors, template, uploaded, spatial, progress)
    tried: dict[str, float] = {}
    if rule.metric == "svd":
        program.decompose(criterion, None, out)
    else:
        inputs = load_calibration(calibration, criterion)
        few = inputs[:STATISTICS_INPUTS]
        choosing = given is None and classes and choice.possible(graph, tensors, few)
        try:
            criterion, tried, moments = program.learn(few, choice.CANDIDATES if choosing else (criterion,), out)
        except NoGradient:
            if given is not None:
                raise
            criterion, tried, moments = program.learn(few, (criteria.WITHOUT_GRADIENT,), out)
        program.decompose(criterion, moments, out)
        if keep:
            gradients = zip(template.decomposed, moments, strict=True)
            kept = {f"gradient/{layer.name}": each.gradient.float() for layer, each in gradients}
            save_file({**kept, "inputs": inputs[:keep].contiguous()}, out / "refit.safetensors")
    described = describe(plan.Planner.open(out))
    return {"criterion": criterion, "tried": tried, **described, **reports}


@dataclass(frozen=True)
class Program:
    """A simplified program, its tensors and template, and the tensors as uploaded; whether convolutions may
    take the spatial form; who hears of progress."""

    graph: Graph
    tensors: Mapping[str, Tensor]
    template: Template
    uploaded: Mapping[str, Tensor]
    spatial: bool
    progress: Progress

    def learn(
        self, inputs: Tensor, candidates: Sequence[str], out: Path
    ) -> tuple[str, dict[str, float], list[Moments]]:
        """What calibration inputs (N, …) say, for the best of criteria, and how far each was in the trial (see
        `choice`), which takes a folder in `out` for a while."""
        rules = [find_rule(name) for name in candidates]
        columns = self.spatial and any(rule.spatial for rule in rules)
        gradients = [rule.gradient for rule in rules]
        weighed = any(rule.metric in gradients for rule in rules)
        gathering = Gathering(self.graph, self.tensors, self.template.decomposed, gradients, columns, weighed)

        def tell(done: int) -> None:
            self.progress("calibrate", done, len(inputs), "samples")

        def make(criterion: str, out: Path) -> None:
            self.decompose(criterion, gathering.moments(find_rule(criterion).gradient), out)

        # In the same parts whether there is a choice or not: sums in another order are other sums.
        fixed = self.graph.batch is not None
        first, held, others = (inputs, inputs[:0], inputs[:0]) if fixed else choice.split(inputs)
        gathering.add(first, tell)
        criterion, tried = candidates[0], {}
        if len(candidates) > 1:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out) as folder:
                tried = choice.choose(candidates, held, Path(folder), make)
            criterion = next(iter(tried))
        gradient = find_rule(criterion).gradient
        gathering.only(gradient)
        gathering.add(others, tell)
        return criterion, tried, gathering.moments(gradient)

    def decompose(self, criterion: str, moments: list[Moments] | None, out: Path) -> None:
        """Writes the master by a criterion, from what calibration inputs said where it uses them, to `out`."""
        rule, graph, tensors, template = find_rule(criterion), self.graph, self.tensors, self.template
        stored = {f"dense/{name}": tensor for name, tensor in tensors.items()}
        stored |= {template.original.entry(name): self.uploaded[name] for name in template.original.apart}
        spatial = rule.spatial and self.spatial
        sigmas = []
        corrected: dict[str, str] = {}
        formed: dict[str, Layer] = {}
        for index, layer in enumerate(template.decomposed):
            self.progress("decompose", index, len(template.decomposed), "layers")
            weight, seen = tensors[layer.weight], None if moments is None else moments[index]
            layer, factors = form.decompose(layer, weight, seen, spatial, rule.metric != "outputs")
            formed[layer.name] = layer
            if seen is not None:
                for target in correction.targets(graph, tensors, layer):
                    corrected[target.tensor] = layer.name
                    rows = list(correction.rows(target, tensors[target.tensor], factors))[: layer.break_even]
                    stored[f"corrected/{target.tensor}"] = torch.stack(rows)
            stored[f"down/{layer.name}"] = factors.down
            stored[f"up/{layer.name}"] = in_order(factors.up, layer.outputs)
            sigmas.append(factors.sigma.numpy())
        self.progress("decompose", len(template.decomposed), len(template.decomposed), "layers")
        layers = tuple(formed.get(layer.name, layer) for layer in template.layers)
        template = dataclasses.replace(template, layers=layers, corrected=corrected)
        importance = rate(template, sigmas, rule)
        out.mkdir(parents=True, exist_ok=True)
        save_file(stored, out / "master.safetensors")
        (out / "template.json").write_text(json.dumps(template.to_json(), separators=(",", ":")))
        save_plans(template, importance, rule, out)


def default_criterion(calibration: Path) -> str:
    """The best one that the data allow."""
    return criteria.WITH_DATA if calibration.exists() else criteria.WITHOUT_DATA


def find_rule(criterion: str) -> Rule:
    """The criterion called so; DataError naming the choices where there is none."""
    try:
        return criteria.CRITERIA[criterion]
    except KeyError:
        names = ", ".join(criteria.CRITERIA)
        raise DataError(f"There is no criterion {criterion!r}.", f"Choose one of {names}.") from None


def load_calibration(path: Path, criterion: str) -> Tensor:
    """The calibration inputs (N, …), for a criterion that needs them."""
    if not path.exists():
        raise DataError(f"The criterion {criterion} needs calibration data.", "Upload inputs as `calibration`.")
    return load_file(path)["inputs"]


def survey(graph: Graph, tensors: Mapping[str, Tensor]) -> Template:
    """The template of a program: its layers, shapes, parameter and MAC counts."""
    try:
        shapes = execute.shapes(graph, tensors)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
        reason = str(error).split("\n")[0][:300]
        raise MalformedCheckpoint(
            f"The program does not run on inputs of the shape that it declares: {reason}.",
            "Export it again with torch.export.export on an example input and check that it runs.",
        ) from error
    shapes |= {value: tuple(tensors[name].shape) for value, name in graph.tensors.items()}
    found = find(graph, shapes)
    if not graph.inputs:
        raise UnsupportedCheckpoint("The program takes no tensor input.", "Export a model that takes one.")
    parameters = execute.parameters(graph, tensors)
    if not parameters:
        raise UnsupportedCheckpoint(
            "The program uses no parameters, so there is nothing to cut.", "Export a model that has trained weights."
        )
    return Template(
        graph=graph,
        layers=found,
        tensors={
            name: TensorSpec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in tensors.items()
        },
        params=parameters,
        macs=sum(layer.macs for layer in found),
    )


def simplified(
    graph: Graph, tensors: Mapping[str, Tensor], inputs: list[Tensor] | None
) -> tuple[Graph, Mapping[str, Tensor], Template, dict[str, Any]]:
    """The program that is decomposed: the weights of its layers stored (see `fold`), its zero channels removed (see
    `sparsity`); its template, which names the uploaded one where the program is another; and for its description
    which weights were `computed`, and which channels were `eliminated`.

    Each step is only accepted if the outputs stay the same, on `inputs` or, where there are none, random ones. A
    program that a step stumbles over is not refused for that.
    """
    uploaded = survey(graph, tensors)
    torchscript.check(uploaded)
    plain, weights, template, folding = _with_stored_weights(graph, tensors, uploaded, inputs)
    smaller, fewer, found, report = _without_zeros(plain, weights, template, inputs)
    reports = {"computed": folding.to_json(), "eliminated": report.to_json()}
    if smaller is graph:
        return graph, tensors, found, reports
    # A call with a computed weight is no layer of the uploaded program, but takes as many MACs.
    apart = frozenset(name for name, tensor in tensors.items() if fewer.get(name) is not tensor)
    uploaded = dataclasses.replace(uploaded, layers=(), apart=apart, macs=template.macs)
    return smaller, fewer, dataclasses.replace(found, uploaded=uploaded), reports


# What a program that was read, and runs, can still make a step raise.
_STUMBLES = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, CheckpointError)


def _with_stored_weights(
    graph: Graph, tensors: Mapping[str, Tensor], template: Template, inputs: list[Tensor] | None
) -> tuple[Graph, Mapping[str, Tensor], Template, fold.Folding]:
    try:
        plain, weights, folding = fold.fold(graph, tensors)
        if plain is graph:
            return graph, tensors, template, folding
        difference, allowed = sparsity.compare((graph, tensors), (plain, weights), inputs)
        if difference <= allowed:
            return plain, weights, survey(plain, weights), folding
        why = f"stored they would change the outputs by {difference:.1e} of the largest"
    except _STUMBLES as error:
        why = f"to store them failed: {type(error).__name__}: {error}".split("\n")[0][:300]
    return graph, tensors, template, fold.Folding(kept=(fold.Kept((), why),))


def _without_zeros(
    graph: Graph, tensors: Mapping[str, Tensor], template: Template, inputs: list[Tensor] | None
) -> tuple[Graph, Mapping[str, Tensor], Template, Report]:
    """The program as it is where nothing goes, or where the report says that this was rejected."""
    why = "it would save no parameters"
    try:
        smaller, fewer, report = sparsity.eliminate(graph, tensors, inputs=inputs)
        if smaller is graph:
            return graph, tensors, template, report
        found = survey(smaller, fewer)
        if found.params < template.params:
            return smaller, fewer, found, report
    except _STUMBLES as error:
        why = f"the elimination failed: {type(error).__name__}: {error}".split("\n")[0][:300]
    return graph, tensors, template, Report((), template.params, template.params, rejected=why)


def comparable(calibration: Path, graph: Graph) -> list[Tensor] | None:
    """The first calibration inputs, as many as the program takes at once; None where there are none, or too few."""
    shape = graph.inputs[0].shape
    if not calibration.exists() or not shape:
        return None
    with safe_open(calibration, "pt") as file:
        inputs: Tensor = file.get_slice("inputs")[: shape[0] or COMPARED]
    return [inputs] if shape[0] in (None, len(inputs)) else None


def rate(template: Template, sigmas: list[NDArray[np.float64]], rule: Rule) -> Importance:
    """Every basis's importance by a rule, from the layers' singular values."""
    if not sigmas:
        return []
    return rule.rate(
        [
            Spectrum(sigma, layer.params, layer.macs, layer.width)
            for sigma, layer in zip(sigmas, template.decomposed, strict=True)
        ]
    )


def save_plans(template: Template, importance: Importance, rule: Rule, out: Path) -> None:
    """Write `plans.npz`; the same bytes for the same importance."""
    growth = path.order(template.decomposed, importance)
    orders: dict[str, Any] = {"floor": growth.floor, "steps": growth.steps}
    if rule.per_parameter:
        orders["steps_by_macs"] = path.order(template.decomposed, importance, per_mac=True).steps
    flat = np.concatenate(importance) if importance else np.zeros(0)
    np.savez(out / "plans.npz", importance=flat, **orders)


def describe(planner: plan.Planner) -> dict[str, Any]:
    """What a publisher wants to know of a master."""
    template = planner.template
    return {
        "params": template.original.params,
        "macs": template.original.macs,
        "bytes": planner.plan(budget=1).bytes,
        "inputs": [
            {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)} for spec in template.graph.inputs
        ],
        "outputs": len(template.graph.outputs),
        "min_budget": {"params": planner.least(), "macs": planner.least("macs")},
        "plans": len(planner),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "shape": list(layer.shape),
                "form": layer.form,
                "m": layer.m,
                "n": layer.n,
                "rank": layer.rank,
                "break_even": layer.break_even,
                "params": layer.params,
                "macs": layer.macs,
                "calls": len(layer.calls),
                "decomposed": layer.decomposed,
                "reason": layer.reason,
            }
            for layer in template.layers
        ],
    }
