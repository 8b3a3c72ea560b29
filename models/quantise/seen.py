"""What a network's values reach on some inputs: where each is best rounded, and each basis's largest magnitude.

Twice over the inputs: first for the ends, then for how often values lie where between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rightrank.models.factor.layer import Layer, factor_value
from rightrank.models.program import execute
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.quantise.activations import best

BATCH, VALUES = 32, 1 << 26
BINS = 2048
# Of each value in a batch about so many numbers are counted, evenly spread.
COUNTED = 1 << 16


@dataclass(frozen=True)
class Cut:
    """A layer that can be cut, with factors of it, by side, of any rank."""

    layer: Layer
    factors: Mapping[str, Tensor]


@dataclass
class Seen:
    """By value the ends of its range, and the share of all that occurs that these are; by a layer's weight the largest
    magnitudes between its factors, (r,). What was not finite on any input is not there."""

    values: dict[str, tuple[float, float]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    bases: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def seen(
    program: Program,
    samples: Samples,
    cuts: Collection[Cut],
    shares: Mapping[str, float] | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Seen:
    """Of all values that are float32, and of `cuts` whose first factor is read by a call of its own. With `shares` of
    another size of the network they are looked at once, and ranges are these shares of what occurs. `tell` hears how
    many samples have gone through."""
    ends: dict[str, tuple[float, float]] = {}
    reach: dict[str, Tensor] = {}
    firsts = {call: each for each in cuts for call in each.layer.calls}

    def note(name: str, value: Any) -> None:
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or not value.numel():
            return
        low, high = (float(end) for end in torch.aminmax(value))
        known = ends.get(name, (low, high))
        # NumPy's keep what is no number, wherever it was met.
        ends[name] = float(np.minimum(low, known[0])), float(np.maximum(high, known[1]))

    def inside(node: Node, arguments: list[Any]) -> None:
        if (each := firsts.get(node.name)) is not None:
            inner = between(each, node, arguments)
            axis = 1 if inner.ndim > 2 and node.op.startswith("aten.conv") else inner.ndim - 1
            most = inner.abs().amax([at for at in range(inner.ndim) if at != axis])
            weight = each.layer.weight
            reach[weight] = torch.maximum(reach[weight], most) if weight in reach else most

    done = _look(program, samples, note, tell, inside)
    finite = {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ends.items() if math.isfinite(low + high)}
    if shares is None:
        shares = _shares(program, samples, finite, lambda more: tell(done + more))
    found = Seen(shares={name: shares.get(name, 1.0) for name in finite})
    found.values = {name: (low * found.shares[name], high * found.shares[name]) for name, (low, high) in finite.items()}
    found.bases = {weight: most.numpy().astype(np.float32) for weight, most in reach.items() if most.isfinite().all()}
    return found


def _shares(
    program: Program, samples: Samples, ends: Mapping[str, tuple[float, float]], tell: Callable[[int], None]
) -> dict[str, float]:
    """By value, which share of its range is best."""
    counts = {name: np.zeros(BINS) for name, (low, high) in ends.items() if high > low}

    def count(name: str, value: Any) -> None:
        if name in counts and isinstance(value, Tensor):
            some = value.reshape(-1)[:: max(1, value.numel() // COUNTED)]
            counts[name] += torch.histc(some, BINS, *ends[name]).double().numpy()

    _look(program, samples, count, tell)
    return {name: best(each, *ends[name]) for name, each in counts.items()}


@torch.no_grad()
def _look(
    program: Program,
    samples: Samples,
    value: Callable[[str, Any], None],
    tell: Callable[[int], None],
    call: Callable[[Node, list[Any]], None] = lambda node, arguments: None,
) -> int:
    """Runs a program on all samples that fill a batch; how many these are. `value` is given every value by its name,
    `call` every call with its arguments."""
    done, counted = 0, samples.batched.index(True)

    def visit(node: Node, arguments: list[Any], result: Any) -> Any:
        for name, each in _results(node, result):
            value(name, each)
        call(node, arguments)
        return result

    for data in batches(program, samples):
        for spec, given in zip(program.graph.inputs, data, strict=True):
            value(spec.name, given)
        program.run(data, visit)
        done += len(data[counted])
        tell(done)
    return done


def between(cut: Cut, node: Node, arguments: list[Any]) -> Tensor:
    """What the first of the calls makes that replace a layer's, given its arguments."""
    first = cut.layer.form.calls(cut.layer, node)[0]
    values: dict[str, Any] = {factor_value(cut.layer, side).name: each for side, each in cut.factors.items()}
    given = zip(node.args, arguments, strict=False)
    values |= {each.name: value for each, value in given if isinstance(each, Ref)}
    made: Tensor = execute.resolve(first.op)(
        *(execute.evaluate(each, values, arguments[0].device) for each in first.args)
    )
    return made


def batches(program: Program, samples: Samples) -> Iterator[Batch]:
    """All samples that fill a batch, of a program for any number those of one size at once."""
    for group in samples.apart():
        if program.graph.batch is not None:
            yield from group.batches(program.graph.batch)
        elif len(group):
            yield from group.parts(max(1, min(BATCH, VALUES // max(sum(program.values(group)), 1))))


def _results(node: Node, result: Any) -> Iterator[tuple[str, Any]]:
    several = result if isinstance(result, (tuple, list)) else (result,)
    yield from ((name, value) for name, value in zip(node.outputs, several, strict=False) if name)
