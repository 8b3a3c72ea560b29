"""Samples: what a program is run on, any number of them, each with a value for every input.

Samples whose tensors have the same shapes lie together in a *group*, one tensor for each input of the program. Where
only the batch is free there is one group; where a length or a height is free too there is one for each that occurs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from rightrank.models.program.graph import Graph

# One tensor for each input of a program, in its order.
Batch: TypeAlias = tuple[Tensor, ...]
# The names that tensors have where samples are stored: `inputs`, or `inputs/<name>/<group>` where there are several.
INPUTS, TARGETS = "inputs", "targets"


@dataclass(frozen=True, eq=False)
class Samples:
    """`groups` of tensors (n, …), n samples each; an input that is not `batched` has no samples and is passed as it is.
    `fixed` is how many the program takes at once, None where any number will do.

    A slice takes its share of each group, as if the groups were mixed evenly: of one group what a list would give.
    """

    groups: tuple[Batch, ...]
    batched: tuple[bool, ...] = (True,)
    fixed: int | None = None

    @staticmethod
    def of(*inputs: Tensor) -> Samples:
        """Those of one group for a program that takes any number at once."""
        return Samples((inputs,), (True,) * len(inputs))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many there are in each group."""
        first = self.batched.index(True)
        return tuple(len(group[first]) for group in self.groups)

    @cached_property
    def _places(self) -> tuple[Tensor, ...]:
        """Of each group's samples, in order, their places among all of them."""
        shares = torch.cat([(torch.arange(size, dtype=torch.float64) + 0.5) / size for size in self.sizes])
        return torch.split(torch.argsort(torch.argsort(shares, stable=True)), list(self.sizes))

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, part: slice) -> Samples:
        start, stop, step = part.indices(len(self))
        assert step == 1
        if len(self.groups) == 1:
            return self._with([self._rows(self.groups[0], slice(start, stop))])
        groups = []
        for group, places in zip(self.groups, self._places, strict=True):
            first, last = (int(torch.searchsorted(places, edge)) for edge in (start, stop))
            if last > first:
                groups.append(self._rows(group, slice(first, last)))
        return self._with(groups)

    def batches(self, size: int) -> Iterator[Batch]:
        """Whole batches in order; what does not fill one is left out, but for a group that is less than one."""
        for group, count in zip(self.groups, self.sizes, strict=True):
            most = self.fixed or (size if len(self.groups) == 1 else max(1, min(size, count)))
            for start in range(0, count // most * most, most):
                yield self._rows(group, slice(start, start + most))

    def parts(self, size: int) -> Iterator[Batch]:
        """All of them, in order, at most `size` at once."""
        for group, count in zip(self.groups, self.sizes, strict=True):
            for start in range(0, count, size):
                yield self._rows(group, slice(start, start + size))

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """So many at random, all of one group."""
        index = 0
        if len(self.groups) > 1:
            index = int(torch.multinomial(torch.tensor(self.sizes, dtype=torch.float64), 1, generator=generator))
        drawn = torch.randint(self.sizes[index], (count,), generator=generator)
        return self._rows(self.groups[index], drawn)

    def apart(self) -> list[Samples]:
        """Each group by itself."""
        return [self._with([group]) for group in self.groups]

    def largest(self) -> Samples:
        """The group with most samples."""
        return self._with([max(zip(self.sizes, self.groups, strict=True), key=lambda pair: pair[0])[1]])

    @staticmethod
    def together(several: Sequence[Samples]) -> Samples:
        """The groups of all of them, which are of one program."""
        return several[0]._with([group for each in several for group in each.groups])

    def choose(self, batch: Batch, rows: Tensor) -> Batch:
        """Those rows of a batch: what `rows` is true of, or the numbers that it has."""
        return self._rows(batch, rows)

    def of_rows(self, rows: Tensor) -> Samples:
        """Of a single group those samples, by number."""
        (group,) = self.groups
        return self._with([self.choose(group, rows)])

    def to(self, device: torch.device) -> Samples:
        return self._with([tuple(x.to(device) for x in group) for group in self.groups])

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """For a file: the tensors by name, for inputs called `names`."""
        found = {}
        for number, group in enumerate(self.groups):
            for name, batched, tensor in zip(names, self.batched, group, strict=True):
                found[_key(name if len(names) > 1 else "", number if batched and len(self.groups) > 1 else None)] = (
                    tensor
                )
        return {key: tensor.contiguous() for key, tensor in found.items()}

    @staticmethod
    def stored(graph: Graph, tensors: Mapping[str, Tensor]) -> Samples:
        """What `tensors` gave, read again for a program of this graph; others of their file are left alone."""
        names = [spec.name for spec in graph.inputs]
        several = len(names) > 1
        first = next(name for name, batched in zip(names, graph.batched, strict=True) if batched)
        groups = []
        for number in _numbers(tensors, _key(first if several else "", None)):
            pairs = zip(names, graph.batched, strict=True)
            keys = [_key(name if several else "", number if each else None) for name, each in pairs]
            groups.append(tuple(tensors[key] for key in keys))
        return Samples(tuple(groups), graph.batched, graph.batch)

    def _with(self, groups: Sequence[Batch]) -> Samples:
        return Samples(tuple(groups), self.batched, self.fixed)

    def _rows(self, group: Batch, rows: slice | Tensor) -> Batch:
        return tuple(x[rows] if batched else x for x, batched in zip(group, self.batched, strict=True))


@dataclass(frozen=True, eq=False)
class Data:
    """Samples, and for each group the targets (n, …) of its samples where there are any."""

    samples: Samples
    targets: tuple[Tensor, ...] | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of all numbers."""
        return sum(x.nbytes for group in (*self.samples.groups, self.targets or ()) for x in group)

    def tensors(self, names: Sequence[str]) -> dict[str, Tensor]:
        """For a file: the tensors by name, for inputs called `names`."""
        found = self.samples.tensors(names)
        for number, each in enumerate(self.targets or ()):
            found[TARGETS if len(self.samples.groups) == 1 else f"{TARGETS}/{number}"] = each.contiguous()
        return found

    @staticmethod
    def stored(graph: Graph, tensors: Mapping[str, Tensor]) -> Data:
        """What `tensors` gave, read again for a program of this graph."""
        keys = [f"{TARGETS}/{number}" if number is not None else TARGETS for number in _numbers(tensors, TARGETS)]
        targets = tuple(tensors[key] for key in keys if key in tensors)
        return Data(Samples.stored(graph, tensors), targets or None)


def _key(name: str, group: int | None) -> str:
    """The stored name of an input ("" for the only one) in a group (None: in all, or the only one)."""
    return "/".join([INPUTS, *([name] if name else []), *([] if group is None else [str(group)])])


def _numbers(tensors: Mapping[str, Tensor], key: str) -> Sequence[int | None]:
    """The numbers of the groups that a name is stored with; a single None where it is stored once."""
    count = 0
    while f"{key}/{count}" in tensors:
        count += 1
    return range(count) if count else [None]
