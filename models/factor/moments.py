"""What calibration inputs say about each layer: second moments around its weight, and of the gradients there.

One forward pass over the data and one back for each kind of gradient, no labels. The gradient is of either

* "logits": a random normal projection of the network's outputs; its second moment is the Gauss-Newton matrix
  without the softmax (ours). It does not vanish on a network that fits its training images.
* "loss": the loss at a class drawn from the network's own softmax; its second moment is the Fisher matrix, of
  which outputs and gradients of a layer are the two Kronecker factors (arXiv:1503.05671).

A layer of W ∈ R^{n×m}, y = Wx, is looked at from its smaller side. From the outputs: the covariance W·C·Wᵀ of y and the
moment G of their gradients. From the inputs: the covariance C of x and the moment WᵀGW of the gradients that reach
them through W. Either pair gives the same factors (see `metric`), so that a head of 50,000 outputs costs what its 768
inputs do. A transposed convolution is seen from its inputs, each of which makes a patch of outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.errors import DataError
from rightrank.models.factor import recurrent
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.layer import Form, Gatherer, Layer
from rightrank.models.factor.patches import finite, single
from rightrank.models.factor.recurrent import Product
from rightrank.models.program.calls import (
    HANDED,
    Call,
    Convolution,
    Embedding,
    Recurrent,
    layer_call,
    transposed,
    turned,
)
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.program.shapes import class_axis, scores

BATCH, SEED = 64, 0
# A batch is smaller where the values of a pass, all of which are kept for the way back, would be more than these.
VALUES = 1 << 28
# Of the rows of a layer's values in one pass so many are looked at, drawn at random.
ROWS = 1 << 16
USABLE = "Give inputs as the network takes them in use, normalised as in its training."
Gradient: TypeAlias = Literal["logits", "loss"]
Side: TypeAlias = Literal["outputs", "inputs"]


@dataclass(frozen=True)
class Moments:
    """Of one layer, in double, seen from a `side` of s numbers: `mean` (s,) and `covariance` (s, s) of its outputs Wx
    without the bias, or of its inputs x, per position; `gradient` (s, s), the second moment of the gradients there,
    summed over a sample's positions.

    `axis` is that of the weight's matrix (n, m) which the side lies along. Seen from the inputs, `far` is the mean
    second moment of a gradient at an output. `seen` has what forms of the layer gathered of its inputs, by their
    names. Where calls read the weight both ways, `ways` has those of each (see `together`)."""

    mean: Tensor
    covariance: Tensor
    gradient: Tensor
    seen: Mapping[str, Any] = field(default_factory=dict)
    side: Side = "outputs"
    axis: int = 0
    far: float = 0.0
    ways: tuple[Moments, ...] = ()

    def alike(self, gram: Tensor) -> Moments:
        """The same with gradients that are unity at the outputs, for a weight of this Gram matrix along the axis."""
        if self.ways:
            return together([each.alike(gram) for each in self.ways])
        unity = torch.eye(len(gram), dtype=torch.float64) if self.side == "outputs" else gram
        return replace(self, gradient=unity, far=float(self.side == "inputs"))

    @property
    def turned(self) -> bool:
        """Whether they are of calls that read the weight the other way round, as an embedding does."""
        return (self.side == "outputs") != (self.axis == 0)


class NoGradient(DataError):
    """The network's outputs do not tell how they depend on its layers."""


