"""Which numbers beside levels half precision does not hold: in networks whose outputs are prices, say, or whose weights
what was folded into them has made large or small."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rightrank.models.emit.torchscript.compact_writer import folded
from rightrank.models.emit.torchscript.fold import Fold
from rightrank.models.emit.vectors import TIMES, held
from rightrank.models.factor.correction import corrections
from rightrank.models.master.slots import Slots
from rightrank.models.master.template import Template
from rightrank.models.program.program import Program

# By how much the largest number that is added to a layer's outputs may be larger than what inputs of unit size make.
LARGER = 64.0


@dataclass(frozen=True)
class Beyond:
    """Of a network, `by` weight what norms are folded into it: a scale (o,) for each output, and a bias as stored."""

    template: Template
    stored: Mapping[str, Tensor]
    norms: Mapping[str, Fold]
    by: Mapping[str, tuple[NDArray[np.float64], NDArray[Any]]]

    @staticmethod
    def of(template: Template, stored: Mapping[str, Tensor], norms: Mapping[str, Fold]) -> Beyond:
        by = folded(norms, lambda name: stored[template.entry(name)].numpy().view(np.uint32))
        return Beyond(template, stored, norms, by)

    def holds(self, weight: str, scale: NDArray[np.float32]) -> bool:
        """Whether it holds what levels of a weight stand for at each output, (o,)."""
        return held(scale * self.by[weight][0] if weight in self.by else scale, TIMES)

    def names(self, program: Program, weights: Set[str]) -> frozenset[str]:
        """The `weights`, whose scales are beyond it, and those whose folded bias is; and the vectors that are, or that
        correct such a weight."""
        weights = weights | {name for name in self.by if not self._adds(name, self.by[name][1].view(np.float32))}
        found, gone = set(weights), {name for fold in self.norms.values() for name in fold.tensors}
        for layer in self.template.layers:
            for each in corrections(program, layer):
                if each.tensor not in gone and self._single(each.tensor):
                    fits = each.role != "bias" or self._adds(layer.weight, self._vector(each.tensor))
                    found |= set() if fits and layer.weight not in weights else {each.tensor}
        vectors = {name for name in Slots(self.template).tensors if name not in gone and self._single(name)}
        return frozenset(found | {name for name in vectors if not held(self._vector(name))})

    def _adds(self, weight: str, bias: NDArray[np.float32]) -> bool:
        """Whether it holds what is added to a layer's outputs, as precisely as these vary."""
        rows = self.stored[self.template.entry(weight)].flatten(1).norm(dim=1).numpy()
        rows = rows * np.abs(self.by[weight][0]) if weight in self.by else rows
        return held(bias) and float(np.abs(bias).max(initial=0)) <= LARGER * float(rows.max(initial=0))

    def _single(self, name: str) -> bool:
        """Whether a tensor is a vector of single precision."""
        spec = self.template.tensors[name]
        return spec.dtype == "float32" and len(spec.shape) == 1

    def _vector(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self.stored[self.template.entry(name)].numpy())
