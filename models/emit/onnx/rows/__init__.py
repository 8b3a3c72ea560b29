"""The table: for every operator that a program may call, and that ONNX has nodes for, the row that writes them.

A row is a function of the nodes to be written and of the call's arguments, by the names and with the defaults that
torch's schema has for them; it gives back what the call does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from rightrank.models.emit.onnx.rows import (
    activations,
    antialiasing,
    attention,
    construct,
    convolutions,
    indexing,
    losses,
    norms,
    pointwise,
    pooling,
    products,
    recurrent,
    reductions,
    resampling,
    shapes,
    sizes,
)

Row: TypeAlias = Callable[..., Any]

ROWS: Mapping[str, Row] = {
    **sizes.ROWS,
    **pointwise.ROWS,
    **activations.ROWS,
    **products.ROWS,
    **attention.ROWS,
    **convolutions.ROWS,
    **pooling.ROWS,
    **resampling.ROWS,
    **antialiasing.ROWS,
    **norms.ROWS,
    **reductions.ROWS,
    **shapes.ROWS,
    **indexing.ROWS,
    **construct.ROWS,
    **recurrent.ROWS,
    **losses.ROWS,
}
