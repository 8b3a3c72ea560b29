"""Passes over calibration inputs that gather the moments of every layer (see `moments`).

One forward pass over the data and one back for each kind of gradient, no labels. The gradient is of either

* "logits": a random normal projection of the network's outputs; its second moment is the Gauss-Newton matrix
  without the softmax (ours). It does not vanish on a network that fits its training images.
* "loss": the loss at a class drawn from the network's own softmax; its second moment is the Fisher matrix, of
  which outputs and gradients of a layer are the two Kronecker factors (arXiv:1503.05671).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.errors import DataError
from rightrank.models.factor import recurrent, sums
from rightrank.models.factor.layer import Form, Gatherer, Layer
from rightrank.models.factor.moments import Moments
from rightrank.models.factor.patches import single
from rightrank.models.factor.recurrent import Product
from rightrank.models.factor.room import Room
from rightrank.models.factor.sums import Gradient, Sums
from rightrank.models.program.calls import HANDED, Call, Convolution, Recurrent, layer_call, transposed
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.program.shapes import class_axis, scores

BATCH, SEED = 64, 0
# A batch is smaller where the values of a pass, all of which are kept for the way back, would be more than these.
VALUES = 1 << 28


class NoGradient(DataError):
    """The network's outputs do not tell how they depend on its layers."""


class Gathering:
    """The moments of every layer's outputs, over as many inputs as are added, and what those of its forms that are
    among `forms`, by name, want to know of its inputs.

    What is not finite, as the gradient of a norm is at an input that is all zeros, is left out.
    Each kind of gradient is another pass back. Its random projections, or classes, are the same at each run, whatever
    the others draw. A static batch size in the program is respected; what does not fill a batch is left out. With
    `weighed`, gradients are needed: NoGradient where the program has none. Sums lie where the `room` has them.
    """

    def __init__(
        self,
        program: Program,
        layers: tuple[Layer, ...],
        gradients: Sequence[Gradient],
        forms: Mapping[str, Form],
        room: Room,
        weighed: bool = True,
    ) -> None:
        self._program = program
        self._batch = program.graph.batch
        self._weighed, self._blind = weighed, False
        self._generators = {kind: torch.Generator().manual_seed(SEED) for kind in gradients}
        nodes = {node.name: node for node in program.graph.nodes}
        self._calls = {name: call for layer in layers for name in layer.calls if (call := layer_call(nodes[name]))}
        self._sums = [
            Sums(layer, program.tensors[layer.weight], gradients, [self._calls[name] for name in layer.calls], room)
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
        for each in self._sums:
            each.only(kind)

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
        own = self._sums[index]
        chosen = self._choose(product.inputs if transposed(call) else product.outputs, call)
        own.add(call, product.inputs, product.outputs, product.bias, chosen)
        sensor: Any = product.sensor
        sensor.register_hook(lambda g: own.add_gradient(call, self._kind, g, chosen))

    @staticmethod
    def _argument(node: Node, arguments: list[Any], wanted: Any) -> Any:
        """What a call is given for one of its arguments."""
        return arguments[node.args.index(wanted)] if isinstance(wanted, Ref) else None

    def _choose(self, result: Tensor, call: Call) -> Tensor | None:
        """Which rows of a call's values are looked at; None for all."""
        count = result.numel() // max(result.shape[1 if isinstance(call, Convolution) else -1], 1)
        return None if count <= sums.ROWS else torch.randperm(count, generator=self._drawing)[: sums.ROWS]

    def moments(self, kind: Gradient) -> Sequence[Moments]:
        """One entry per layer, made when it is asked for: all at once would take as much again as their sums. Of a
        program without gradients they are unity. DataError where what was added does not fill a batch."""
        if not self._samples:
            raise DataError(
                f"{self._given} calibration inputs do not fill one batch of {self._batch or 1}.",
                "Give more, or export the model with a dynamic batch size.",
            )
        if kind not in self._generators:
            raise KeyError(kind)
        pairs = [*zip(self._sums, self._inner, strict=True)]
        return Asked(len(pairs), lambda at: pairs[at][0].moments(self._samples, kind, pairs[at][1], self._blind))


class Asked(Sequence[Moments]):
    """So many moments, each made by its place whenever it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Moments]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Moments: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Moments]: ...

    def __getitem__(self, at: int | slice) -> Moments | Sequence[Moments]:
        places = range(self._count)[at]
        return self._make(places) if isinstance(places, int) else [self._make(place) for place in places]


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
