"""Ranges of a network's values over calibration inputs, in a file beside the master: what int8 arithmetic wants.

Of each value that is rounded between calls there are the least and the most that its levels reach; of what lies between
the factors of a layer that can be cut, for each basis the largest magnitude, so that what a cut needs is a prefix. What
comes to a layer depends on all ranks before it, so there is a row of either for each of some sizes, the knots (see
`integers`). What a plan has of its own (see `improve`) is in its file of changes under the same names, at its ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rightrank.models.errors import UnreadableMaster
from rightrank.models.master.tensorfile import TensorFile

RANGES = "ranges.safetensors"


def of_value(name: str) -> str:
    """The entry of a value: (K, 2), float32; of a plan (2,)."""
    return f"range/{name}"


def of_bases(weight: str) -> str:
    """The entry of what lies between the factors of the layer of this weight: (K, R), float32; of a plan
    (r,)."""
    return f"inside/{weight}"


def value(
    name: str, knots: Sequence[int], stored: TensorFile | None, changes: TensorFile | None
) -> tuple[float, float]:
    """The ends between which a value lies in a plan between knots (see `Integers.around`). Raises UnreadableMaster
    where nothing says it.

    Ends are those of all the knots: to cut off what a value reaches costs more than a coarser step.
    """
    rows = _rows(of_value(name), knots, stored, changes)
    return float(rows[:, 0].min()), float(rows[:, 1].max())


def bases(
    weight: str, knots: Sequence[int], stored: TensorFile | None, changes: TensorFile | None
) -> NDArray[np.float32]:
    """The same of what lies between the factors of the layer of this weight: the most of each basis, (R,)."""
    found: NDArray[np.float32] = _rows(of_bases(weight), knots, stored, changes).max(0)
    return found


def _rows(
    entry: str, knots: Sequence[int], stored: TensorFile | None, changes: TensorFile | None
) -> NDArray[np.float32]:
    """An entry at knots; of what a plan has of its own there is one row."""
    if changes is not None and entry in changes:
        return changes.array(entry, 4).view(np.float32)[None]
    if stored is not None and entry in stored:
        return stored.array(entry, 4).view(np.float32)[[*knots]]
    raise UnreadableMaster(
        f"The model has no {entry}, without which a file of int8 arithmetic cannot be made.",
        "It is damaged: delete the model and upload it again.",
    )
