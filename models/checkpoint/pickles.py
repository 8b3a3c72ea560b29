"""Looking at a pickle without running it.

A pickle is a program. `torch.load(weights_only=True)` runs a safe subset; this scan comes before it, so
that a file which names anything but tensors is refused with a sentence that says why.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from rightrank.models.checkpoint.advice import CUT, EXPORT, SAVED, STATE
from rightrank.models.checkpoint.limits import PICKLE_BYTES
from rightrank.models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint
from rightrank.models.program.dtypes import DTYPES


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GLOBALS = frozenset(
    [
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch Size",
        *(f"torch {dtype.storage}" for dtype in DTYPES.values()),
    ]
)
# Everything that a dictionary of tensors and plain values needs in protocol 2, which torch.save writes.
_OPCODES = _words(
    """
    PROTO STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT
    BINUNICODE SHORT_BINSTRING BINSTRING EMPTY_DICT EMPTY_LIST EMPTY_TUPLE EMPTY_SET APPEND APPENDS
    SETITEM SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3 BINGET LONG_BINGET BINPUT LONG_BINPUT GLOBAL
    BINPERSID REDUCE BUILD
    """
)
_NAMING = _words("GLOBAL STACK_GLOBAL INST EXT1 EXT2 EXT4")


def check(data: bytes | bytearray) -> None:
    """Raises UnsafeCheckpoint if the pickle could do anything but build tensors, MalformedCheckpoint if it is none."""
    for name, argument in _opcodes(bytes(data)):
        if name == "GLOBAL" and argument not in _GLOBALS:
            if str(argument).startswith("torch.export."):
                raise UnsafeCheckpoint("The file is an exported program in a pickle, by torch.save.", SAVED)
            raise UnsafeCheckpoint(
                f"The file is a pickle that names {str(argument)[:80]!r}: opening it could run code.", STATE
            )
        if name not in _OPCODES:
            raise UnsafeCheckpoint(f"The file is a pickle with {name}, which no dictionary of tensors needs.", STATE)


def refuse_bare(path: Path) -> NoReturn:
    """A pickle that is not in an archive: torch.save before 1.6, or any other program's."""
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(PICKLE_BYTES))
    # The old format is five pickles, one after the other: a magic number, two of system details, the object, keys.
    for _ in range(5):
        for name, argument in _opcodes(stream, partial=True):
            if name in _NAMING and argument not in _GLOBALS:
                raise UnsafeCheckpoint("The file is a pickle that names code: opening it could run it.", STATE)
    raise UnsupportedCheckpoint(
        "The file is a bare pickle, which torch wrote before version 1.6.",
        f'Write it with a newer torch: torch.save(torch.load("weights.pt"), "weights.pt"). Or: {EXPORT}',
    )


def _opcodes(data: bytes | io.BytesIO, partial: bool = False) -> Iterator[tuple[str, object]]:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            yield opcode.name, argument
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        if not partial:
            raise MalformedCheckpoint("The file's pickle is cut or damaged.", CUT) from error
