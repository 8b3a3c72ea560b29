"""Calls to the kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import platform

_LIBC = ctypes.CDLL(None, use_errno=True)


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """What the system call returns. Raises `OSError` where it fails, and where this system has no such thing."""
    return _checked("syscall", ctypes.c_long(number), *map(_argument, arguments))


def prctl(option: int, *arguments: int) -> int:
    """What `prctl` returns. Raises as `syscall` does."""
    numbers = [*arguments, *[0] * (4 - len(arguments))]
    return _checked("prctl", ctypes.c_int(option), *map(ctypes.c_ulong, numbers))


def unshare(flags: int) -> None:
    """Leaves the namespaces that `flags` name for new ones. Raises as `syscall` does."""
    _checked("unshare", ctypes.c_int(flags))


def capset(header: bytes, sets: bytes) -> None:
    """Sets this thread's capabilities. Raises as `syscall` does."""
    _checked("capset", header, sets)


def capget(header: bytes, sets: ctypes.Array[ctypes.c_char]) -> None:
    """Writes this thread's capabilities to `sets`. Raises as `syscall` does."""
    _checked("capget", header, sets)


def _argument(value: int | bytes | ctypes.Array[ctypes.c_char] | None) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value


def _checked(name: str, *arguments: object) -> int:
    # Elsewhere a function of that name may be another one.
    function = getattr(_LIBC, name, None) if platform.system() == "Linux" else None
    if function is None:
        raise OSError(f"This system has no {name}.")
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result: int = function(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
