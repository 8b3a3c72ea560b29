"""What of a network computes in eight bits, and on which ranges: told by calibration inputs, at ingest.

It is decided for a master and not for each of its plans: so what a plan's file takes is known before it is made, and
is the same in every process. It is tried whole and at one size that is cut. Where outputs would be too far from those
of the same size without rounding, layers are left to compute as before, first those that hurt most for the
multiplications that they take.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from rightrank.models.assemble import computable
from rightrank.models.emit.encoding.w8a8 import MOST
from rightrank.models.factor.factors import leading
from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.master import entries, ranges
from rightrank.models.master.integers import Integers
from rightrank.models.master.master import Master
from rightrank.models.master.template import Template
from rightrank.models.master.variant import variant
from rightrank.models.plan.planner import Planner
from rightrank.models.program import execute
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.progress import Progress
from rightrank.models.quantise.activations import Grid, even, grid
from rightrank.models.quantise.seen import Cut, Seen, batches, between, seen

# How many calibration inputs are looked at, how many of these are held back to decide, and how many of those tell
# layers apart.
INPUTS, HELD, FEW = 128, 24, 8
# The shares of the parameters at which ranges are looked at besides, on how many inputs (at least a batch), and which
# of them is tried.
KNOTS, AT_KNOTS, TRIED = (0.7, 0.5, 0.35, 0.2, 0.1), 32, 0.35
# The most that rounding may change outputs by: its mean square, as a share of what they vary by from input to input.
ERROR = 0.02
TINY = 1e-12


def save(folder: Path, inputs: Samples, progress: Progress, most: float = ERROR) -> None:
    """Writes to a master's folder the ranges that values have on calibration `inputs`, and into its template what
    computes in eight bits, so that outputs change by `most` at the most. A program of which the inputs do not fill a
    batch stays without."""
    planner, master = Planner.open(folder), Master.open(folder)
    template, tensors = planner.template, master.tensors()
    few = inputs[:INPUTS]
    held = min(HELD, len(few) // 4)
    data, tried = (few[held:], few[:held]) if held else (few, few)
    if template.graph.batch is not None:
        data, tried = (each if len(each) >= template.graph.batch else few for each in (data, tried))
    some = data[: max(AT_KNOTS, template.graph.batch or 0)]
    knots = _knots(planner)
    params = [template.params_at(ranks) for ranks in knots]
    middle = min(range(len(knots)), key=lambda number: abs(params[number] / template.params - TRIED))
    works = [2 * len(data), *(len(some) for _ in knots[1:])]
    found: list[Seen] = []
    # Those that layers are tried at; each of the others goes when it has been looked at.
    kept: dict[int, _Size] = {}
    for number, ranks in enumerate(knots):
        size, done = _Size.of(template, tensors, ranks), sum(works[:number])

        def tell(more: int, done: int = done) -> None:
            progress("ranges", done + more, sum(works), "samples")

        size.look(some if number else data, found[0] if number else None, tell)
        found.append(size.seen)
        if number in (0, middle):
            kept[number] = size
    if not found[0].values:
        return
    whole = kept[0]
    trials = [_Trial(each, whole, tried) for each in kept.values()]
    chosen = dataclasses.replace(_chosen(template, trials, most, progress), knots=tuple(params))
    save_file(_stored(whole, found, chosen), folder / ranges.RANGES)
    dataclasses.replace(template, integers=chosen).save(folder)


def _knots(planner: Planner) -> list[tuple[int, ...]]:
    """Ranks at the sizes where ranges are looked at: none cut, the plans of some shares of the parameters, and the
    smallest."""
    sizes = [math.ceil(share * planner.template.params) for share in KNOTS]
    plans = [planner.plan(max_params=size).ranks for size in sizes if size >= planner.smallest.params]
    return [*dict.fromkeys(((0,) * len(planner.template.decomposed), *plans, planner.smallest.ranks))]


@dataclass(eq=False)
class _Size:
    """A network at one size: its variant as a program, the factors of the layers that could compute in eight bits when
    cut, by weight, and of those that are, and what was seen."""

    template: Template
    program: Program
    all: Mapping[str, Cut]
    cut: Mapping[str, Cut]
    seen: Seen = field(default_factory=Seen)

    @staticmethod
    def of(template: Template, tensors: Mapping[str, Tensor], ranks: tuple[int, ...]) -> _Size:
        made = variant(template, tensors, ranks)
        possible = {*computable.possible(template)}
        layers = {layer.weight: layer for layer in template.decomposed if layer.weight in possible and layer.break_even}
        tuned = template.knot(ranks) is not None
        found = {weight: Cut(layer, _most(layer, tensors, tuned)) for weight, layer in layers.items()}
        cut = {weight: Cut(layers[weight], sides) for weight, sides in made.factors.items() if weight in layers}
        return _Size(template, made.program(), found, cut)

    def look(self, inputs: Samples, first: Seen | None, tell: Callable[[int], None]) -> None:
        """Runs the network on `inputs`. What is not finite at this size counts as at the `first`."""
        self.seen = seen(self.program, inputs, [*self.all.values()], None if first is None else first.shares, tell)
        if first is not None:
            self.seen.values = {**first.values, **self.seen.values}
            self.seen.bases = {**first.bases, **self.seen.bases}


def _most(layer: Layer, tensors: Mapping[str, Tensor], tuned: bool) -> dict[str, Tensor]:
    """A layer's factors at the largest rank that it is cut to, trained ones where the master has them for a size."""
    found = {}
    for side, shape in layer.factor_shapes(layer.break_even).items():
        entry = entries.factor(side, layer.name)
        found[side] = leading(tensors[entries.tuned(entry) if tuned else entry], shape)
    return found


