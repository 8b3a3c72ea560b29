"""Simplification as one step: computed weights stored, zero channels gone, each where the outputs stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rightrank.models.errors import CheckpointError
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Samples
from rightrank.models.progress import Progress, silent
from rightrank.models.simplify import zeros
from rightrank.models.simplify.fold import Folding, Kept, fold
from rightrank.models.simplify.products import products
from rightrank.models.simplify.zeros import Report

# What a program that was read, and runs, can still make a step raise.
_STUMBLES = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, CheckpointError)


class Simplified(NamedTuple):
    """The `program` that is decomposed, the `plain` one before zero channels went, and what was done, for people."""

    program: Program
    plain: Program
    reports: Mapping[str, Any]


def simplify(program: Program, inputs: Samples | None = None, progress: Progress = silent) -> Simplified:
    """A program with the weights of its layers stored (see `fold`) and its zero channels removed (see `zeros`); and for
    its description which weights were `computed`, and which channels were `eliminated`. The very `program` that was
    given where neither changes it.

    Each step is only accepted if the outputs stay the same, on some of `inputs` or, where there are none, random ones,
    of which `progress` hears. A program that a step stumbles over is not refused for that; that `program` itself runs
    is for the caller to know.
    """
    plain, folding = with_stored_weights(program, inputs)
    smaller, report = without_zeros(plain, inputs, progress)
    return Simplified(smaller, plain, {"computed": folding.to_json(), "eliminated": report.to_json()})


def with_stored_weights(program: Program, inputs: Samples | None) -> tuple[Program, Folding]:
    """What `products` and `fold` make of the program, if the outputs stay the same; else the program as it is, and
    why."""
    try:
        plain, folding = fold(products(program))
        if plain is program:
            return program, folding
        few = () if inputs is None else zeros.parts(inputs, zeros.FEW)
        difference, allowed = zeros.compare(program, plain, few)
        if difference <= allowed:
            _check_runs(plain)
            return plain, folding
        why = f"stored they would change the outputs by {difference:.1e} of the largest"
    except _STUMBLES as error:
        why = f"to store them failed: {type(error).__name__}: {error}".split("\n")[0][:300]
    return program, Folding(kept=(Kept((), why),))


def without_zeros(program: Program, inputs: Samples | None, progress: Progress = silent) -> tuple[Program, Report]:
    """What `zeros.eliminate` leaves of the program, if that saves parameters; the program as it is where nothing goes,
    or where the report says that this was rejected."""
    why = "it would save no parameters"
    try:
        smaller, report = zeros.eliminate(program, inputs=inputs, progress=progress)
        if smaller is program:
            return program, report
        _check_runs(smaller)
        if smaller.parameters < program.parameters:
            return smaller, report
    except _STUMBLES as error:
        why = f"the elimination failed: {type(error).__name__}: {error}".split("\n")[0][:300]
    return program, Report((), program.parameters, program.parameters, rejected=why)


def _check_runs(program: Program) -> None:
    """Raises where the calls do not fit together: later stages take for granted that there are shapes."""
    _ = program.shapes
