"""Batch-norm statistics taken anew from calibration inputs, for one plan.

"bnRe" of arXiv:1910.13141, and `relative`, ours: the stored statistics are moved by the difference, and
scaled by the ratio, between the cut network and the original on the same inputs. Nothing then changes
where nothing was cut, and what the inputs lack of the training's augmentation cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models import execute
from models.correction import BATCH_NORM, moments, statistics_of
from models.program import Graph, Node

TINY = 1e-12


@torch.no_grad()
def renorm(
    graph: Graph, original: Mapping[str, Tensor], cut: Mapping[str, Tensor], inputs: Tensor, relative: bool = True
) -> dict[str, Tensor]:
    """New statistics for the program `cut`, by tensor name; empty where it has no batch norm.

    `original` and `cut` are the tensors of the uploaded and of the cut program, `inputs` (N, …) one batch.
    Each batch norm sees what those before it, already renewed, make of the inputs.
    """
    pairs = {node.name: statistics_of(graph, node) for node in graph.nodes if node.op == BATCH_NORM}
    if not any(pairs.values()):
        return {}
    before: dict[str, tuple[Tensor, Tensor]] = {}

    def note(node: Node, arguments: list[Any], result: Any) -> Any:
        if pairs.get(node.name):
            before[node.name] = moments(arguments[0].double())
        return result

    if relative:
        execute.run(graph, original, [inputs], visit=note)
    found: dict[str, Tensor] = {}

    def renew(node: Node, arguments: list[Any], result: Any) -> Any:
        pair = pairs.get(node.name)
        if pair is None:
            return result
        mean, variance = moments(arguments[0].double())
        if relative:
            mean = original[pair[0]] + mean - before[node.name][0]
            variance = original[pair[1]] * variance / before[node.name][1].clamp_min(TINY)
        found[pair[0]], found[pair[1]] = mean.to(cut[pair[0]].dtype), variance.to(cut[pair[1]].dtype)
        arguments[3], arguments[4] = found[pair[0]], found[pair[1]]
        return execute.resolve(node.op)(*arguments)

    execute.run(graph, cut, [inputs], visit=renew)
    return found
