"""A layer as what can be cut, and a form: one way to write it as factors.

All that is known of one way to factor is in one class, a `Form`: which calls it fits, the factors and what they are
worth, their shapes at every rank and so what they cost, and the calls that read them. The emitter prints these calls
and the student runs them, so nothing is said twice. Without torch, since the planner and the writer of files need
layers too; a form imports it where it computes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rightrank.models.program.calls import Call
from rightrank.models.program.graph import Node, Ref

if TYPE_CHECKING:
    from torch import Tensor

    from rightrank.models.factor.factors import Factors
    from rightrank.models.factor.moments import Moments

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One weight of shape (C_out, …), and what it costs whole and at every rank. Where its calls read it the other way
    round (see `calls.turned`), its first axis is that of the inputs, and what is said here of outputs is said of these.

    `calls` are the nodes that apply it; a weight shared by several calls is one layer. `macs` counts one sample
    through all calls, which have so many `positions`. `decomposed` layers may be cut; for the others `reason` says
    why not. `form` is how it is factored; `suits` has every form that it can take, by name, and the positions of each
    of that one's calls. A convolution of several `groups` has a weight (C_out, C_in/groups, …).
    """

    name: str
    weight: str
    kind: str
    shape: Shape
    calls: tuple[str, ...]
    positions: int
    decomposed: bool
    form: Form
    reason: str = ""
    suits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    groups: int = 1

    @property
    def outputs(self) -> int:
        """C_out."""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """What one output is a weighted sum of: C_in·k_h·k_w numbers."""
        return math.prod(self.shape[1:])

    @property
    def params(self) -> int:
        return math.prod(self.shape)

    @property
    def macs(self) -> int:
        return self.params * self.positions

    @property
    def m(self) -> int:
        """The numbers of one basis in the first factor."""
        return math.prod(self.form.shapes(self, 1)[0])

    @property
    def n(self) -> int:
        """The numbers of one basis in the last factor."""
        return math.prod(self.form.shapes(self, 1)[-1])

    @cached_property
    def rank(self) -> int:
        """The number of bases, R."""
        return self.form.rank(self)

    @cached_property
    def params_by_rank(self) -> NDArray[np.int64]:
        """The parameters of the factors at ranks 1…R."""
        return self.form.params(self)

    @cached_property
    def macs_by_rank(self) -> NDArray[np.int64]:
        """The multiply-accumulates of the factors' calls for one sample at ranks 1…R."""
        return self.form.macs(self)

    @cached_property
    def break_even(self) -> int:
        """The largest rank whose factors have fewer numbers than the weight that they replace."""
        return int(np.searchsorted(self.params_by_rank, self.params))

    def params_at(self, rank: int) -> int:
        """Its parameters at a rank; 0 is the whole layer."""
        return int(self.params_by_rank[rank - 1]) if rank else self.params

    @cached_property
    def params_of_basis(self) -> NDArray[np.int64]:
        """What each basis adds to the parameters, (R,)."""
        return np.diff(self.params_by_rank, prepend=0)

    @cached_property
    def macs_of_basis(self) -> NDArray[np.int64]:
        """What each basis adds to the multiply-accumulates, (R,)."""
        return np.diff(self.macs_by_rank, prepend=0)

    def factor_shapes(self, rank: int) -> dict[str, Shape]:
        """The factors at a rank, by side, as their calls take them."""
        return dict(zip(self.form.sides, self.form.shapes(self, rank), strict=True))

    def axis_of_bases(self, side: str) -> int | None:
        """The one axis of a factor along which its bases lie; None where there are several."""
        one, two = self.factor_shapes(1)[side], self.factor_shapes(2)[side]
        axes = [axis for axis, (less, more) in enumerate(zip(one, two, strict=True)) if less != more]
        return axes[0] if len(axes) == 1 else None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "weight": self.weight,
            "kind": self.kind,
            "shape": list(self.shape),
            "calls": list(self.calls),
            "positions": self.positions,
            "decomposed": self.decomposed,
            "reason": self.reason,
            "form": self.form.name,
            "suits": {name: list(positions) for name, positions in self.suits.items()},
            **({"groups": self.groups} if self.groups > 1 else {}),
        }