def _stored(whole: _Size, found: Sequence[Seen], chosen: Integers) -> dict[str, Tensor]:
    """The entries of a file of ranges, of what was found at each size."""
    entries_of = {}
    for name in dict.fromkeys(chosen.grids.values()):
        ends = [seen.values[name] for seen in found]
        entries_of[ranges.of_value(name)] = torch.tensor(ends, dtype=torch.float32)
    for weight in chosen.layers:
        if weight in whole.all:
            entries_of[ranges.of_bases(weight)] = torch.from_numpy(np.stack([seen.bases[weight] for seen in found]))
    return entries_of


def _chosen(template: Template, trials: Sequence[_Trial], error: float, progress: Progress) -> Integers:
    """As many layers as can be, for what they hurt at any of the sizes tried."""
    whole = trials[0].size
    values = whole.seen.values
    # Of a layer between whose factors values are no numbers nothing is known.
    lost = whole.all.keys() - whole.seen.bases.keys()
    possible = [weight for weight in computable.possible(template, values) if weight not in lost]

    def of(weights: Collection[str]) -> Integers:
        return computable.integers(template, weights, values)

    def good(weights: Collection[str]) -> bool:
        return all(trial.error(of(weights)) <= error for trial in trials)

    if not possible or good(possible):
        return of(possible)
    macs = {layer.weight: max(layer.macs, 1) for layer in template.layers}
    hurts, few = {}, trials[0].on_few()
    for number, weight in enumerate(possible):
        progress("ranges", number, len(possible), "layers")
        hurts[weight] = few.error(of([weight])) / macs[weight]
    order = sorted(possible, key=hurts.__getitem__)
    least, most = 0, len(order)
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if good(order[:middle]) else (least, middle)
    return of(order[:least])


