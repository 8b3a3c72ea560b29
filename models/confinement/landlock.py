"""Files by name only (Landlock): what no rule names can be neither read, written, made, removed nor run.

It says nothing of looking up whether a path exists, of its owner and mode, and of changing those; `seccomp` refuses
the last.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from rightrank.models.confinement import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION, _BENEATH = 1, 1
_EXECUTE, _WRITE, _READ, _LIST, _REMOVE, _MAKE_FOLDER, _MAKE = (1 << bit for bit in (0, 1, 2, 3, 5, 7, 8))
_TRUNCATE = 1 << 14
# Every right to files that the ABI of that version knows, from the first on; of TCP and of scopes likewise.
_FILE_RIGHTS = (13, 14, 15, 15, 16)
_TCP_SINCE, _TCP = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE


def version() -> int:
    """The kernel's version of Landlock's interface; 0 where there is none."""
    try:
        return kernel.syscall(_CREATE, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(reads: Iterable[Path], writes: Iterable[Path]) -> bool:
    """Leaves the files and folders `reads` to be read and the folders `writes` to be written; whether that holds.

    In `writes` regular files and folders can be made, and files removed. Of TCP, abstract sockets and signals to other
    processes nothing is left, where the kernel's version knows them. It binds the calling thread.
    """
    abi = version()
    if not abi:
        return False
    files = (1 << _FILE_RIGHTS[min(abi, len(_FILE_RIGHTS)) - 1]) - 1
    handled = struct.pack("=QQQ", files, _TCP, _SCOPES)[
        : 24 if abi >= _SCOPES_SINCE else 16 if abi >= _TCP_SINCE else 8
    ]
    try:
        ruleset = kernel.syscall(_CREATE, handled, len(handled), 0)
    except OSError:
        return False
    try:
        for path in reads:
            _allow(ruleset, path, files & (_READ | _LIST))
        for path in writes:
            _allow(ruleset, path, files & (_READ | _LIST | _WRITE | _TRUNCATE | _MAKE | _MAKE_FOLDER | _REMOVE))
        kernel.syscall(_RESTRICT, ruleset, 0)
    except OSError:
        return False
    finally:
        os.close(ruleset)
    return not _may_list_everything()


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Allows what is beneath `path`, or `path` itself where it is a file.

    What is not there, or not for this user, needs no rule.
    """
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        kernel.syscall(_ADD, ruleset, _BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)


def _may_list_everything() -> bool:
    with contextlib.suppress(PermissionError), os.scandir("/"):
        return True
    return False
