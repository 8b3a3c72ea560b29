"""Numbers of single precision stored as levels of four bits, for formats that have a type for these."""

from __future__ import annotations

from typing import ClassVar

from rightrank.models.emit.encoding.int8 import Int8

# The type of the levels in a file. It is none that a program has, so no row of `dtypes`; until they are written, levels
# lie in a byte each.
INT4 = "int4"
# The highest level; that there is one more below zero is left unused, so that signs are alike.
MOST = 7


class Int4(Int8):
    """As `Int8`, with levels from -7 to 7.

    The largest number of a slice is a level. Scales by which squares err least cut off the largest, and kept less of
    trained networks at every size.
    """

    name: ClassVar[str] = "int4"
    most: ClassVar[int] = MOST
    levels: ClassVar[str] = INT4
