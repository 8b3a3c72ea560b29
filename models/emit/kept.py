"""What all files of a template have in common, worked out once, as long as it is one of the last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from rightrank.models.master.template import Template

T = TypeVar("T")
MOST = 16


class Kept(Generic[T]):
    """By template and key, what was made last."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, Hashable], tuple[Template, T]] = OrderedDict()

    def of(self, template: Template, key: Hashable, make: Callable[[], T]) -> T:
        """What there is, or what `make` gives."""
        place = id(template), key
        kept = self._made.pop(place, None)
        if kept is None or kept[0] is not template:
            kept = template, make()
        self._made[place] = kept
        while len(self._made) > MOST:
            self._made.popitem(last=False)
        return kept[1]
