"""No capabilities: what is left of root is a user who owns root's files."""

from __future__ import annotations

import ctypes
import struct

from rightrank.models.confinement import kernel

_BOUNDING_READ, _BOUNDING_DROP = 23, 24
_AMBIENT, _CLEAR_ALL = 47, 4
_GET_NO_NEW_PRIVILEGES = 39
# The layout of the sets that has room for 64 capabilities, and "this process".
_HEADER = struct.pack("=Ii", 0x20080522, 0)
_MOST = 64
_NONE = bytes(24)


def drop() -> bool:
    """Empties every set, the bounding set too where the process may; whether that holds.

    An ordinary user's bounding set stays. It says what a program with more rights could take on, and no program can,
    once no new privileges are to be had (`layers` sees to that first).
    It binds the calling thread.
    """
    try:
        for capability in range(_MOST):
            _drop_from_bounding(capability)
        kernel.prctl(_AMBIENT, _CLEAR_ALL)
        kernel.capset(_HEADER, _NONE)
        found = ctypes.create_string_buffer(len(_NONE))
        kernel.capget(_HEADER, found)
        return found.raw == _NONE and (kernel.prctl(_GET_NO_NEW_PRIVILEGES) == 1 or not _bounding())
    except OSError:
        return False


def _drop_from_bounding(capability: int) -> None:
    try:
        kernel.prctl(_BOUNDING_DROP, capability)
    except OSError:
        # Not a capability of this kernel, or not this process's to drop.
        return


def _bounding() -> bool:
    """Whether anything is left in the bounding set."""
    for capability in range(_MOST):
        try:
            if kernel.prctl(_BOUNDING_READ, capability):
                return True
        except OSError:
            return False
    return False
