"""What a publisher wants to know of a master."""

from __future__ import annotations

from typing import Any

from rightrank.models.assemble.bound import bound
from rightrank.models.assemble.uncovered import uncovered
from rightrank.models.factor.layer import Layer
from rightrank.models.plan.planner import Planner
from rightrank.models.program.graph import Input


def describe(planner: Planner) -> dict[str, Any]:
    """Size of the original, its inputs, the smallest budgets, each layer, and what no layer covers; in `notes`, where
    it can hardly get smaller, why."""
    template = planner.template
    why = bound(planner)
    return {
        "params": template.original.params,
        "macs": template.original.macs,
        "bytes": planner.plan(budget=1).bytes,
        "inputs": [_input(spec) for spec in template.graph.inputs],
        "outputs": len(template.graph.outputs),
        "min_budget": {"params": planner.least(), "macs": planner.least("macs")},
        "plans": len(planner),
        "layers": [_layer(layer) for layer in template.layers],
        "uncovered": uncovered(template).to_json(),
        **({"notes": [why]} if why else {}),
    }


def _input(spec: Input) -> dict[str, Any]:
    """An input as a caller has to give it, and where sizes besides the batch are free, those of which MACs are told."""
    found = {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
    return {**found, "example": list(spec.sizes(1))} if spec.example else found


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "form": layer.form.name,
        "m": layer.m,
        "n": layer.n,
        "rank": layer.rank,
        "break_even": layer.break_even,
        "params": layer.params,
        "macs": layer.macs,
        "calls": len(layer.calls),
        "decomposed": layer.decomposed,
        "reason": layer.reason,
    }
