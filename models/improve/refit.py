"""Refit: fit each layer of a cut network to the original's outputs, given the inputs that the layers before it make.

One walk over the graph with the calibration inputs, the original and the cut network side by side (ours). At each
layer: least squares from the cut network's inputs to the original's outputs, with a ridge toward the original
weight; where the plan has a rank for it, the best part of that rank, in the metric that the master was decomposed
in, or in the whole one that this approximates (see `Form.fit`); then the mean of what is left
goes to the bias or the batch norm that follows. Errors of earlier layers are thus made good by later ones, most of
all by those left whole, instead of adding up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rightrank.models.factor import recurrent
from rightrank.models.factor.correction import corrections
from rightrank.models.factor.gradients import Gradients
from rightrank.models.factor.gram import gram
from rightrank.models.factor.layer import Layer
from rightrank.models.factor.patches import single
from rightrank.models.factor.regression import Regression
from rightrank.models.factor.solve import solve
from rightrank.models.improve.quantising import Fitted, Quantiser
from rightrank.models.master import entries
from rightrank.models.program import execute
from rightrank.models.program.abreast import Abreast, batches, perform
from rightrank.models.program.calls import HANDED, BatchNorm, Call, Handed, Recurrent, layer_call
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.norms import statistics_of
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.progress import Progress

# The ridge, as a share of the inputs' mean variance, and what is added to it for each unknown a row.
RIDGE, FEW = 1e-3, 1e-2
# More calibration inputs take longer and say hardly more.
INPUTS = 1280
VALUES = 1 << 28
# So many numbers of the inputs' rows, or a few more, are multiplied at once.
TOGETHER = 1 << 24
ADD = "aten.add.Tensor"
# A batch norm that scales a channel by less than this share of its largest scale lets nothing be made good there.
SMALLEST = 1e-2
# Sees a call, and of each batch the values that come to it.
Watch: TypeAlias = Callable[[Node, Sequence[Mapping[str, Any]]], None]


def refit(
    program: Program,
    layers: Sequence[Layer],
    ranks: Mapping[str, int],
    gradients: Mapping[str, Gradients],
    cut: Program,
    inputs: Sequence[Batch],
    progress: Progress,
    quantise: Quantiser | None = None,
    watch: Watch | None = None,
) -> dict[str, Tensor]:
    """For one plan new entries of its factors and of what corrects them, and of the weights and biases of layers that
    it leaves whole.

    `layers` are all of the program's, `ranks` those of the plan by weight (0, or none: whole), `gradients`
    those of each layer with a rank, by weight, `cut` the plain cut, `inputs` calibration inputs, in batches (see
    `affordable`). Layers called more than once, or that are no `Regression`, keep their cut.

    With `quantise` each layer is what that makes of the fit, before the walk goes on: what its levels lose the layers
    after it make good. The cut is then to be of levels too. `watch` sees each call of the original before it is
    performed, with the values of each batch.
    """
    fitted, calls = _fittable(program, layers), _calls(program)
    kept: set[str] = set()
    for layer in layers:
        # A recurrent call's inner weights are fitted to what the plain cut makes of the steps before.
        inner = isinstance(calls[layer.calls[0]], Handed)
        if (quantise or ranks.get(layer.weight)) and (inner or layer.calls[0] not in fitted):
            kept |= {layer.weight, *(each.tensor for each in corrections(program, layer))}
    start = program.with_tensors({**program.tensors, **{name: cut.tensors[name] for name in kept}})
    walk = _Walk(program, start, inputs, quantise, watch)
    return _walked(walk, program, fitted, ranks, gradients, progress)


def _calls(program: Program) -> dict[str, Call | None]:
    return {node.name: layer_call(node) for node in program.graph.nodes}


def _fittable(program: Program, layers: Sequence[Layer]) -> dict[str, Layer]:
    """The layers that can be fitted, by their only call."""
    calls = _calls(program)
    return {
        layer.calls[0]: layer
        for layer in layers
        if Regression.of(calls[layer.calls[0]], layer) is not None and program.read_once(layer.weight)
    }


def _walked(
    walk: _Walk,
    program: Program,
    fitted: Mapping[str, Layer],
    ranks: Mapping[str, int],
    gradients: Mapping[str, Gradients],
    progress: Progress,
) -> dict[str, Tensor]:
    """What a walk finds for the layers that are `fitted`, by their call."""
    within = recurrent.within(program.graph, fitted)
    found: dict[str, Tensor] = {}
    done = 0
    with torch.no_grad():
        for node in program.graph.nodes:
            walk.watched(node)
            if node.name in within:
                progress("refit", done, len(fitted), "layers")
                found.update(walk.fit_within(node, within[node.name], ranks, gradients))
                done += len(within[node.name])
            elif node.name in fitted and node.op != HANDED:
                progress("refit", done, len(fitted), "layers")
                layer = fitted[node.name]
                found.update(walk.fit(node, layer, ranks.get(layer.weight, 0), gradients.get(layer.weight)))
                done += 1
            else:
                walk.step(node)
    progress("refit", len(fitted), len(fitted), "layers")
    return found


class _Walk:
    """Both networks, side by side, on batches of the inputs; where they do the same on the same values, once."""

    def __init__(
        self,
        program: Program,
        cut: Program,
        several: Sequence[Batch],
        quantise: Quantiser | None,
        watch: Watch | None,
    ) -> None:
        self._program = program
        self._quantise, self._watch = quantise, watch
        self._whole, self._cut = Abreast(program, several), Abreast(cut, several)

    def watched(self, node: Node) -> None:
        """Show what comes to a call."""
        if self._watch is not None:
            self._watch(node, self._whole.values)

    def step(self, node: Node) -> None:
        """Perform a call as it is, in both networks."""
        self._advance(node, self._whole.call(node))

    def fit(self, node: Node, layer: Layer, rank: int, gradient: Gradients | None) -> dict[str, Tensor]:
        """Perform a layer's call: fit its factors, or all of it where `rank` is 0, and what they leave to correct.

        Nothing where there is nothing to make good, or values have overflowed.
        """
        call = layer_call(node)
        assert call is not None and isinstance(call.input, Ref) and isinstance(call.weight, Ref)
        data, weight = call.input.name, call.weight.name
        regression = Regression.of(call, layer)
        assert regression is not None
        bias = regression.offset(execute.evaluate(call.bias, self._whole.values[0], torch.device("cpu")))
        wholes = [*self._whole.call(node)]
        lacking = [self._missing(node, number, whole) for number, whole in enumerate(wholes)]
        if not rank and all(each is None for each in lacking) and self._nothing(node):
            self._advance(node, wholes)
            return {}
        wanted = [whole if more is None else whole + more for whole, more in zip(wholes, lacking, strict=True)]
        pairs = regression.pairs([values[data] for values in self._cut.values], wanted)
        found = self._fitted(regression, weight, rank, gradient, pairs, bias)
        self._advance(node, wholes)
        return found

    def fit_within(
        self, node: Node, layers: Mapping[str, Layer], ranks: Mapping[str, int], gradients: Mapping[str, Gradients]
    ) -> dict[str, Tensor]:
        """Perform a recurrent call: the same for the layers of the products inside it, one after the other, by the
        arguments that their weights are."""
        call = Recurrent.of(node)
        assert call is not None
        wholes = [*self._whole.call(node)]
        if not any(ranks.get(x.weight) for x in layers.values()) and self._nothing(node):
            self._advance(node, wholes)
            return {}
        wanted = [self._steps(call, values) for values in self._whole.values]
        found = {}
        for place, layer in layers.items():
            made = [self._steps(call, values) for values in self._cut.values]
            inputs, outputs = [each[place].inputs for each in made], [each[place].outputs for each in wanted]
            weight, rank, gradient = getattr(call, place).name, ranks.get(layer.weight, 0), gradients.get(layer.weight)
            regression = Regression.of(call, layer)
            assert regression is not None
            pairs = regression.pairs(inputs, outputs)
            found.update(self._fitted(regression, weight, rank, gradient, pairs, wanted[0][place].bias))
        self._advance(node, wholes)
        return found

    def _steps(self, call: Recurrent, values: Mapping[str, Any]) -> Mapping[str, recurrent.Product]:
        """The products inside a recurrent call."""
        return recurrent.step(call, lambda wanted: values[wanted.name] if isinstance(wanted, Ref) else None).products

    def _fitted(
        self,
        regression: Regression,
        weight: str,
        rank: int,
        gradient: Gradients | None,
        pairs: Iterator[tuple[Tensor, Tensor]],
        bias: Tensor | None,
    ) -> dict[str, Tensor]:
        """A layer fitted to pairs of its inputs and wanted outputs, which it then has in the cut network; its weight is
        the value `weight`."""
        layer = regression.layer
        stored: Tensor = self._whole.values[0][weight]
        original = regression.matrix(stored).double()
        normal, cross, mean_in, mean_out, count = _equations(regression, pairs, bias)
        if not count or not all(bool(each.isfinite().all()) for each in (normal, cross, mean_in, mean_out)):
            return {}
        solved = _solve(normal, cross, original, count)
        factors: Mapping[str, Tensor] | None = None
        if rank and gradient is not None:
            shaped, spread, centre = regression.weight(solved), normal.squeeze(0), mean_in.squeeze(0)
            moments = gradient.moments(solved.flatten(0, 1), spread, centre, original.flatten(0, 1))
            factors = layer.form.fit(layer, shaped, rank, spread, centre, moments)
        kept = solved
        if self._quantise is not None:
            made = self._quantise(Fitted(regression, solved, normal, factors))
            factors, kept = (made.factors, solved) if made.factors is not None else (None, made.matrix)
        found = {}
        if factors is not None:
            factors = {side: each.to(stored.dtype).contiguous() for side, each in factors.items()}
            found = {entries.factor(side, layer.name): each for side, each in factors.items()}
            kept = regression.matrix(layer.form.product(layer, factors))
        kept = kept.to(stored.dtype)
        if not rank:
            found = {entries.dense(layer.weight): regression.weight(kept)}
        shift = regression.shift(((kept.double() @ mean_in.unsqueeze(2)).squeeze(2) - mean_out).flatten())
        for each in corrections(self._program, layer):
            value = next(v for v, name in self._program.graph.tensors.items() if name == each.tensor)
            moved = {"mean": shift, "bias": -shift, "variance": torch.zeros_like(shift)}[each.role]
            entry = entries.corrected(each.tensor) if rank else entries.dense(each.tensor)
            found[entry] = (self._whole.values[0][value].double() + moved).to(stored.dtype)
            self._cut.replace(value, found[entry])
        self._cut.replace(weight, regression.weight(kept))
        return found

    def _same(self, node: Node, number: int) -> bool:
        """Whether both networks do the same with a batch here, on the same values."""
        whole, cut = self._whole.values[number], self._cut.values[number]
        return all(cut[name] is whole[name] for name in node.inputs())

    def _nothing(self, node: Node) -> bool:
        """Whether a layer that stays as it is has nothing to make good."""
        return self._quantise is None and all(self._same(node, number) for number in range(len(self._cut.values)))

    def _advance(self, node: Node, wholes: Iterable[Any]) -> None:
        """Performs a call of the cut network, where those of the whole one gave `wholes`."""
        for number, whole in enumerate(wholes):
            cut = whole if self._same(node, number) else perform(node, self._cut.values[number])
            self._whole.keep(node, number, whole)
            self._cut.keep(node, number, cut)

    def _missing(self, node: Node, number: int, whole: Tensor) -> Tensor | None:
        """What the cut network lacks in the sum that the call's output is added to, as seen before a batch norm.

        Where the other term is there already and is off, the layer can make that good: the next layers
        read the sum. (He et al., arXiv:1707.06168, section 3.3, do so for pruned residual networks.)
        """
        graph, norm, value = self._program.graph, None, node.outputs[0]
        users = self._program.users.get(value, ())
        if len(users) == 1 and statistics_of(graph, users[0]):
            norm, value = BatchNorm.of(users[0]), users[0].outputs[0]
            users = self._program.users.get(value, ())
        if len(users) != 1 or users[0].op != ADD or users[0].kwargs or {node.outputs[0], value} & {*graph.outputs}:
            return None
        others = [a.name for a in users[0].args if isinstance(a, Ref) and a.name != value]
        there, here = (
            each.values[number].get(others[0]) if len(others) == 1 else None for each in (self._whole, self._cut)
        )
        if here is there or not (isinstance(there, Tensor) and isinstance(here, Tensor)):
            return None
        if (there.shape, there.dtype) != (whole.shape, whole.dtype):
            return None
        missing = there - here
        if norm is None:
            return missing
        if norm.weight is not None and graph.stored(norm.weight) is None:
            return None
        weight, variance = (
            execute.evaluate(a, self._whole.values[number], missing.device) for a in (norm.weight, norm.running_var)
        )
        deviation = (variance + norm.eps).sqrt()
        scale = (torch.ones_like(deviation) if weight is None else weight) / deviation
        inverse = torch.where(scale.abs() > SMALLEST * scale.abs().max(), 1 / scale, torch.zeros_like(scale))
        return missing * inverse.reshape(-1, *(1,) * (missing.ndim - 2))


def _equations(
    regression: Regression, pairs: Iterator[tuple[Tensor, Tensor]], bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Centred normal equations over `pairs`, in groups, the means of inputs and outputs, and how many they were:
    those where both are finite."""
    groups, inputs, outputs = regression.groups, regression.inputs, regression.outputs
    normal = torch.zeros(groups, inputs, inputs, dtype=torch.float64)
    cross = torch.zeros(groups, inputs, outputs, dtype=torch.float64)
    origin: Tensor | None = None
    total_in = torch.zeros(groups, inputs, dtype=torch.float64)
    total_out = torch.zeros(groups, outputs, dtype=torch.float64)
    count = 0
    for x, y in _together(pairs):
        x, y = single(x), single(y if bias is None else y - bias)
        if not bool((x.sum() + y.sum()).isfinite()):
            rows = x.isfinite().all(1) & y.isfinite().all(1)
            x, y = x[rows], y[rows]
            if not len(x):
                continue
        # Near the mean, so that single precision does not lose the variance beside it.
        origin = x.mean(0) if origin is None else origin
        x -= origin
        x, y = (each.reshape(len(each), groups, -1).movedim(1, 0) for each in (x, y))
        normal += gram(x)
        cross += x.mT @ y
        total_in += x.sum(1).double()
        total_out += y.sum(1).double()
        count += x.shape[1]
    mean_in, mean_out = total_in / max(count, 1), total_out / max(count, 1)
    return (
        normal / max(count, 1) - mean_in.unsqueeze(2) * mean_in.unsqueeze(1),
        cross / max(count, 1) - mean_in.unsqueeze(2) * mean_out.unsqueeze(1),
        mean_in if origin is None else mean_in + origin.reshape(groups, inputs),
        mean_out,
        count,
    )


def _together(pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same rows, in fewer pairs: a product of few rows takes as long to be added up as to be worked out."""
    kept: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:
        kept.append(pair)
        if sum(x.numel() for x, _ in kept) >= TOGETHER:
            yield _joined(kept)
            kept = []
    if kept:
        yield _joined(kept)


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = (torch.cat(several) for several in zip(*pairs, strict=True))
    return x, y


def _solve(normal: Tensor, cross: Tensor, original: Tensor, count: int) -> Tensor:
    """The weight (g, outputs, inputs) of least squares in each group over `count` rows, with a ridge toward the
    original: light where rows are many for the unknowns of each output, heavier where they are few."""
    found = []
    for square, between, weight in zip(normal, cross, original, strict=True):
        ridge = float(square.diagonal().mean()) * (RIDGE + FEW * len(square) / count)
        found.append(weight + solve(square, between - square @ weight.T, ridge).T)
    return torch.stack(found)


def affordable(program: Program, inputs: Samples) -> list[Batch]:
    """As many samples as keep the largest value of the walk within `VALUES` numbers, in batches."""
    largest = max(max(program.values(group)) for group in inputs.apart() if len(group))
    return batches(program, inputs[: max(1, VALUES // max(largest, 1))])