@dataclass(frozen=True, eq=False)
class _Trial:
    """A network of one size on inputs held back, with layers that multiply levels; and the `whole` one, which tells
    what outputs vary by."""

    size: _Size
    whole: _Size
    inputs: Samples

    @cached_property
    def batches(self) -> list[Batch]:
        return list(batches(self.size.program, self.inputs))

    @cached_property
    def wanted(self) -> list[list[Tensor]]:
        """The outputs that nothing is rounded for, by batch."""
        with torch.no_grad():
            return [self.size.program.run(data) for data in self.batches]

    @cached_property
    def spreads(self) -> list[list[float]]:
        """What the whole network's outputs vary by from input to input, summed over each batch, by output."""
        with torch.no_grad():
            several = [self.whole.program.run(data) for data in self.batches]
        return [[_spread(each) for each in outputs] for outputs in several]

    def on_few(self) -> _Trial:
        """On some of the inputs alone, of a program that takes any number."""
        free = self.size.template.graph.batch is None
        return dataclasses.replace(self, inputs=self.inputs[:FEW]) if free else self

    @torch.no_grad()
    def error(self, integers: Integers) -> float:
        """How far the outputs are from those without rounding, of the output that is farthest; infinitely far where
        they are no numbers."""
        errors, totals = [0.0] * len(self.spreads[0]), [TINY] * len(self.spreads[0])
        for data, wanted, spreads in zip(self.batches, self.wanted, self.spreads, strict=True):
            for number, (got, meant) in enumerate(zip(self._outputs(integers, data), wanted, strict=True)):
                if meant.is_floating_point():
                    errors[number] += float((got - meant)[meant.isfinite()].double().square().sum())
                    totals[number] += spreads[number]
        found = [error / total for error, total in zip(errors, totals, strict=True)]
        return max(math.inf if math.isnan(each) else each for each in found)

    def _outputs(self, integers: Integers, data: Batch) -> list[Tensor]:
        size = self.size
        layers = [layer for layer in size.template.layers if layer.weight in integers.layers]
        cut = {call: layer.weight for layer in layers if layer.weight in size.cut for call in layer.calls}
        whole = {layer.weight for layer in layers} - {*cut.values()}
        tensors = {**size.program.tensors, **{weight: _levelled(size.program.tensors[weight]) for weight in whole}}
        grids = {name: grid(*size.seen.values[source]) for name, source in integers.grids.items()}

        def visit(node: Node, arguments: list[Any], result: Any) -> Any:
            if (weight := cut.get(node.name)) is not None:
                result = self._of_factors(weight, node, arguments)
            if isinstance(result, (tuple, list)):
                several = zip(node.outputs, result, strict=False)
                return [_on(each, grids.get(name)) if name else each for name, each in several]
            return _on(result, grids.get(node.outputs[0]))

        inputs = [_on(each, grids.get(spec.name)) for spec, each in zip(size.program.graph.inputs, data, strict=True)]
        return size.program.with_tensors(tensors).run(inputs, visit)

    def _of_factors(self, weight: str, node: Node, arguments: list[Any]) -> Any:
        """What the levels of a layer's factors make of a call's arguments (see `emit.onnx.integers`)."""
        layer, sides = self.size.cut[weight].layer, dict(self.size.cut[weight].factors)
        first, second = layer.form.sides
        reach = torch.from_numpy(self.size.seen.bases[weight])[: len(sides[first])]
        reach = reach.clamp_min(torch.finfo(torch.float32).tiny)
        sides[first] = _levelled(sides[first] / reach.reshape(-1, *(1,) * (sides[first].ndim - 1)))
        sides[second] = _levelled(sides[second] * reach.reshape(1, -1, *(1,) * (sides[second].ndim - 2)))
        calls = layer.form.calls(layer, node)
        values: dict[str, Any] = {factor_value(layer, side).name: each for side, each in sides.items()}
        values |= {each.name: value for each, value in zip(node.args, arguments, strict=False) if isinstance(each, Ref)}
        values[calls[0].outputs[0]] = made = _on(between(Cut(layer, sides), node, arguments), even(1.0))
        given = [execute.evaluate(each, values, made.device) for each in calls[-1].args]
        return execute.resolve(calls[-1].op)(*given)


def _spread(outputs: Tensor) -> float:
    if not outputs.is_floating_point():
        return 0.0
    outputs = outputs.double()
    centred = outputs - outputs.mean(0) if len(outputs) > 1 else outputs
    return float(centred[centred.isfinite()].square().sum())


def _levelled(numbers: Tensor) -> Tensor:
    """A weight or a factor as its levels have it (see `W8A8`)."""
    scale = numbers.abs().amax([*range(1, numbers.ndim)], keepdim=True) / MOST
    return torch.where(scale > 0, torch.round(numbers / scale) * scale, 0.0)


def _on(value: Any, of: Grid | None) -> Any:
    """A value, rounded to a grid where there is one."""
    if of is None or not isinstance(value, Tensor):
        return value
    return torch.fake_quantize_per_tensor_affine(value, float(of.scale), int(of.zero), 0, 255)
