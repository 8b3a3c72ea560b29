"""Recurrent calls step by step, so that what a kernel multiplies inside itself can be seen.

Of a call of one level and one direction (see `calls.Recurrent`) there are two products at each step, that of the inputs
and that of what the step before made; of an LSTM with a projection a third. Each is a linear layer over all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.program.calls import Recurrent, layer_call
from rightrank.models.program.graph import Graph, Ref

T = TypeVar("T")


@dataclass(frozen=True)
class Product:
    """One of the products, over all T steps and B samples: `inputs` (T, B, m), and the `outputs` (T, B, n) with their
    `bias`. The gradients that reach `sensor` are those of the outputs."""

    inputs: Tensor
    outputs: Tensor
    bias: Tensor | None
    sensor: Tensor


@dataclass(frozen=True)
class Stepped:
    """What a call gives back, and its `products` by the argument of `calls.Recurrent` that is the weight."""

    result: tuple[Tensor, ...]
    products: Mapping[str, Product]


def within(graph: Graph, layers: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """For each recurrent call, by its name, the layers whose weights it multiplies by, by the arguments of
    `calls.Recurrent` that these are; `layers` by the names of their calls."""
    makers = {name: node.name for node in graph.nodes for name in node.outputs}
    found: dict[str, dict[str, T]] = {}
    for node in graph.nodes:
        call = layer_call(node)
        if isinstance(call, Recurrent):
            handed = {place: getattr(call, place) for place in ("hidden", "projection")}
            calls = {place: makers.get(value.name, "") for place, value in handed.items() if isinstance(value, Ref)}
            places = {place: layers[each] for place, each in ({"weight": node.name} | calls).items() if each in layers}
            found |= {node.name: places} if places else {}
    return found


@dataclass
class _Seen:
    """A product as it is made, a step at a time."""

    weight: Tensor
    bias: Tensor | None
    sensor: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    @staticmethod
    def of(weight: Tensor, bias: Tensor | None, steps: Tensor) -> _Seen:
        """`steps` (T, B, …) says how many there are."""
        sensor = weight.new_zeros(*steps.shape[:2], len(weight)).requires_grad_(torch.is_grad_enabled())
        return _Seen(weight, bias, sensor)

    def __call__(self, data: Tensor) -> Tensor:
        made = functional.linear(data, self.weight, self.bias) + self.sensor[len(self.inputs)]
        self.inputs.append(data.detach())
        self.outputs.append(made.detach())
        return made

    def product(self) -> Product:
        return Product(torch.stack(self.inputs), torch.stack(self.outputs), self.bias, self.sensor)


def step(call: Recurrent, value: Callable[[Any], Any]) -> Stepped:
    """What a recurrent call computes, equal to the kernel up to rounding; `value` gives that of an argument."""
    data, weight, hidden, bias, hidden_bias, projection = map(
        value, (call.input, call.weight, call.hidden, call.bias, call.hidden_bias, call.projection)
    )
    state = [each.squeeze(0) for each in map(value, call.state if isinstance(call.state, tuple) else (call.state,))]
    data = data.transpose(0, 1) if call.batch_first else data
    given = functional.linear(data, weight, bias)
    if torch.is_grad_enabled() and not given.requires_grad:  # nothing before it is a layer
        given.requires_grad_()
    again = _Seen.of(hidden, hidden_bias, data)
    projected = None if projection is None else _Seen.of(projection, None, data)
    made = []
    for each in given.unbind(0):
        state = _CELLS[call.cell](each, again(state[0]), state)
        if projected is not None:
            state[0] = projected(state[0])
        made.append(state[0])
    outputs = torch.stack(made)
    products = {"weight": Product(data.detach(), given.detach(), bias, given), "hidden": again.product()}
    if projected is not None:
        products["projection"] = projected.product()
    first = outputs.transpose(0, 1) if call.batch_first else outputs
    return Stepped((first, *(each.unsqueeze(0) for each in state)), products)


def _lstm(given: Tensor, again: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    enter, keep, new, out = (given + again).chunk(4, -1)
    cell = keep.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
    return [out.sigmoid() * cell.tanh(), cell]


def _gru(given: Tensor, again: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    (reset, keep, new), (reset_again, keep_again, new_again) = given.chunk(3, -1), again.chunk(3, -1)
    new = (new + (reset + reset_again).sigmoid() * new_again).tanh()
    return [new + (keep + keep_again).sigmoid() * (state[0] - new)]


def _plain(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Sequence[Tensor]], list[Tensor]]:
    return lambda given, again, state: [activation(given + again)]


# From the products of inputs and of what the step before made (B, G·H), and from the state, the next state.
_CELLS: Mapping[str, Callable[[Tensor, Tensor, Sequence[Tensor]], list[Tensor]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _plain(torch.tanh),
    "rnn_relu": _plain(torch.relu),
}
