"""Looking at a pickle without running it.

A pickle is a program. `torch.load(weights_only=True)` runs a safe subset; this scan comes before it, so
that a file which names anything but tensors is refused with a sentence that says why.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from models.checkpoint.archive import CUT
from models.checkpoint.exported import EXPORT
from models.checkpoint.limits import PICKLE_BYTES
from models.errors import MalformedCheckpoint, UnsafeCheckpoint, UnsupportedCheckpoint

STATE = f"""Save the weights alone, torch.save(model.state_dict(), "weights.pt"), and name the architecture.
Or: {EXPORT}"""

_STORAGES = ["Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
_GLOBALS = frozenset(
    [
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch Size",
        *(f"torch {kind}Storage" for kind in _STORAGES),
    ]
)
# Everything that a dictionary of tensors and plain values needs in protocol 2, which torch.save writes.
_OPCODES = frozenset(
    ["PROTO", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_SET", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "GLOBAL", "BINPERSID", "REDUCE", "BUILD"]
)


def check(data: bytes | bytearray) -> None:
    """Raises UnsafeCheckpoint if the pickle could do anything but build tensors, MalformedCheckpoint if it is none."""
    for name, argument in _opcodes(data):
        if name == "GLOBAL" and argument not in _GLOBALS:
            raise UnsafeCheckpoint(
                f"The file is a pickle that names {str(argument)[:80]!r}: opening it could run code.", STATE
            )
        if name not in _OPCODES:
            raise UnsafeCheckpoint(f"The file is a pickle with {name}, which a dictionary of tensors does not need.", STATE)


def refuse_bare(path: Path) -> NoReturn:
    """A pickle that is not in an archive: torch.save before 1.6, or any other program's."""
    with path.open("rb") as file:
        head = file.read(PICKLE_BYTES)
    for name, argument in _opcodes(head, partial=True):
        if name in ("GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4") and argument not in _GLOBALS:
            raise UnsafeCheckpoint("The file is a pickle that names code: opening it could run it.", STATE)
    raise UnsupportedCheckpoint(
        "The file is a bare pickle, which torch wrote before version 1.6.", f"Load and save it with a newer torch. {STATE}"
    )


def _opcodes(data: bytes | bytearray, partial: bool = False) -> Iterator[tuple[str, object]]:
    try:
        for opcode, argument, _ in pickletools.genops(bytes(data)):
            yield opcode.name, argument
    except (ValueError, UnicodeDecodeError, IndexError, OverflowError, MemoryError) as error:
        if not partial:
            raise MalformedCheckpoint("The file's pickle is cut or damaged.", CUT) from error