class _Rows:
    """Running sums over the rows (k, s) of a layer's values on one side, and of gradients there."""

    def __init__(self, size: int, gradients: Sequence[Gradient]) -> None:
        self.positions = 0
        self.origin: Tensor | None = None  # (s,)
        self.total = torch.zeros(size, dtype=torch.float64)
        self.square = torch.zeros(size, size, dtype=torch.float64)
        self.gradients = {kind: torch.zeros(size, size, dtype=torch.float64) for kind in gradients}
        # Of the gradients as they are before they pass the weight: the sum of their squares.
        self.energy = dict.fromkeys(gradients, 0.0)

    def add(self, rows: Tensor, bias: Tensor | None = None) -> None:
        """Rows of values, of which a bias is no part."""
        rows = finite(single(rows))
        if not len(rows):
            return
        offset = 0 if bias is None else single(bias)
        # Near the mean, so that single precision does not lose a variance beside it.
        if self.origin is None:
            self.origin = rows.mean(0) - offset
        rows = rows - (self.origin + offset)
        self.positions += len(rows)
        self.total += rows.sum(0).double()
        self.square += (rows.T @ rows).double()

    def add_gradient(
        self, kind: Gradient, rows: Tensor, scale: float, through: Tensor | None = None, energy: Tensor | None = None
    ) -> None:
        """Rows of gradients, each standing for `scale`; `through` (·, s) is the matrix that they pass, if any. Of those
        that have passed theirs `energy` is what each had of squares before."""
        rows = finite(single(rows))
        if energy is not None:
            self.energy[kind] += scale * float(energy.sum(dtype=torch.float64))
        if through is not None:
            self.energy[kind] += scale * float(rows.square().sum(dtype=torch.float64))
            rows = rows @ through
        self.gradients[kind] += (rows.T @ rows).double() * scale

    def only(self, kind: Gradient) -> None:
        self.gradients = {kind: self.gradients[kind]}

    @property
    def mean(self) -> Tensor:
        assert self.origin is not None
        return self.total / self.positions + self.origin.double()

    @property
    def covariance(self) -> Tensor:
        mean = self.total / self.positions
        return self.square / self.positions - torch.outer(mean, mean)


class _Sums:
    """Of one layer, seen from its smaller side; calls that read the weight the other way round, as an embedding does,
    are seen from the same axis of its matrix, which is their other side."""

    def __init__(self, layer: Layer, weight: Tensor, gradients: Sequence[Gradient], calls: Sequence[Call]) -> None:
        self.axis = axis(layer)
        self._shape = layer.shape
        self._matrix = single(weight.detach()).reshape(layer.outputs, layer.inputs)
        size = self._matrix.shape[self.axis]
        kinds = dict.fromkeys(map(turned, calls))
        self._rows = {kind: _Rows(size, gradients) for kind in kinds}
        if any(isinstance(call, Embedding) for call in calls):
            # Rows that no calibration input looks up would else count for nothing: each counts once more than it was.
            for part in torch.split(self._matrix if self.axis else torch.eye(len(self._matrix)), ROWS):
                self._rows[True].add(part)

    def side(self, call: Call) -> Side:
        """Which of a call's sides lies along the axis."""
        return "outputs" if (self.axis == 0) != turned(call) else "inputs"

    def add(self, call: Call, data: Tensor, result: Tensor, bias: Tensor | None, chosen: Tensor | None) -> None:
        """One call's inputs and outputs."""
        rows = self._rows[turned(call)]
        if self.side(call) == "outputs":
            rows.add(_chosen(_rows(result, call), chosen), bias)
        elif isinstance(call, Embedding):
            numbers = _chosen(data.reshape(-1), chosen)
            rows.add(functional.one_hot(numbers, len(self._matrix)).to(self._matrix.dtype))
        else:
            rows.add(_chosen(_inputs(data, call), chosen))

    def add_gradient(self, call: Call, kind: Gradient, gradient: Tensor, chosen: Tensor | None) -> None:
        """Of one call's outputs."""
        met = None
        if isinstance(call, Convolution) and call.transposed:
            gradient, energy = _back(gradient, self._matrix.reshape(self._shape), call)
            met = _chosen(_rows(energy, call), chosen)
        rows = _rows(gradient, call)
        scale = 1.0 if chosen is None else len(rows) / len(chosen)
        through = None
        if self.side(call) == "inputs" and met is None:
            through = self._matrix.T if turned(call) else self._matrix
        self._rows[turned(call)].add_gradient(kind, _chosen(rows, chosen), scale, through, met)

    def only(self, kind: Gradient) -> None:
        for rows in self._rows.values():
            rows.only(kind)

    def moments(self, samples: int, kind: Gradient, gatherers: Mapping[str, Gatherer], blind: bool) -> Moments:
        """DataError where nothing finite was added, or sums are not. `blind`: gradients are taken to be unity."""
        if any(rows.origin is None for rows in self._rows.values()):
            raise DataError("The network's values are not finite on any calibration input.", USABLE)
        seen = {form: each.result() for form, each in gatherers.items()}
        several = [self._of(way, rows, samples, kind, seen, blind) for way, rows in self._rows.items()]
        found = several[0] if len(several) == 1 else together(several)
        sums = (found.mean, found.covariance, found.gradient)
        sound = all(each.sound(seen[form]) for form, each in gatherers.items())
        if not (sound and all(bool(each.isfinite().all()) for each in sums)):
            raise DataError("Squares of the network's values overflow on the calibration inputs.", USABLE)
        return found

    def _of(
        self, way: bool, rows: _Rows, samples: int, kind: Gradient, seen: Mapping[str, Any], blind: bool
    ) -> Moments:
        """Those of the calls that read the weight one way."""
        side: Side = "outputs" if (self.axis == 0) != way else "inputs"
        far = rows.energy[kind] / samples / self._matrix.shape[1 - self.axis] if side == "inputs" else 0.0
        found = Moments(rows.mean, rows.covariance, rows.gradients[kind] / samples, seen, side, self.axis, far)
        if not blind:
            return found
        near = (self._matrix if self.axis == 0 else self._matrix.T).double()
        return found.alike(near @ near.T)


