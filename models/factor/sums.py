"""The moments of one layer as running sums over calls (see `moments`), on the smaller side of its weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from rightrank.models.errors import DataError
from rightrank.models.factor.forms import FORMS
from rightrank.models.factor.gram import gram
from rightrank.models.factor.layer import Gatherer, Layer
from rightrank.models.factor.moments import Moments, Side, together
from rightrank.models.factor.patches import finite, single
from rightrank.models.factor.room import Room
from rightrank.models.program.calls import Call, Convolution, Embedding, turned

# Of the rows of a layer's values in one pass so many are looked at, drawn at random.
ROWS = 1 << 16
USABLE = "Give inputs as the network takes them in use, normalised as in its training."
Gradient: TypeAlias = Literal["logits", "loss"]


class _Rows:
    """Running sums over the rows (k, s) of a layer's values on one side, and of gradients there."""

    def __init__(self, size: int, gradients: Sequence[Gradient], room: Room) -> None:
        self.positions = 0
        self.origin: Tensor | None = None  # (s,)
        self.total = room.zeros(size)
        self.square = room.zeros(size, size)
        self.gradients = {kind: room.zeros(size, size) for kind in gradients}
        # Of the gradients as they are before they pass the weight: the sum of their squares.
        self.energy = dict.fromkeys(gradients, 0.0)

    def add(self, rows: Tensor, bias: Tensor | None = None) -> None:
        """Rows of values, of which a bias is no part."""
        rows = finite(single(rows))
        if not len(rows):
            return
        offset = 0 if bias is None else single(bias)
        # Near the mean, so that single precision does not lose a variance beside it.
        if self.origin is None:
            self.origin = rows.mean(0) - offset
        rows = rows - (self.origin + offset)
        self.positions += len(rows)
        self.total += rows.sum(0).double()
        self.square += gram(rows)

    def add_gradient(
        self, kind: Gradient, rows: Tensor, scale: float, through: Tensor | None = None, energy: Tensor | None = None
    ) -> None:
        """Rows of gradients, each standing for `scale`; `through` (·, s) is the matrix that they pass, if any. Of those
        that have passed theirs `energy` is what each had of squares before."""
        rows = finite(single(rows))
        if energy is not None:
            self.energy[kind] += scale * float(energy.sum(dtype=torch.float64))
        if through is not None:
            self.energy[kind] += scale * float(rows.square().sum(dtype=torch.float64))
            rows = rows @ through
        self.gradients[kind].add_(gram(rows), alpha=scale)

    def only(self, kind: Gradient) -> None:
        self.gradients = {kind: self.gradients[kind]}

    @property
    def mean(self) -> Tensor:
        assert self.origin is not None
        return self.total / self.positions + self.origin.double()

    @property
    def covariance(self) -> Tensor:
        mean = self.total / self.positions
        return self.square / self.positions - torch.outer(mean, mean)


