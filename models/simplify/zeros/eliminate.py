"""Elimination as one step: find, remove, and accept only what computes the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch, Samples
from rightrank.models.progress import Progress, silent
from rightrank.models.simplify.zeros import removal
from rightrank.models.simplify.zeros.columns import EXACT
from rightrank.models.simplify.zeros.flow import Flow, without_data
from rightrank.models.simplify.zeros.operators import RULES
from rightrank.models.simplify.zeros.report import Report

TOLERANCE = 1e-5
# Outputs are compared on so many of the inputs given, so many at once; without any, on so many random ones.
COMPARED, AT_ONCE, RANDOM = 256, 16, 4
# On so many where what is done is algebra, which inputs do not decide but could still show to be wrong.
FEW = 16
SCALES = (1, 100)


def eliminate(
    program: Program, *, threshold: float | None = None, inputs: Samples | None = None, progress: Progress = silent
) -> tuple[Program, Report]:
    """A normalised program without its zero channels, and a report.

    A channel is zero when its column's 2-norm is at most `threshold` times the layer's largest; None looks
    for the gap in the norms, and where that does not hold, or the outputs would not show it (`_shown`), takes
    zeros only, exact but for rounding. The result is accepted when its outputs on 256 of the `inputs`, or all where
    there are fewer (16 of them where all that goes is zero to the last digit; random ones, if none are given), differ
    by at most 1e-5 of the largest output (more in half precision: 16 of its rounding steps). Otherwise, and where
    nothing is to be removed, the very `program` that was given comes back. `progress` hears of the comparison, and may
    raise to stop.
    """
    rejected, difference = "", 0.0
    some = inputs is not None and bool(parts(inputs, 1))
    limits: tuple[float | None, ...] = (None, EXACT) if _shown(program, some) else (EXACT,)
    for limit in limits if threshold is None else (threshold,):
        found = _find(program, limit)
        if not found.units:
            break
        smaller = removal.apply(found)
        exact = found.units <= _find(program, 0.0).units
        given = () if inputs is None else parts(inputs, FEW if exact else COMPARED)
        difference, allowed = compare(program, smaller, given, progress)
        if difference <= allowed:
            compared = sum(len(batch[program.graph.batched.index(True)]) for batch in given)
            return smaller, _report(found, smaller, difference, exact=exact, compared=compared)
        rejected = f"the outputs would differ by {difference:.1e} of the largest, more than {allowed:.0e}"
    untouched = removal.Removal(found.flow, frozenset())
    return program, _report(untouched, program, 0.0, rejected)


def parts(inputs: Samples, most: int) -> Sequence[Batch]:
    """At most so many of the inputs, a share of each group, few at a time; of those for a program of a fixed batch
    whole batches, one at least where there is one."""
    if inputs.fixed is None:
        return list(inputs[:most].parts(AT_ONCE))
    rounds = itertools.zip_longest(*(group.batches(inputs.fixed) for group in inputs.apart()))
    whole = (batch for each in rounds for batch in each if batch is not None)
    return list(itertools.islice(whole, max(1, most // inputs.fixed)))


def _find(program: Program, limit: float | None) -> removal.Removal:
    return removal.decide(Flow(program, limit).walk(RULES))


def _shown(program: Program, given: bool) -> bool:
    """Whether the outputs tell a channel that is small but alive from a dead one. Classes do not, nor numbers in half
    precision, where it may be lost in the rounding; nor, where no inputs are `given`, tokens: random ones are all the
    same.
    """
    meta = without_data(program)
    with torch.no_grad():
        outputs = meta.run(meta.example(2, device="meta"))
    stored = [tensor for tensor in program.tensors.values() if tensor.is_floating_point()]
    if any(not x.is_floating_point() or x.dtype.itemsize < 4 for x in (*outputs, *stored)):
        return False
    return given or all(getattr(torch, spec.dtype).is_floating_point for spec in program.graph.inputs)


def compare(
    one: Program, other: Program, given: Sequence[Batch] = (), progress: Progress = silent
) -> tuple[float, float]:
    """The largest difference of two programs' outputs on the same inputs (random ones, if none are given), relative
    to the largest output of a batch, and what rounding explains. Infinite where `other` does not run, where numbers
    that are not finite differ, or where an output is never a number.

    Inputs a hundred times as large wake up what is only nearly dead.
    """
    difference, allowed = 0.0, TOLERANCE
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        batches = given or [tuple(one.example(RANDOM))]
        for number, scale in enumerate(SCALES):
            numbers = [False] * len(one.graph.outputs)
            for index, batch in enumerate(batches):
                progress("eliminate", number * len(batches) + index, len(SCALES) * len(batches), "batches")
                scaled = [x * scale if x.is_floating_point() else x for x in batch]
                try:
                    before, after = one.run(scaled), other.run(scaled)
                except (RuntimeError, ValueError, TypeError, IndexError):
                    return float("inf"), allowed
                for place, (x, y) in enumerate(zip(before, after, strict=True)):
                    numbers[place] |= not x.numel() or not bool(x.isnan().all())
                    difference = max(difference, _distance(x, y))
                    if x.is_floating_point():
                        allowed = max(allowed, 16 * torch.finfo(x.dtype).eps)
                if difference > allowed:
                    return difference, allowed
            if not all(numbers):
                return float("inf"), allowed
    return difference, allowed


def _distance(x: Tensor, y: Tensor) -> float:
    if x.shape != y.shape or x.dtype != y.dtype:
        return float("inf")
    if not x.numel():
        return 0.0
    x, y = x.double(), y.double()
    # What is masked is minus infinity in both; an input that the network has no number for has none in either.
    difference = torch.where((x == y) | (x.isnan() & y.isnan()), 0.0, (x - y).abs()).max()
    largest = torch.where(x.isfinite(), x.abs(), 0.0).max().clamp_min(torch.finfo(torch.float32).tiny)
    return float(difference / largest) if difference.isfinite() else float("inf")


def _report(
    found: removal.Removal,
    smaller: Program,
    difference: float,
    rejected: str = "",
    exact: bool = True,
    compared: int = 0,
) -> Report:
    return Report(
        layers=removal.layers(found, smaller),
        params_before=found.flow.program.parameters,
        params_after=smaller.parameters,
        difference=difference,
        rejected=rejected,
        exact=exact,
        compared=compared,
    )
