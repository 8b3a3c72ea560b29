"""What calibration inputs say about each layer: second moments of its outputs and of the gradients there.

One forward pass over the data and one back for each kind of gradient, no labels. The gradient is of either

* "logits": a random normal projection of the network's outputs; its second moment is the Gauss-Newton matrix
  without the softmax (ours). It does not vanish on a network that fits its training images.
* "loss": the loss at a class drawn from the network's own softmax; its second moment is the Fisher matrix, of
  which outputs and gradients of a layer are the two Kronecker factors (arXiv:1503.05671).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.errors import DataError
from rightrank.models.factor.layer import Form, Gatherer, Layer
from rightrank.models.factor.patches import finite, single
from rightrank.models.program.calls import Linear, layer_call
from rightrank.models.program.graph import Node
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples

BATCH, SEED = 64, 0
# A batch is smaller where the values of a pass, all of which are kept for the way back, would be more than these.
VALUES = 1 << 30
USABLE = "Give inputs as the network takes them in use, normalised as in its training."
Gradient: TypeAlias = Literal["logits", "loss"]


@dataclass(frozen=True)
class Moments:
    """Of one layer, in double: `mean` (n,) and `covariance` (n, n) of its outputs `Wᵀx` without the bias,
    per position; `gradient` (n, n), the second moment of the outputs' gradients summed over a sample's
    positions. `seen` has what forms of the layer gathered of its inputs, by their names."""

    mean: Tensor
    covariance: Tensor
    gradient: Tensor
    seen: Mapping[str, Any] = field(default_factory=dict)


def outputs_of(weight: Tensor, normal: Tensor, mean: Tensor, gradient: Tensor) -> Moments:
    """Those of a weight (C_out, …) whose inputs have the covariance `normal` and the `mean`; all in double."""
    flat = weight.flatten(1)
    return Moments(flat @ mean, flat @ normal @ flat.T, gradient)


class NoGradient(DataError):
    """The network's outputs do not tell how they depend on its layers."""


class _Sums:
    def __init__(self, n: int, gradients: Sequence[Gradient]) -> None:
        self.positions = 0
        self.origin: Tensor | None = None  # (n,)
        self.total = torch.zeros(n, dtype=torch.float64)
        self.square = torch.zeros(n, n, dtype=torch.float64)
        self.gradients = {kind: torch.zeros(n, n, dtype=torch.float64) for kind in gradients}

    def add(self, rows: Tensor, bias: Tensor | None) -> None:
        """Outputs of a call (k, n), of which its bias is no part."""
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

    def add_gradient(self, kind: Gradient, rows: Tensor) -> None:
        rows = finite(single(rows))
        self.gradients[kind] += (rows.T @ rows).double()

    def moments(self, samples: int, kind: Gradient, gatherers: Mapping[str, Gatherer]) -> Moments:
        """DataError where nothing finite was added, or sums are not."""
        if self.origin is None:
            raise DataError("The network's values are not finite on any calibration input.", USABLE)
        mean = self.total / self.positions
        covariance = self.square / self.positions - torch.outer(mean, mean)
        seen = {form: each.result() for form, each in gatherers.items()}
        found = Moments(mean + self.origin.double(), covariance, self.gradients[kind] / samples, seen)
        sums = (found.mean, found.covariance, found.gradient)
        sound = all(each.sound(seen[form]) for form, each in gatherers.items())
        if not (sound and all(bool(each.isfinite().all()) for each in sums)):
            raise DataError("Squares of the network's values overflow on the calibration inputs.", USABLE)
        return found


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
        self._sums = [_Sums(layer.outputs, gradients) for layer in layers]
        self._inner = [_gatherers(layer, forms) for layer in layers]
        self._owner = {call: index for index, layer in enumerate(layers) for call in layer.calls}
        self._given = self._samples = 0
        self._kind = gradients[0]  # of the pass that is going back

    def only(self, kind: Gradient) -> None:
        """From now on gradients of this kind alone are wanted."""
        self._generators = {kind: self._generators[kind]}
        for sums in self._sums:
            sums.gradients = {kind: sums.gradients[kind]}

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
        program = self._program
        shapes = program.shapes_for(next(group.parts(2))) if program.graph.free else program.shapes
        values = sum(math.prod(shape[1:]) for name, shape in shapes.items() if name not in program.graph.tensors)
        return max(1, min(BATCH, VALUES // max(values, 1)))

    def _add(self, data: Batch, count: int) -> None:
        with torch.enable_grad():
            outputs = self._program.run(data, visit=self._watch)
            last = next(reversed(self._generators))
            for kind, generator in self._generators.items():
                if self._blind:
                    break
                self._kind = kind
                loss = sum(_scalar(out, kind, generator) for out in outputs if out.requires_grad)
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

    def _without_gradient(self, reason: str) -> None:
        if self._weighed:
            raise NoGradient(
                f"The criterion needs gradients of the network's outputs: {reason}.", "Choose criterion whitened."
            )
        self._blind = True

    def _watch(self, node: Node, arguments: list[Any], result: Any) -> Any:
        index, call = self._owner.get(node.name), layer_call(node)
        if index is None or call is None:
            return result
        linear = isinstance(call, Linear)
        data, _, bias = (*arguments, None)[:3]
        sums = self._sums[index]
        sums.add(_rows(result.detach(), linear), bias)
        for gatherer in self._inner[index].values():
            gatherer.add(data.detach(), call, result.shape[2:])
        if not result.requires_grad:  # nothing before it is a layer
            result.requires_grad_()
        result.register_hook(lambda g: sums.add_gradient(self._kind, _rows(g, linear)))
        # A later in-place call must not change what the hook belongs to.
        return result.clone()

    def moments(self, kind: Gradient) -> list[Moments]:
        """One entry per layer; of a program without gradients they are unity. DataError where what was added does not
        fill a batch."""
        if not self._samples:
            raise DataError(
                f"{self._given} calibration inputs do not fill one batch of {self._batch or 1}.",
                "Give more, or export the model with a dynamic batch size.",
            )
        pairs = zip(self._sums, self._inner, strict=True)
        moments = [sums.moments(self._samples, kind, inner) for sums, inner in pairs]
        if not self._blind:
            return moments
        return [replace(each, gradient=torch.eye(len(each.mean), dtype=torch.float64)) for each in moments]


def _gatherers(layer: Layer, forms: Mapping[str, Form]) -> dict[str, Gatherer]:
    found = {name: form.gatherer(replace(layer, form=form)) for name, form in forms.items() if name in layer.suits}
    return {name: gatherer for name, gatherer in found.items() if gatherer is not None}


def _scalar(outputs: Tensor, gradient: Gradient, generator: torch.Generator) -> Tensor:
    """What is propagated back from one of the network's outputs."""
    if gradient == "logits":
        return (outputs * torch.randn(outputs.shape, generator=generator)).sum()
    if outputs.ndim != 2:
        raise DataError(
            f"Classes are drawn from outputs (batch, classes), not {tuple(outputs.shape)}.", "Choose criterion logit."
        )
    shares = outputs.detach().softmax(1)
    whole = shares.isfinite().all(1)
    if not bool(whole.all()):
        outputs, shares = outputs[whole], shares[whole]
    if not len(shares):
        return outputs.sum()
    drawn = torch.multinomial(shares, 1, generator=generator).squeeze(1)
    return functional.cross_entropy(outputs, drawn, reduction="sum")


def _rows(value: Tensor, linear: bool) -> Tensor:
    """A layer's output as (positions, channels)."""
    if linear:
        return value.reshape(-1, value.shape[-1])
    return value.movedim(1, -1).reshape(-1, value.shape[1])
