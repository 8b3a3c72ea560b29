"""Which entry of a master, and how much of it, a plan takes for each tensor of the program.

It is the same for every format that a plan is written in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rightrank.models.master import entries
from rightrank.models.master.template import Template


class Slot(NamedTuple):
    """A tensor of the variant, or one of its factors (`side`), and where it lies in the master.

    Of a table of values one `row` is taken; of a factor, of the shape `full` there, the leading part of `shape`.
    """

    tensor: str
    source: str
    dtype: str
    shape: tuple[int, ...]
    parameter: bool
    side: str = ""
    row: int | None = None
    full: tuple[int, ...] | None = None

    def taken(self, stored: Any) -> Any:
        """What the variant has of the master's tensor: an array's or a torch tensor's part, a view where it can be."""
        if self.row is not None:
            return stored[self.row].reshape(self.shape)
        if self.full is None:
            return stored
        return stored.reshape(self.full)[tuple(slice(size) for size in self.shape)]


class Slots:
    """The slots of one template, for any ranks."""

    def __init__(self, template: Template) -> None:
        self._template = template
        layers = template.decomposed
        self._whole_shapes = [layer.factor_shapes(layer.rank) for layer in layers]
        self._position = {layer.weight: index for index, layer in enumerate(layers)}
        named = {layer.name: index for index, layer in enumerate(layers)}
        self._corrector = {tensor: named[layer] for tensor, layer in template.corrected.items()}
        graph = template.graph
        read = {name for node in graph.nodes for name in node.inputs()} | {*graph.outputs}
        # Those that the program reads, in the order in which it names them.
        self.tensors = list(dict.fromkeys(name for value, name in graph.tensors.items() if value in read))
        # Those that are the same in every plan.
        self._same: dict[str, Slot] = {}

    def position(self, tensor: str) -> int | None:
        """Which of the layers that can be cut has this weight."""
        return self._position.get(tensor)

    def at(self, ranks: Sequence[int]) -> Iterator[Slot]:
        """Tensor after tensor, a layer's factors in the order of its calls; ranks of 0 leave a layer whole."""
        template = self._template
        knot = template.knot(ranks)
        for name in self.tensors:
            position = self._position.get(name)
            yield from self.of(name, 0 if position is None else ranks[position], ranks, knot)

    def of(self, name: str, rank: int, ranks: Sequence[int], knot: int | None) -> Iterator[Slot]:
        """Those of one tensor, at its layer's rank."""
        if (same := self._same.get(name)) is not None:
            yield same
            return
        template = self._template
        spec = template.tensors[name]
        parameter = name in template.graph.parameters and "float" in spec.dtype
        if not rank:
            source, row = self._place(name, ranks, knot)
            found = Slot(name, source, spec.dtype, spec.shape, parameter, row=row)
            if template.tuned is None and name not in self._corrector and name not in self._position:
                self._same[name] = found
            yield found
            return
        position = self._position[name]
        layer, whole = template.decomposed[position], self._whole_shapes[position]
        for side, shape in layer.factor_shapes(rank).items():
            source = entries.factor(side, layer.name)
            source = source if knot is None else entries.tuned(source)
            yield Slot(name, source, spec.dtype, shape, parameter, side, full=whole[side])

    def _place(self, name: str, ranks: Sequence[int], knot: int | None) -> tuple[str, int | None]:
        """Where in the master a tensor lies that is not factored, and in which row."""
        tuned, corrector = self._template.tuned, self._corrector.get(name)
        if tuned is not None and knot is not None:
            if name in tuned.statistics:
                return entries.knots(name), knot
            return entries.tuned(name) if name in tuned.tensors else self._template.entry(name), None
        if corrector is not None and (rank := ranks[corrector]):
            return entries.corrected(name), rank - 1
        return self._template.entry(name), None
