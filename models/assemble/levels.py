"""A master's levels: each weight, whole and as factors, at each grid; and how they are mixed.

Every layer has grids of its own: from one at which a number takes about `FINEST` bits down to one bit, each twice as
coarse as that before. What a state of a layer loses is said in the unit of the master's importance, as a share of what
the layer is worth: by calibration inputs in the metric of their second moment and of the outputs' gradients, without
them as squares of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from rightrank.models.assemble.beyond_half import Beyond
from rightrank.models.emit.coded import block_bytes, coded
from rightrank.models.emit.encoding.encoding import coarsened
from rightrank.models.emit.encoding.packing import SINGLE
from rightrank.models.emit.precision import FULL, mixable
from rightrank.models.emit.torchscript.compact import LONG
from rightrank.models.emit.torchscript.deflate import sized
from rightrank.models.emit.torchscript.fold import folds
from rightrank.models.emit.vectors import suits
from rightrank.models.factor.factors import axis_of_bases, by_basis
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.gram import gram
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.regression import Regression
from rightrank.models.master import entries
from rightrank.models.master.levels import FIXED, LEVELS, Levels
from rightrank.models.master.master import Master
from rightrank.models.master.slots import Slots
from rightrank.models.master.template import Template
from rightrank.models.plan import criteria
from rightrank.models.plan.criteria import Rule
from rightrank.models.plan.mixture import Mixture, State
from rightrank.models.program.calls import Convolution, Linear, layer_call, turned
from rightrank.models.program.graph import Node
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import Progress, silent
from rightrank.models.quantise import metric, steps
from rightrank.models.quantise.feedback import Feedback
from rightrank.models.quantise.nested import nested_at
from rightrank.models.quantise.pair import by_columns
from rightrank.models.quantise.whole import rounded_at, whole_at

TYPE = torch.float32
# Bits a number takes at the finest grid, and how many grids there are.
FINEST, GRIDS = 6.5, tuple("01234567")
# From this one on a layer can do without those whose scales half precision does not hold.
COARSE = 5
# By how much the entropy of a Gaussian of unit variance is above that of its step.
GAUSSIAN = math.log2(math.sqrt(2 * math.pi * math.e))
# More inputs take longer and say hardly more of a covariance; no value of theirs has more numbers.
INPUTS, VALUES = 512, 1 << 28
# An output whose weights are next to nothing counts as one of this share of the mean square: it says nothing of how
# fine the others are to be.
NOTHING = 1e-4
# What a factored layer takes besides its levels: two bytes a basis, and what is said of it.
OF_BASIS, OF_FACTORS = 2, 48
# Of fewer vectors' numbers, as a share of all parameters, eight bits or sixteen make no difference to a file; and of
# fewer at all they save less than it takes to say so.
MUCH, MANY = 5e-3, 512
# The bits of an output's scale.
OF_OUTPUT = 16
# A layer of more parameters, such as a large vocabulary, stays whole where ranks and steps are mixed: to work out its
# factors would take more memory than all else.
LARGE = 1 << 23
# Of fewer numbers levels take more bytes than they save.
SMALL = 1 << 8
# The steps of tables, in the root mean square of their numbers: each is some five bits.
STEP = 0.125
# How many of a layer's bases a file keeps that has few bytes, about.
CUT = 0.25
# The largest scale of bases, which no norm is folded into.
LARGEST = 4.0


def make(
    program: Program,
    out: Path,
    rule: Rule,
    moments: Sequence[Moments] | None,
    inputs: Samples | None,
    progress: Progress = silent,
) -> None:
    """Writes the levels of the master in `out`, of the layers of `program`, and their mixture; nothing where ranks
    and steps cannot be mixed. `moments` are those that its layers were decomposed by, by the `rule`."""
    master = Master.open(out)
    template, stored = master.template, master.tensors()
    layers = [layer for layer in template.layers if template.tensors[layer.weight].dtype == FULL]
    if not mixable(template):
        return
    tables = _tables(template)
    worth = _worth(out, template.decomposed, rule)
    place = {layer.weight: index for index, layer in enumerate(template.decomposed)}
    found: dict[str, NDArray[Any]] = {}
    states: dict[str, list[State]] = {}
    ladder: dict[str, list[State]] = {}
    norms, alike, wide = folds(template), set[str](), set[str]()
    beyond = Beyond.of(template, stored, norms)
    fixed, finest = [0], {}
    todo = {layer.weight: layer for layer in layers}

    def fix(name: str, grid: float = 0.0) -> None:
        """Levels for a tensor that is never cut, of eight bits or at a grid."""
        made = rounded_at(stored[template.entry(name)].flatten(1), grid)
        levels = coded({"": (made.levels.numpy(), made.scales.numpy())}, SINGLE)[""]
        found.update(levels.entries(FIXED, template.entry(name)))
        wide.update([] if beyond.holds(name, levels.scale) else [name])
        fixed[0] += block_bytes([levels], len(made.levels))

    def take(layer: Layer, covariance: Tensor | None) -> None:
        progress("quantise", len(layers) - len(todo), len(layers), "layers")
        del todo[layer.weight]
        weight = stored[template.entry(layer.weight)]
        if layer.weight not in worth:
            fix(layer.weight)
            return
        seen = moments[place[layer.weight]] if moments else None
        work = Quantising.of(layer, weight, covariance, seen, worth[layer.weight], layer.weight in norms)
        alike.update([layer.weight] if work.alike else [])
        finest[layer.weight] = work.finest
        possible: list[tuple[bool, State]] = []
        for grid, (several, state) in zip(GRIDS, work.whole(), strict=True):
            found.update(several.entries(grid, template.entry(layer.weight)))
            possible.append((beyond.holds(layer.weight, several.scale), state))
        if work.nests:
            factors = {side: stored[entries.factor(side, layer.name)] for side in layer.form.sides}
            for grid, (by_side, more) in zip(GRIDS, work.factored(factors), strict=True):
                for side, each in by_side.items():
                    found.update(each.entries(grid, entries.factor(side, layer.name)))
                held = beyond.holds(layer.weight, by_side[layer.form.sides[-1]].scale)
                possible += [(held, state) for state in more]
        at_finest = [state for _, state in possible if not state.grid]
        ladder[layer.weight] = sorted(at_finest, key=lambda state: state.rank or math.inf)
        if all(held for held, state in possible if state.grid < COARSE):
            states[layer.weight] = [state for held, state in possible if held]
        else:
            wide.add(layer.weight)
            states[layer.weight] = [state for _, state in possible]

    _walk(program, todo, inputs, take)
    for layer in list(todo.values()):
        take(layer, None)
    for name in tables:
        fix(name, STEP * float(stored[template.entry(name)].double().square().mean().sqrt()))
    progress("quantise", len(layers), len(layers), "layers")
    save_file(found, out / LEVELS)
    several = [layer.weight for layer in template.decomposed]
    mixture = Mixture.of(
        [states[name] for name in several],
        fixed[0],
        GRIDS,
        [finest[name] for name in several],
        [ladder[name] for name in several],
    )
    mixture.save(out)
    apart = beyond.names(program, wide)
    vectors = _vectors(template, stored, apart.union(*(fold.tensors for fold in norms.values())))
    template = replace(template, tables=frozenset(tables), alike=frozenset(alike), vectors=vectors, wide=apart)
    template.save(out)


def _tables(template: Template) -> list[str]:
    """The parameters that no layer has for its weight, such as where a token stands: those that are large enough."""
    read = template.graph.parameters.intersection(Slots(template).tensors) - {each.weight for each in template.layers}
    return [
        name
        for name, spec in sorted(template.tensors.items())
        if name in read and coarsened(spec.dtype, len(spec.shape)) and math.prod(spec.shape) >= SMALL
    ]


def _vectors(template: Template, stored: Mapping[str, Tensor], but: Set[str]) -> frozenset[str]:
    """The parameters of one dimension, such as biases, and others of few numbers, for which eight bits will do: where
    all take much of a file. Those in `but` do not."""
    weights = {each.weight for each in template.layers} | but
    read = template.graph.parameters.intersection(Slots(template).tensors) - weights
    shapes = {name: template.tensors[name].shape for name in read if template.tensors[name].dtype == FULL}
    most = {name: LONG if len(shape) == 1 else SMALL - 1 for name, shape in shapes.items() if shape}
    found = {name: size for name, few in most.items() if 0 < (size := math.prod(shapes[name])) <= few}
    if sum(found.values()) < max(MUCH * template.params, MANY):
        return frozenset()
    return frozenset(name for name in found if suits(stored[template.entry(name)].numpy()))


def _worth(out: Path, layers: Sequence[Layer], rule: Rule) -> dict[str, float]:
    """What each layer is worth as a whole, in the unit of the importance."""
    with np.load(out / entries.PLANS, allow_pickle=False) as file:
        several = np.split(file["importance"], np.cumsum([layer.rank for layer in layers])[:-1]) if layers else []
    if rule.rate is not criteria.loss:
        return {layer.weight: 1.0 for layer in layers}
    return {
        layer.weight: max(float((values * layer.params_of_basis).sum()), 1e-30)
        for layer, values in zip(layers, several, strict=True)
    }


def _walk(
    program: Program,
    todo: Mapping[str, Layer],
    inputs: Samples | None,
    take: Callable[[Layer, Tensor | None], None],
) -> None:
    """Hands on the layers whose inputs' second moment (i, i) is known, as the inputs pass them: so there is one of
    these matrices at a time."""
    if inputs is None or program.graph.batch is not None:
        return
    calls = {layer.calls[0]: layer for layer in todo.values() if len(layer.calls) == 1}

    def note(node: Node, arguments: list[Any], result: Any) -> Any:
        layer, call = calls.get(node.name), layer_call(node)
        if layer is None or not isinstance(call, (Linear, Convolution)) or turned(call):
            return result
        regression = Regression.of(call, layer)
        if regression is not None and regression.groups == 1 and regression.inputs <= metric.WIDE:
            square, count = torch.zeros(regression.inputs, regression.inputs, dtype=torch.float64), 0
            for x, _ in regression.pairs([arguments[0]], [result]):
                square += gram(x.float())
                count += len(x)
            take(layer, square / max(count, 1) if bool(square.isfinite().all()) else None)
        return result

    several = inputs[:INPUTS].largest()
    largest = max(program.values(several), default=1)
    program.run(next(several.parts(max(1, VALUES // max(largest, 1)))), visit=note)


@dataclass(frozen=True)
class Quantising:
    """A layer's weight (o, i) in double, the metric around it (`inputs`, `outputs`), how errors are made good, its
    finest grid, and what a loss in that metric is in the unit of the importance; whether all outputs have one scale:
    where one each takes more bytes than its levels are fewer for it."""

    layer: Layer
    weight: Tensor
    inputs: Tensor
    outputs: Tensor
    made_good: Feedback | None
    finest: float
    unit: float
    nests: bool
    alike: bool

    @staticmethod
    def of(
        layer: Layer, weight: Tensor, covariance: Tensor | None, seen: Moments | None, worth: float, folds: bool
    ) -> Quantising:
        """`folds`: a norm goes into the outputs' scales."""
        matrix = weight.flatten(1).double()
        outputs, inputs = (torch.ones(size, dtype=torch.float64) for size in matrix.shape)
        nests = layer.form.name in ("channel", "spatial") and layer.params <= LARGE
        nests = nests and all(axis_of_bases(layer, side) is not None for side in layer.form.sides)
        if covariance is not None and bool((covariance.diagonal() > 0).any()):
            inputs = covariance
        if seen is not None and not seen.turned and inputs.ndim == 2:
            gradient = Gradients.of(seen)
            outputs = gradient.square if gradient.side == "outputs" else outputs * max(gradient.far, 1e-30)
        if outputs.shape[-1] != len(matrix) or not bool(outputs.isfinite().all()) or not bool((outputs != 0).any()):
            outputs = torch.ones(len(matrix), dtype=torch.float64)
        made_good = metric.feedback(inputs)
        left = metric.left(inputs, made_good).mean().clamp_min(1e-300)
        price = steps.floored(metric.alone(outputs))
        rows = matrix.square().mean(1)
        spread = (rows.clamp_min(NOTHING * rows.mean()) * price * left).clamp_min(1e-300)
        bits = float(spread.log2().mean()) / 2 + GAUSSIAN
        total = metric.loss(matrix, inputs, outputs)
        # Of steps of their own for each output (see `steps`), by how many bits a number is less.
        fewer = float(price.mean().log2() - price.log2().mean()) / 2
        alike = not folds and layer.groups == 1 and matrix.shape[1] * fewer < OF_OUTPUT
        return Quantising(
            *(layer, matrix, inputs, outputs, made_good, 2 ** (bits - FINEST), worth / max(total, 1e-300), nests, alike)
        )

    @property
    def sharing(self) -> int:
        """How many neighbouring outputs have one scale."""
        return len(self.weight) if self.alike else 1

    @property
    def grids(self) -> list[float]:
        return [self.finest * 2.0**number for number in range(len(GRIDS))]

    def whole(self) -> Iterator[tuple[Levels, State]]:
        """The whole weight at each grid."""
        several = whole_at(
            *(self.weight, self.inputs, self.outputs, self.grids),
            made_good=self.made_good,
            sharing=self.sharing,
            dtype=TYPE,
        )
        for number, each in enumerate(several):
            made = coded({"": (each.levels.numpy(), each.scales.numpy())})[""]
            size = block_bytes([made], len(each.levels))
            yield made, State(0, number, int(made.end[2]), size, size, self.unit * each.loss)

    def factored(self, factors: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Levels], list[State]]]:
        """Its factors at each grid, and a state for each rank."""
        layer = self.layer
        down, up = (by_basis(layer, side, factors[side]).double() for side in layer.form.sides)
        width = up.shape[1] // len(self.weight)
        inputs, outputs = self.inputs, self.outputs
        if width > 1 and inputs.ndim == 2:
            inputs, outputs = by_columns(inputs, outputs, width)
        elif width > 1:
            inputs = inputs[: down.shape[1]]
            outputs = outputs.repeat_interleave(width) if outputs.ndim == 1 else torch.ones(up.shape[1])
        ranks = np.arange(1, layer.break_even + 1)
        coming = self.made_good if inputs is self.inputs else None
        at_grids = nested_at(
            *(down, up, inputs, outputs, self.grids),
            coming=coming,
            sharing=width * self.sharing,
            most=layer.break_even,
            dtype=TYPE,
        )
        for number, bases in enumerate(at_grids):
            assert bases.loss is not None
            scales = balanced(bases.of_bases, bases.of_outputs[::width])
            sides = dict(zip(layer.form.sides, ((bases.down, scales[0]), (bases.up, scales[1])), strict=True))
            made = coded({side: (levels.numpy(), scale.numpy()) for side, (levels, scale) in sides.items()}, share=CUT)
            packing = int(next(iter(made.values())).end[2])
            several = sum(sized(each.ends[ranks], int(each.end[1])) for each in made.values())
            assert isinstance(several, np.ndarray)
            yield (
                made,
                [
                    State(rank, number, packing, size, size + OF_BASIS * rank + OF_FACTORS, self.unit * lost)
                    for rank, size, lost in zip(ranks.tolist(), several.tolist(), bases.loss.tolist(), strict=False)
                ],
            )


def balanced(of_bases: Tensor, of_outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Both scales with the same products, in the range that half precision holds: those of the outputs, which norms are
    folded into, take what those of the bases have not."""
    by = 2.0 ** math.floor(math.log2(LARGEST / max(float(of_bases.max()), 1e-30)))
    return of_bases * by, of_outputs / by
