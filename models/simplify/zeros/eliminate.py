"""Elimination as one step: find, remove, and accept only what computes the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rightrank.models.program.program import Program
from rightrank.models.simplify.zeros import removal
from rightrank.models.simplify.zeros.columns import EXACT
from rightrank.models.simplify.zeros.flow import Flow, without_data
from rightrank.models.simplify.zeros.operators import RULES
from rightrank.models.simplify.zeros.report import Report

TOLERANCE = 1e-5
SAMPLES = 4
SCALES = (1, 100)


def eliminate(
    program: Program, *, threshold: float | None = None, inputs: Sequence[Tensor] | None = None
) -> tuple[Program, Report]:
    """A normalised program without its zero channels, and a report.

    A channel is zero when its column's 2-norm is at most `threshold` times the layer's largest; None looks
    for the gap in the norms, and where that does not hold, or the outputs would not show it (`_shown`), takes exact
    zeros only. The result is accepted
    when its outputs on `inputs` (random ones, if none are given) differ by at most 1e-5 of the largest output
    (more in half precision: 16 of its rounding steps). Otherwise, and where nothing is to be removed, the very
    `program` that was given comes back.
    """
    rejected, difference = "", 0.0
    limits: tuple[float | None, ...] = (None, EXACT) if _shown(program, inputs) else (EXACT,)
    for limit in limits if threshold is None else (threshold,):
        found = removal.decide(Flow(program, limit).walk(RULES))
        if not found.units:
            break
        smaller = removal.apply(found)
        difference, allowed = compare(program, smaller, inputs)
        if difference <= allowed:
            return smaller, _report(found, smaller, difference)
        rejected = f"the outputs would differ by {difference:.1e} of the largest, more than {allowed:.0e}"
    untouched = removal.Removal(found.flow, frozenset())
    return program, _report(untouched, program, 0.0, rejected)


def _shown(program: Program, inputs: Sequence[Tensor] | None) -> bool:
    """Whether the outputs tell a channel that is small but alive from a dead one. Classes do not, nor numbers in half
    precision, where it may be lost in the rounding; nor, without `inputs`, tokens: random ones are all the same.
    """
    meta = without_data(program)
    with torch.no_grad():
        outputs = meta.run(meta.example(2, device="meta"))
    stored = [tensor for tensor in program.tensors.values() if tensor.is_floating_point()]
    if any(not x.is_floating_point() or x.dtype.itemsize < 4 for x in (*outputs, *stored)):
        return False
    return inputs is not None or all(getattr(torch, spec.dtype).is_floating_point for spec in program.graph.inputs)


def compare(one: Program, other: Program, inputs: Sequence[Tensor] | None = None) -> tuple[float, float]:
    """The largest difference of two programs' outputs on the same inputs (random ones, if none are given), relative
    to the largest output, and what rounding explains. Infinite where `other` does not run, or numbers that are not
    finite differ or are none.

    Inputs a hundred times as large wake up what is only nearly dead.
    """
    difference, allowed = 0.0, TOLERANCE
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        inputs = one.example(SAMPLES) if inputs is None else inputs
        for scale in SCALES:
            scaled = [x * scale if x.is_floating_point() else x for x in inputs]
            try:
                before, after = one.run(scaled), other.run(scaled)
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


def _report(found: removal.Removal, smaller: Program, difference: float, rejected: str = "") -> Report:
    return Report(
        layers=removal.layers(found, smaller),
        params_before=found.flow.program.parameters,
        params_after=smaller.parameters,
        difference=difference,
        rejected=rejected,
    )
