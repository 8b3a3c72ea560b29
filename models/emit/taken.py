"""What a plan takes of a master for a slot, or of what the plan has of its own."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from rightrank.models.master.slots import Slot
from rightrank.models.master.tensorfile import TensorFile
from rightrank.models.program.dtypes import DTYPES


def taken(slot: Slot, master: TensorFile, changes: TensorFile | None) -> NDArray[Any]:
    """A slot's elements, as unsigned integers of their width."""
    width = DTYPES[slot.dtype].width
    if changes is not None and slot.source in changes:
        return changes.array(slot.source, width).reshape(slot.shape)
    found: NDArray[Any] = slot.taken(master.array(slot.source, width))
    return found
