"""Batch-norm statistics taken anew from calibration inputs, for one plan.

"bnRe" of arXiv:1910.13141, and `relative`, ours: the stored statistics are moved by the difference, and
scaled by the ratio, between the cut network and the original on the same inputs. Nothing then changes
where nothing was cut, and what the inputs lack of the training's augmentation cancels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rightrank.models.program import execute
from rightrank.models.program.graph import Node
from rightrank.models.program.norms import moments, statistics_of
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch

# A channel that varies less than this share of what is stored tells nothing of its variance.
NEGLIGIBLE = 1e-6
MEAN, VARIANCE = 3, 4


@torch.no_grad()
def renorm(original: Program, cut: Program, inputs: Batch, relative: bool = True) -> dict[str, Tensor]:
    """New statistics for the program `cut`, by tensor name, of batch norms called once; empty where it has none.

    `original` is the uploaded program, `inputs` one batch.
    Each batch norm sees what those before it, already renewed, make of the inputs.
    """
    graph = original.graph
    found_at = {node.name: statistics_of(graph, node) for node in graph.nodes}
    # One that is called twice would need others at each call.
    pairs = {name: pair for name, pair in found_at.items() if pair and all(map(original.read_once, pair))}
    if not pairs:
        return {}
    before: dict[str, tuple[Tensor, Tensor]] = {}

    def note(node: Node, arguments: list[Any], result: Any) -> Any:
        if pairs.get(node.name):
            before[node.name] = moments(arguments[0].double())
        return result

    if relative:
        original.run(inputs, visit=note)
    found: dict[str, Tensor] = {}

    def renew(node: Node, arguments: list[Any], result: Any) -> Any:
        pair = pairs.get(node.name)
        if pair is None:
            return result
        mean, variance = moments(arguments[0].double())
        if relative:
            mean = original.tensors[pair[0]] + mean - before[node.name][0]
            stored, whole = original.tensors[pair[1]].double(), before[node.name][1]
            told = whole > NEGLIGIBLE * stored
            variance = torch.where(told, stored * variance / torch.where(told, whole, 1.0), stored)
        found[pair[0]] = mean.to(cut.tensors[pair[0]].dtype)
        found[pair[1]] = variance.to(cut.tensors[pair[1]].dtype)
        arguments[MEAN], arguments[VARIANCE] = found[pair[0]], found[pair[1]]
        return execute.resolve(node.op)(*arguments)

    cut.run(inputs, visit=renew)
    return found
