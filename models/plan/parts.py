"""A plan layer by layer: what each keeps, and in how many bits. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass

from rightrank.models.emit.encoding import encoding_of
from rightrank.models.emit.encoding.int4 import INT4
from rightrank.models.factor.layer import Layer
from rightrank.models.plan.planner import Plan, Planner
from rightrank.models.program.dtypes import DTYPES


@dataclass(frozen=True)
class Part:
    """One layer of a plan. `rank` of at most `largest` (0: whole), `params` numbers of the `original` ones, each of so
    many `bits` on average without scales; None where it is coded together with others. `reason` says why a layer is
    never cut, and is empty for one that may be."""

    layer: str
    kind: str
    rank: int
    largest: int
    params: int
    original: int
    bits: float | None
    reason: str


def parts(planner: Planner, plan: Plan) -> list[Part]:
    """All layers of a plan of this planner's, in the order of the template."""
    order = {layer.name: at for at, layer in enumerate(planner.template.decomposed)}
    found = []
    for layer in planner.template.layers:
        at = order.get(layer.name)
        rank = 0 if at is None else plan.ranks[at]
        params = layer.params_at(rank)
        bits = _bits(planner, plan, layer, at, params)
        found.append(Part(layer.name, layer.kind, rank, layer.rank, params, layer.params, bits, layer.reason))
    return found


def _bits(planner: Planner, plan: Plan, layer: Layer, at: int | None, params: int) -> float | None:
    if not plan.output.coded:
        # An encoding's first part is the numbers, the others are what they are scaled by.
        spec = next(iter(encoding_of(plan.output.encoding).parts(planner.template.tensors[layer.weight]).values()))
        return 4.0 if spec.dtype == INT4 else 8.0 * DTYPES[spec.dtype].width
    if at is None or planner.mixture is None:
        return None
    grid = planner.mixture.grids.index(plan.grids[at])
    return 8.0 * planner.mixture.bytes(at, plan.ranks[at], grid) / params
