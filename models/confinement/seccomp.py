"""Which system calls there are (seccomp): a list of those allowed, in a filter that this module writes.

A list of what is allowed, not of what is refused: the kernel has some 460 calls and gets new ones, and reading a file
needs some seventy. What the list lacks fails as it does on a kernel that forbids it, so a library that tries it goes
on without; a list of refusals would let through what it had forgotten. The price is that a library that comes to need
another call is refused it here first: the tests read every kind of file through this filter.

Which of the paths that a call names may be opened is not to be seen from here; `landlock` decides that. Refused with
the rest are threads: an ordinary user's limit on processes never allowed them, so nothing that reads needs any.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rightrank.models.confinement import kernel

# Where a call's number, machine and arguments stand in what the filter is given.
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
# Calls from here on are the newer ones, by the same numbers everywhere. To these the answer is that this kernel has
# none, on which the C library does what it did before there were any.
_NEWER = 424
# On x86-64 the same calls are there a second time, with another size of pointers.
_X32 = 0x40000000


@dataclass(frozen=True)
class Machine:
    """audit: the kernel's word for the architecture. column: where its numbers stand in the tables below."""

    audit: int
    column: int
    seccomp: int


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0xC000003E, 0, 317),
    "aarch64": Machine(0xC00000B7, 1, 277),
}

# By x86-64's number and by arm64's, which has no doubles of calls that take a folder.
ALLOWED: Mapping[str, tuple[int | None, int | None]] = {
    # Files
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "close": (3, 57),
    "stat": (4, None),
    "lstat": (6, None),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "ftruncate": (77, 46),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "fadvise64": (221, 223),
    "dup": (32, 23),
    "dup3": (292, 24),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    # Memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    # The processor, time, chance
    "futex": (202, 98),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    # Itself
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrlimit": (97, 163),
    "exit": (60, 93),
    "exit_group": (231, 94),
}

# Allowed with some arguments only.
_KILL_CALLS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131)}
_OPEN_CALLS = {"open": ((2, None), 1), "openat": ((257, 56), 2)}
_FCNTL, _IOCTL, _PRCTL, _PRLIMIT = (72, 25), (16, 29), (157, 167), (302, 261)
# What a descriptor is, and its locks; not whom it signals.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
# Whether a file is a terminal, and whether a descriptor is closed for the programs that are run.
_IOCTL_COMMANDS = (0x5401, 0x5450, 0x5451)
_PRCTL_OPTIONS = (15,)  # a thread's name
# A file can be emptied by one who opens it for reading.
_EMPTIES, _HOW = os.O_TRUNC, os.O_TRUNC | os.O_ACCMODE

Instruction = tuple[int, int, int, int]
"""A classic BPF instruction: code, how many to skip where a test holds and where not, operand."""


def restrict(machine: str) -> bool:
    """Leaves all threads of this process only the calls that are allowed; whether that holds. For good."""
    if machine not in MACHINES or sys.maxsize < 1 << 32:
        return False
    code = b"".join(struct.pack("=HBBI", *each) for each in program(MACHINES[machine], os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    pointer = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    try:
        if kernel.syscall(MACHINES[machine].seccomp, _SET_MODE_FILTER, _ALL_THREADS, pointer):
            return False
        socket.socket(socket.AF_UNIX).close()
    except OSError as error:
        return error.errno == errno.EPERM
    return False


def program(machine: Machine, pid: int) -> list[Instruction]:
    """The filter for a process of that id: allows, refuses (EPERM; ENOSYS for newer calls), or, where a call is made
    by another architecture's way, ends the process."""
    return [
        (_LOAD, 0, 0, _MACHINE),
        *_unless(_EQUAL, machine.audit, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_when(_AT_LEAST, _X32, _KILL),
        *(line for numbers in ALLOWED.values() for line in _allow(numbers[machine.column])),
        *(line for number, lines in _conditional(machine, pid) for line in _for_call(number, lines)),
        *_when(_AT_LEAST, _NEWER, _ERROR | errno.ENOSYS),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
    ]


def _conditional(machine: Machine, pid: int) -> Iterator[tuple[int | None, list[Instruction]]]:
    """Calls with the lines that decide on them; where these come to no end, the call is refused."""
    column = machine.column
    for numbers in _KILL_CALLS.values():
        yield numbers[column], _one_of(0, (pid,))
    for opening, flags in _OPEN_CALLS.values():
        empties = [(_LOAD, 0, 0, _argument(flags)), (_AND, 0, 0, _HOW), *_unless(_EQUAL, _EMPTIES, _ALLOW)]
        yield opening[column], empties
    yield _FCNTL[column], _one_of(1, _FCNTL_COMMANDS)
    yield _IOCTL[column], _one_of(1, _IOCTL_COMMANDS)
    yield _PRCTL[column], _one_of(0, _PRCTL_OPTIONS)
    # Its own limits, to be read: the new ones, a pointer of two halves, are none.
    refused = _ERROR | errno.EPERM
    halves = [line for half in (0, 4) for line in ((_LOAD, 0, 0, _argument(2) + half), *_unless(_EQUAL, 0, refused))]
    yield _PRLIMIT[column], [*halves, *_one_of(0, (0, pid))]


def _argument(index: int) -> int:
    """Where the lower half of an argument stands; the kernel looks at no more of what is an int."""
    return _ARGUMENTS + 8 * index


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    lines: list[Instruction] = [(_LOAD, 0, 0, _argument(index))]
    return lines + [line for value in values for line in _when(_EQUAL, value, _ALLOW)]


def _allow(number: int | None) -> list[Instruction]:
    return [] if number is None else _when(_EQUAL, number, _ALLOW)


def _for_call(number: int | None, lines: list[Instruction]) -> list[Instruction]:
    if number is None:
        return []
    ending: Instruction = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    return [(_EQUAL, 0, len(lines) + 1, number), *lines, ending]


def _when(test: int, value: int, answer: int) -> list[Instruction]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, answer)]


def _unless(test: int, value: int, answer: int) -> list[Instruction]:
    return [(test, 1, 0, value), (_RETURN, 0, 0, answer)]