class Gatherer(Protocol):
    """Takes in what a form wants to know of a layer's inputs, call by call."""

    def add(self, data: Tensor, call: Call, outputs: Sequence[int]) -> None:
        """Inputs (N, …) of a call, whose outputs have such sizes after the channels'."""

    def result(self) -> Any:
        """What the form's `factors` finds in `Moments.seen`."""

    def sound(self, result: Any) -> bool:
        """Whether all of that is finite."""


class Form(ABC):
    """One way to write a layer's weight as factors that are nested: those of a smaller rank are the leading parts of
    those of a larger one, along each axis. A method that takes a layer takes it in this form."""

    name: ClassVar[str]
    # The factors' names, in the order of the calls that read them.
    sides: ClassVar[tuple[str, ...]]
    # Whether it wants to know of a layer's outputs even where the inputs are fewer (see `factor.sums`): of what lies
    # along the weight's first axis.
    by_outputs: ClassVar[bool] = False

    @abstractmethod
    def fits(self, call: Call, shape: Shape) -> str:
        """Empty where a call of a weight of this shape can be factored so; else why not."""

    def pays(self, layer: Layer) -> bool:
        """Whether it is worth trying on a layer that it fits."""
        return True

    @abstractmethod
    def positions(self, given: Shape, made: Shape, call: Call) -> tuple[int, ...]:
        """How many positions each of the calls has that replace one which is `given` a value of one shape and makes
        one of another, over the whole batch."""

    @abstractmethod
    def shapes(self, layer: Layer, rank: Any) -> tuple[tuple[Any, ...], ...]:
        """Each side's shape at a rank, as its call takes it. The rank may be an array of ranks, as sizes then are."""

    def rank(self, layer: Layer) -> int:
        """The number of bases."""
        shapes = self.shapes(layer, 1)
        return int(min(math.prod(shapes[0]), math.prod(shapes[-1])))

    def params(self, layer: Layer) -> NDArray[np.int64]:
        """The numbers in all factors at ranks 1…R, rising."""
        return np.asarray(sum(self._numbers(layer)), dtype=np.int64)

    def macs(self, layer: Layer) -> NDArray[np.int64]:
        """The multiply-accumulates for one sample at ranks 1…R."""
        places = layer.suits.get(self.name) or (layer.positions,) * len(self.sides)
        return np.asarray(sum(n * at for n, at in zip(self._numbers(layer), places, strict=True)), dtype=np.int64)

    def _numbers(self, layer: Layer) -> list[Any]:
        ranks = np.arange(1, layer.rank + 1, dtype=np.int64)
        return [math.prod(shape) for shape in self.shapes(layer, ranks)]

    @abstractmethod
    def calls(self, layer: Layer, node: Node) -> tuple[Node, ...]:
        """What stands in place of a call of the layer. It reads the factors as `factor_value` names them; the last
        call makes what `node` made, those before it one value each, as `inner_value` names it."""

    def gatherer(self, layer: Layer) -> Gatherer | None:
        """What gathers what `factors` wants to know of the layer's inputs; None where that is nothing."""
        return None

    @abstractmethod
    def factors(self, layer: Layer, weight: Tensor, moments: Moments | None, gradient: bool = True) -> Factors:
        """All factors of a weight, and what each basis is worth: in the metric that calibration data told of, or by
        their singular values. Without `gradient` the layer's own outputs count, not the network's."""

    @abstractmethod
    def fit(
        self, layer: Layer, weight: Tensor, rank: int, normal: Tensor, mean: Tensor, moments: Moments
    ) -> dict[str, Tensor]:
        """Factors of one rank, by side, for a weight (C_out, …) whose inputs have the covariance `normal` and the
        `mean`, in groups (g, m, m) and (g, m), and which has these `moments`; all in double."""

    @abstractmethod
    def product(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
        """The weight that factors, by side, of any rank make."""


def factor_value(layer: Layer, side: str) -> Ref:
    """The value that a factor is in `Form.calls`."""
    return Ref(f"{side} of {layer.weight}")


def inner_value(node: Node, step: int = 0) -> str:
    """What lies between the calls that replace `node`: the value that number `step` makes."""
    return f"inside {node.name}" + f" {step}" * (step > 0)
