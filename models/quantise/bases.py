"""Factors as levels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Bases:
    """`down` (R, m) and `up` (R, n), int8, a basis a row, with scales `of_bases` (R,) and `of_outputs` (n,), in double
    as they are stored: basis k is `(of_bases[k] · down[k]) ⊗ (up[k] · of_outputs)`. Numbers of one output have one
    scale. `loss` (R,): what the leading r bases lack of the layer, where that is known."""

    down: Tensor
    up: Tensor
    of_bases: Tensor
    of_outputs: Tensor
    loss: Tensor | None = None

    def factors(self, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """The leading rows of both factors, all without a rank, as numbers in double."""
        kept = slice(rank)
        return self.down[kept] * self.of_bases[kept, None], self.up[kept] * self.of_outputs