def axis(layer: Layer) -> int:
    """Which axis of its weight's matrix (C_out, …) a layer is seen along: that of fewer numbers, if its forms and its
    calls leave the choice."""
    if layer.inputs >= layer.outputs or any(FORMS[form].by_outputs for form in layer.suits if form in FORMS):
        return 0
    # Of a larger kernel every position would have a patch of its own to be copied.
    return 1 if math.prod(layer.shape[2:]) == 1 else 0


def together(several: Sequence[Moments]) -> Moments:
    """One pair of moments for calls that read a weight both ways, as an embedding and the head that is tied to it do.

    What each way says is a product of what meets the weight along the axis and of what passes through it. The sum of
    two is none; in its place stands the product of the two sums, each way with its share of what both are worth.
    """
    pairs = [(m.gradient, m.covariance) if m.side == "outputs" else (m.covariance, m.gradient) for m in several]
    worths = [float((met * through).sum().clamp_min(0)) for met, through in pairs]
    whole = sum(worths)
    shares = [worth / whole for worth in worths] if whole > 0 else [1 / len(worths)] * len(worths)
    met, through = (
        torch.stack([s * each / each.trace().clamp_min(1e-300) for s, each in zip(shares, both, strict=True)]).sum(0)
        for both in zip(*pairs, strict=True)
    )
    through = through * (whole / (met * through).sum().clamp_min(1e-300))
    mean, seen, axis = torch.zeros_like(several[0].mean), several[0].seen, several[0].axis
    return Moments(mean, through, met, seen, "outputs", axis, ways=tuple(several))


