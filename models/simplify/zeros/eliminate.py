"""Elimination as one step: find, remove, and accept only what computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rightrank.models.program import execute
from rightrank.models.program.graph import Graph
from rightrank.models.simplify.zeros import removal
from rightrank.models.simplify.zeros.columns import EXACT
from rightrank.models.simplify.zeros.flow import Flow
from rightrank.models.simplify.zeros.operators import RULES
from rightrank.models.simplify.zeros.report import Report

TOLERANCE = 1e-5
SAMPLES = 4
SCALES = (1, 100)


def eliminate(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    *,
    threshold: float | None = None,
    inputs: Sequence[Tensor] | None = None,
) -> tuple[Graph, Mapping[str, Tensor], Report]:
    """A normalised program without its zero channels, and a report.

    A channel is zero when its column's 2-norm is at most `threshold` times the layer's largest; None looks
    for the gap in the norms, and where that does not hold, or the outputs would not show it (`_shown`), takes exact
    zeros only. The result is accepted
    when its outputs on `inputs` (random ones, if none are given) differ by at most 1e-5 of the largest output
    (more in half precision: 16 of its rounding steps). Otherwise, and where nothing is to be removed, `graph`
    and `tensors` come back as the very objects that were given.
    """
    rejected, difference = "", 0.0
    limits: tuple[float | None, ...] = (None, EXACT) if _shown(graph, tensors, inputs) else (EXACT,)
    for limit in limits if threshold is None else (threshold,):
        found = removal.decide(Flow(graph, tensors, limit).walk(RULES))
        if not found.units:
            break
        smaller, fewer = removal.apply(found)
        difference, allowed = compare((graph, tensors), (smaller, fewer), inputs)
        if difference <= allowed:
            return smaller, fewer, _report(found, graph, tensors, smaller, fewer, difference)
        rejected = f"the outputs would differ by {difference:.1e} of the largest, more than {allowed:.0e}"
    untouched = removal.Removal(found.flow, frozenset())
    return graph, tensors, _report(untouched, graph, tensors, graph, tensors, 0.0, rejected)


def _shown(graph: Graph, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor] | None) -> bool:
    """Whether the outputs tell a channel that is small but alive from a dead one. Classes do not, nor numbers in half
    precision, where it may be lost in the rounding; nor, without `inputs`, tokens: random ones are all the same.
    """
    meta = execute.without_data(graph, tensors)
    with torch.no_grad():
        outputs = execute.run(graph, meta, execute.example_inputs(graph, 2, device="meta"))
    stored = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
    if any(not x.is_floating_point() or x.dtype.itemsize < 4 for x in (*outputs, *stored)):
        return False
    return inputs is not None or all(getattr(torch, spec.dtype).is_floating_point for spec in graph.inputs)


def compare(
    one: tuple[Graph, Mapping[str, Tensor]],
    other: tuple[Graph, Mapping[str, Tensor]],
    inputs: Sequence[Tensor] | None = None,
) -> tuple[float, float]:
    """The largest difference of two programs' outputs on the same inputs (random ones, if none are given), relative
    to the largest output, and what rounding explains. Infinite where `other` does not run, or numbers that are not
    finite differ or are none.

    Inputs a hundred times as large wake up what is only nearly dead.
    """
    difference, allowed = 0.0, TOLERANCE
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        inputs = execute.example_inputs(one[0], SAMPLES) if inputs is None else inputs
        for scale in SCALES:
            scaled = [x * scale if x.is_floating_point() else x for x in inputs]
            try:
                before, after = execute.run(*one, scaled), execute.run(*other, scaled)
            except (RuntimeError, ValueError, TypeError, IndexError):
                return float("inf"), allowed
            for x, y in zip(before, after, strict=True):
                difference = max(difference, _distance(x, y))
                if x.is_floating_point():
                    allowed = max(allowed, 16 * torch.finfo(x.dtype).eps)
    return difference, allowed


def _distance(x: Tensor, y: Tensor) -> float:
    if x.shape != y.shape or x.dtype != y.dtype:
        return float("inf")
    if not x.numel():
        return 0.0
    x, y = x.double(), y.double()
    # What is masked is minus infinity in both.
    difference = torch.where(x == y, 0.0, (x - y).abs()).max()
    largest = torch.where(x.isfinite(), x.abs(), 0.0).max().clamp_min(torch.finfo(torch.float32).tiny)
    return float(difference / largest) if difference.isfinite() else float("inf")


def _report(
    found: removal.Removal,
    graph: Graph,
    tensors: Mapping[str, Tensor],
    smaller: Graph,
    fewer: Mapping[str, Tensor],
    difference: float,
    rejected: str = "",
) -> Report:
    return Report(
        layers=removal.layers(found, tensors, fewer),
        params_before=execute.parameters(graph, tensors),
        params_after=execute.parameters(smaller, fewer),
        difference=difference,
        rejected=rejected,
    )
