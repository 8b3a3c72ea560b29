"""Numbers of single precision as levels of eight bits that nest: those of a smaller rank are a part of those of a
larger one, so that they are rounded once, at ingest, and copied at a cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rightrank.models.emit.encoding.int8 import Int8
from rightrank.models.master.tensorfile import TensorFile


@dataclass(frozen=True)
class Nested(Int8):
    """As `Int8`, but of a whole factor, whatever the rank: scales are those of all bases, and the levels lie basis
    after basis. A norm that is folded into a weight goes into its scale.

    What was `rounded` at ingest (see `master.rounded`) is taken from there.
    """

    rounded: TensorFile | None = None

    name: ClassVar[str] = "int8-nested"
    nested: ClassVar[bool] = True