class Gathering:
    """The moments of every layer's outputs, over as many inputs as are added, and what those of its forms that are
    among `forms`, by name, want to know of its inputs.

    What is not finite, as the gradient of a norm is at an input that is all zeros, is left out.
    Each kind of gradient is another pass back. Its random projections, or classes, are the same at each run, whatever
    the others draw. A static batch size in the program is respected; what does not fill a batch is left out. With
    `weighed`, gradients are needed: NoGradient where the program has none.
    """

    def __init__(
        self,
        program: Program,
        layers: tuple[Layer, ...],
        gradients: Sequence[Gradient],
        forms: Mapping[str, Form],
        weighed: bool = True,
    ) -> None:
        self._program = program
        self._batch = program.graph.batch
        self._weighed, self._blind = weighed, False
        self._generators = {kind: torch.Generator().manual_seed(SEED) for kind in gradients}
        nodes = {node.name: node for node in program.graph.nodes}
        self._calls = {name: call for layer in layers for name in layer.calls if (call := layer_call(nodes[name]))}
        self._sums = [
            _Sums(layer, program.tensors[layer.weight], gradients, [self._calls[name] for name in layer.calls])
            for layer in layers
        ]
        self._inner = [_gatherers(layer, forms) for layer in layers]
        self._owner = {call: index for index, layer in enumerate(layers) for call in layer.calls}
        self._scales: list[float] = []
        self._within = recurrent.within(program.graph, self._owner)
        self._drawing = torch.Generator().manual_seed(SEED)
        self._given = self._samples = 0
        self._kind = gradients[0]  # of the pass that is going back

    def only(self, kind: Gradient) -> None:
        """From now on gradients of this kind alone are wanted."""
        self._generators = {kind: self._generators[kind]}
        for sums in self._sums:
            sums.only(kind)

    def add(self, inputs: Samples, tell: Callable[[int], None]) -> None:
        """`inputs` as the program takes them; `tell` hears how many it has had of all that were added."""
        for group in inputs.apart():
            at_once, done = self._at_once(group), 0
            for batch in group.batches(at_once) if self._batch else group.parts(at_once):
                tell(self._given + done)
                self._add(batch, min(at_once, len(group) - done))
                done += at_once
            self._given += len(group)
        tell(self._given)

    def _at_once(self, group: Samples) -> int:
        """How many samples of a group go through in one pass."""
        if self._batch or not len(group):
            return self._batch or 1
        return max(1, min(BATCH, VALUES // max(sum(self._program.values(group)), 1)))

    def _add(self, data: Batch, count: int) -> None:
        with torch.enable_grad():
            outputs = self._program.run(data, visit=self._watch)
            last = next(reversed(self._generators))
            for kind, generator in self._generators.items():
                if self._blind:
                    break
                self._kind = kind
                several = self._scaled(outputs)
                if kind == "loss":
                    several = [(_drawable(out, data), by) for out, by in several]
                loss = sum(_scalar(out, by, kind, generator) for out, by in several)
                if not isinstance(loss, Tensor):
                    self._without_gradient("no output is a number that depends on a layer")
                    break
                try:
                    loss.backward(retain_graph=kind != last)  # type: ignore[no-untyped-call]
                except RuntimeError as error:
                    if "derivative for" not in str(error):
                        raise
                    self._without_gradient(str(error))
        self._samples += count

    def _scaled(self, outputs: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        """The outputs that depend on a layer, and what each is multiplied by: of several each counts in its own unit,
        or logits beside a class's probability would be all that counts."""
        if len(outputs) > 1 and not self._scales:
            squares = [_finite_square(each.detach()) if each.is_floating_point() else 0.0 for each in outputs]
            self._scales = [1 / math.sqrt(square) if square > 0 else 1.0 for square in squares]
        scales = self._scales or [1.0] * len(outputs)
        return [(out, by) for out, by in zip(outputs, scales, strict=True) if out.requires_grad]

    def _without_gradient(self, reason: str) -> None:
        if self._weighed:
            raise NoGradient(
                f"The criterion needs gradients of the network's outputs: {reason}.", "Choose criterion whitened."
            )
        self._blind = True

    def _watch(self, node: Node, arguments: list[Any], result: Any) -> Any:
        if node.name in self._within:
            return self._step(node, arguments)
        index = self._owner.get(node.name)
        if index is None or node.op == HANDED:
            return result
        call = self._calls[node.name]
        data, bias = (self._argument(node, arguments, each) for each in (call.input, call.bias))
        if not result.requires_grad:  # nothing before it is a layer
            result.requires_grad_()
        self._take(index, call, Product(data.detach(), result.detach(), bias, result))
        for gatherer in self._inner[index].values():
            gatherer.add(data.detach(), call, result.shape[2:])
        # A later in-place call must not change what the hook belongs to.
        return result.clone()

    def _step(self, node: Node, arguments: list[Any]) -> tuple[Tensor, ...]:
        """A recurrent call, whose products are inside its kernel, a step at a time."""
        call = Recurrent.of(node)
        assert call is not None
        values = dict(zip(node.inputs(), _flat(arguments), strict=True))
        stepped = recurrent.step(call, lambda wanted: values[wanted.name] if isinstance(wanted, Ref) else None)
        for place, index in self._within[node.name].items():
            self._take(index, call, stepped.products[place])
        return stepped.result

    def _take(self, index: int, call: Call, product: Product) -> None:
        """Of one layer a call's inputs and outputs, and in time the gradients of these."""
        sums = self._sums[index]
        chosen = self._choose(product.inputs if transposed(call) else product.outputs, call)
        sums.add(call, product.inputs, product.outputs, product.bias, chosen)
        sensor: Any = product.sensor
        sensor.register_hook(lambda g: sums.add_gradient(call, self._kind, g, chosen))

    @staticmethod
    def _argument(node: Node, arguments: list[Any], wanted: Any) -> Any:
        """What a call is given for one of its arguments."""
        return arguments[node.args.index(wanted)] if isinstance(wanted, Ref) else None

    def _choose(self, result: Tensor, call: Call) -> Tensor | None:
        """Which rows of a call's values are looked at; None for all."""
        count = result.numel() // max(result.shape[1 if isinstance(call, Convolution) else -1], 1)
        return None if count <= ROWS else torch.randperm(count, generator=self._drawing)[:ROWS]

    def moments(self, kind: Gradient) -> list[Moments]:
        """One entry per layer; of a program without gradients they are unity. DataError where what was added does not
        fill a batch."""
        if not self._samples:
            raise DataError(
                f"{self._given} calibration inputs do not fill one batch of {self._batch or 1}.",
                "Give more, or export the model with a dynamic batch size.",
            )
        pairs = zip(self._sums, self._inner, strict=True)
        return [sums.moments(self._samples, kind, inner, self._blind) for sums, inner in pairs]


def _flat(arguments: Any) -> Iterator[Tensor]:
    """The tensors among a call's arguments, in order."""
    for each in arguments:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list):
            yield from _flat(each)


def _gatherers(layer: Layer, forms: Mapping[str, Form]) -> dict[str, Gatherer]:
    # The form that it has even where it may take no other.
    forms = {**forms, layer.form.name: layer.form}
    found = {name: form.gatherer(replace(layer, form=form)) for name, form in forms.items() if name in layer.suits}
    return {name: gatherer for name, gatherer in found.items() if gatherer is not None}


def _drawable(outputs: Tensor, inputs: Batch) -> Tensor:
    """Scores (P, C) of classes, of every sample or place."""
    found = scores(outputs, "places", class_axis(outputs, inputs))
    if found is None:
        raise DataError(
            f"Classes are drawn from outputs (batch, classes, …), not {tuple(outputs.shape)}.",
            "Choose criterion logit.",
        )
    return found


def _scalar(outputs: Tensor, scale: float, gradient: Gradient, generator: torch.Generator) -> Tensor:
    """What is propagated back from one of the network's outputs, which `scale` brings to its own unit."""
    if gradient == "logits":
        return (outputs * torch.randn(outputs.shape, generator=generator)).sum() * scale
    shares = outputs.detach().softmax(1)
    whole = shares.isfinite().all(1)
    if not bool(whole.all()):
        outputs, shares = outputs[whole], shares[whole]
    if not len(shares):
        return outputs.sum()
    drawn = torch.multinomial(shares, 1, generator=generator).squeeze(1)
    return functional.cross_entropy(outputs, drawn, reduction="sum")


def _finite_square(values: Tensor) -> float:
    """The mean square of the numbers that are finite."""
    values = single(values)
    sound = values[values.isfinite()]
    return float(sound.square().mean()) if sound.numel() else 0.0


def _rows(value: Tensor, call: Call) -> Tensor:
    """A layer's output as (positions, channels)."""
    if not isinstance(call, Convolution):
        return value.reshape(-1, value.shape[-1])
    return value.movedim(1, -1).reshape(-1, value.shape[1])


def _inputs(value: Tensor, call: Call) -> Tensor:
    """A layer's input as (positions, channels), a row for each of its outputs' positions, or for each of its own where
    it makes a patch of them."""
    if not isinstance(call, Convolution) or call.transposed:
        return _rows(value, call)
    value = functional.pad(value, [each for size in reversed(call.padding) for each in (size, size)])
    for dim, step in enumerate(call.stride, 2):
        value = value[(slice(None),) * dim + (slice(None, None, step),)]
    return value.movedim(1, -1).reshape(-1, value.shape[1])


def _back(gradient: Tensor, weight: Tensor, call: Convolution) -> tuple[Tensor, Tensor]:
    """The gradient that reaches the inputs of a transposed convolution through its weight (C_in, C_out, …), and at each
    of their positions (N, 1, …) the sum of squares in the patch of outputs that it comes from. A sample whose
    gradients are not all finite has none."""
    gradient = single(gradient)
    sound = gradient.flatten(1).isfinite().all(1)
    gradient = torch.where(sound.reshape(-1, *(1,) * (gradient.ndim - 1)), gradient, 0)
    ones = weight.new_ones(1, 1, *weight.shape[2:])
    several = ((gradient, weight), (gradient.square().sum(1, keepdim=True), ones))
    dims = len(call.stride)
    passed, energy = (
        torch.convolution(x, w, None, *call.geometry, transposed=False, output_padding=(0,) * dims, groups=1)
        for x, w in several
    )
    for dim, (more, step) in enumerate(zip(call.output_padding, call.stride, strict=True), 2):
        # Outputs that were added for a dilation's sake may have room for a position that the inputs have not.
        passed, energy = (x.narrow(dim, 0, x.shape[dim] - more // step) for x in (passed, energy))
    return passed, energy


def _chosen(rows: Tensor, chosen: Tensor | None) -> Tensor:
    return rows if chosen is None else rows[chosen]
