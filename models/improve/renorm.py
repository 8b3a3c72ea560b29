"""Batch-norm statistics taken anew from calibration inputs, for one plan.

"bnRe" of arXiv:1910.13141, and ours, relative: the stored statistics are moved by the difference, and
scaled by the ratio, between the cut network and the original on the same inputs. Nothing then changes
where nothing was cut, and what the inputs lack of the training's augmentation cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from rightrank.models.factor.patches import single
from rightrank.models.program.abreast import Abreast
from rightrank.models.program.calls import BatchNorm
from rightrank.models.program.graph import Node, Ref
from rightrank.models.program.norms import moments, statistics_of
from rightrank.models.program.program import Program
from rightrank.models.program.samples import Batch

# A channel that varies less than this share of what is stored tells nothing of its variance.
NEGLIGIBLE = 1e-6
# So many batches (see `abreast`) are looked at: of networks whose values are small that is all of them.
BATCHES = 24
# Mean and variance of each channel, in double.
Statistics: TypeAlias = tuple[Tensor, Tensor]
T = TypeVar("T")


class Renorm:
    """Of the cuts of an `original`. For statistics that are relative it is to `watch` each call of that first, on the
    same inputs.

    The batch norms are those called once: one that is called twice would need other statistics at each call.
    """

    def __init__(self, original: Program) -> None:
        graph = original.graph
        found = {node.name: statistics_of(graph, node) for node in graph.nodes}
        self._names = {call: pair for call, pair in found.items() if pair and all(map(original.read_once, pair))}
        self._original = original
        self._before: dict[str, Statistics] = {}

    def watch(self, node: Node, values: Sequence[Mapping[str, Any]]) -> None:
        """A call of the original that comes next, with the values of each batch."""
        if node.name in self._names:
            self._before[node.name] = _seen(node, _some(values))

    @torch.no_grad()
    def of(self, cut: Program, inputs: Sequence[Batch], relative: bool = True) -> dict[str, Tensor]:
        """New statistics for the program `cut`, by tensor name, from inputs in batches; empty where it has none.

        Each batch norm sees what those before it, already renewed, make of the inputs.
        """
        found: dict[str, Tensor] = {}
        if not self._names:
            return found
        abreast = Abreast(cut, _some(inputs))
        for node in cut.graph.nodes:
            if names := self._names.get(node.name):
                call, seen = BatchNorm.of(node), _seen(node, abreast.values)
                taken = self._relative(node.name, *seen) if relative else seen
                for argument, name, value in zip((call.running_mean, call.running_var), names, taken, strict=True):
                    assert isinstance(argument, Ref)
                    found[name] = value.to(cut.tensors[name].dtype)
                    abreast.replace(argument.name, found[name])
            abreast.step(node)
        return found

    def _relative(self, call: str, mean: Tensor, variance: Tensor) -> Statistics:
        stored, spread = (self._original.tensors[name].double() for name in self._names[call])
        before, whole = self._before[call]
        told = whole > NEGLIGIBLE * spread
        return stored + mean - before, torch.where(told, spread * variance / torch.where(told, whole, 1.0), spread)


def _some(batches: Sequence[T]) -> list[T]:
    """Those of all batches that are looked at."""
    count = min(BATCHES, len(batches))
    return [batches[number * len(batches) // count] for number in range(count)]


def _seen(node: Node, values: Sequence[Mapping[str, Any]]) -> Statistics:
    """Those of what comes to a batch norm, in all batches."""
    data = BatchNorm.of(node).input
    assert isinstance(data, Ref)
    return _pooled([each[data.name] for each in values])


def _pooled(batches: Sequence[Tensor]) -> Statistics:
    several = [[part.double() for part in moments(single(each))] for each in batches]
    counts = torch.tensor([each.numel() // max(each.shape[1], 1) for each in batches], dtype=torch.float64)
    shares = (counts / counts.sum()).unsqueeze(1)
    means, variances = (torch.stack(each) for each in zip(*several, strict=True))
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)