class Sums:
    """Of one layer, seen from its smaller side; calls that read the weight the other way round, as an embedding does,
    are seen from the same axis of its matrix, which is their other side."""

    def __init__(
        self, layer: Layer, weight: Tensor, gradients: Sequence[Gradient], calls: Sequence[Call], room: Room
    ) -> None:
        self.axis = axis(layer)
        self._shape = layer.shape
        self._matrix = single(weight.detach()).reshape(layer.outputs, layer.inputs)
        size = self._matrix.shape[self.axis]
        kinds = dict.fromkeys(map(turned, calls))
        self._rows = {kind: _Rows(size, gradients, room) for kind in kinds}
        if any(isinstance(call, Embedding) for call in calls):
            # Rows that no calibration input looks up would else count for nothing: each counts once more than it was.
            for part in torch.split(self._matrix if self.axis else torch.eye(len(self._matrix)), ROWS):
                self._rows[True].add(part)

    def side(self, call: Call) -> Side:
        """Which of a call's sides lies along the axis."""
        return "outputs" if (self.axis == 0) != turned(call) else "inputs"

    def add(self, call: Call, data: Tensor, result: Tensor, bias: Tensor | None, chosen: Tensor | None) -> None:
        """One call's inputs and outputs."""
        rows = self._rows[turned(call)]
        if self.side(call) == "outputs":
            rows.add(_chosen(_rows(result, call), chosen), bias)
        elif isinstance(call, Embedding):
            numbers = _chosen(data.reshape(-1), chosen)
            rows.add(functional.one_hot(numbers, len(self._matrix)).to(self._matrix.dtype))
        else:
            rows.add(_chosen(_inputs(data, call), chosen))

    def add_gradient(self, call: Call, kind: Gradient, gradient: Tensor, chosen: Tensor | None) -> None:
        """Of one call's outputs."""
        met = None
        if isinstance(call, Convolution) and call.transposed:
            gradient, energy = _back(gradient, self._matrix.reshape(self._shape), call)
            met = _chosen(_rows(energy, call), chosen)
        rows = _rows(gradient, call)
        scale = 1.0 if chosen is None else len(rows) / len(chosen)
        through = None
        if self.side(call) == "inputs" and met is None:
            through = self._matrix.T if turned(call) else self._matrix
        self._rows[turned(call)].add_gradient(kind, _chosen(rows, chosen), scale, through, met)

    def only(self, kind: Gradient) -> None:
        for rows in self._rows.values():
            rows.only(kind)

    def moments(self, samples: int, kind: Gradient, gatherers: Mapping[str, Gatherer], blind: bool) -> Moments:
        """DataError where nothing finite was added, or sums are not. `blind`: gradients are taken to be unity."""
        if any(rows.origin is None for rows in self._rows.values()):
            raise DataError("The network's values are not finite on any calibration input.", USABLE)
        seen = {form: each.result() for form, each in gatherers.items()}
        several = [self._of(way, rows, samples, kind, seen, blind) for way, rows in self._rows.items()]
        found = several[0] if len(several) == 1 else together(several)
        sums = (found.mean, found.covariance, found.gradient)
        sound = all(each.sound(seen[form]) for form, each in gatherers.items())
        if not (sound and all(bool(each.isfinite().all()) for each in sums)):
            raise DataError("Squares of the network's values overflow on the calibration inputs.", USABLE)
        return found

    def _of(
        self, way: bool, rows: _Rows, samples: int, kind: Gradient, seen: Mapping[str, Any], blind: bool
    ) -> Moments:
        """Those of the calls that read the weight one way."""
        side: Side = "outputs" if (self.axis == 0) != way else "inputs"
        far = rows.energy[kind] / samples / self._matrix.shape[1 - self.axis] if side == "inputs" else 0.0
        found = Moments(rows.mean, rows.covariance, rows.gradients[kind] / samples, seen, side, self.axis, far)
        if not blind:
            return found
        near = (self._matrix if self.axis == 0 else self._matrix.T).double()
        return found.alike(near @ near.T)


def axis(layer: Layer) -> int:
    """Which axis of its weight's matrix (C_out, …) a layer is seen along: that of fewer numbers, if its forms and its
    calls leave the choice."""
    if layer.inputs >= layer.outputs or any(FORMS[form].by_outputs for form in layer.suits if form in FORMS):
        return 0
    # Of a larger kernel every position would have a patch of its own to be copied.
    return 1 if math.prod(layer.shape[2:]) == 1 else 0


def _rows(value: Tensor, call: Call) -> Tensor:
    """A layer's output as (positions, channels)."""
    if not isinstance(call, Convolution):
        return value.reshape(-1, value.shape[-1])
    return value.movedim(1, -1).reshape(-1, value.shape[1])


def _inputs(value: Tensor, call: Call) -> Tensor:
    """A layer's input as (positions, channels), a row for each of its outputs' positions, or for each of its own where
    it makes a patch of them."""
    if not isinstance(call, Convolution) or call.transposed:
        return _rows(value, call)
    value = functional.pad(value, [each for size in reversed(call.padding) for each in (size, size)])
    for dim, step in enumerate(call.stride, 2):
        value = value[(slice(None),) * dim + (slice(None, None, step),)]
    return value.movedim(1, -1).reshape(-1, value.shape[1])


def _back(gradient: Tensor, weight: Tensor, call: Convolution) -> tuple[Tensor, Tensor]:
    """The gradient that reaches the inputs of a transposed convolution through its weight (C_in, C_out, …), and at each
    of their positions (N, 1, …) the sum of squares in the patch of outputs that it comes from. A sample whose
    gradients are not all finite has none."""
    gradient = single(gradient)
    sound = gradient.flatten(1).isfinite().all(1)
    gradient = torch.where(sound.reshape(-1, *(1,) * (gradient.ndim - 1)), gradient, 0)
    ones = weight.new_ones(1, 1, *weight.shape[2:])
    several = ((gradient, weight), (gradient.square().sum(1, keepdim=True), ones))
    dims = len(call.stride)
    passed, energy = (
        torch.convolution(x, w, None, *call.geometry, transposed=False, output_padding=(0,) * dims, groups=1)
        for x, w in several
    )
    for dim, (more, step) in enumerate(zip(call.output_padding, call.stride, strict=True), 2):
        # Outputs that were added for a dilation's sake may have room for a position that the inputs have not.
        passed, energy = (x.narrow(dim, 0, x.shape[dim] - more // step) for x in (passed, energy))
    return passed, energy


def _chosen(rows: Tensor, chosen: Tensor | None) -> Tensor:
    return rows if chosen is None else rows[chosen]
