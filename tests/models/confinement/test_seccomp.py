from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from rightrank.models.confinement import seccomp
from rightrank.models.confinement.reach import ROOT
from tests.hostile import acts

PID = 4321
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, NO_SUCH = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
X86, ARM = "x86_64", "aarch64"
HEADERS = {
    X86: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    ARM: Path("/usr/include/asm-generic/unistd.h"),
}


def answer(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """What the filter of a machine says of a call, as the kernel would run it."""
    about = seccomp.MACHINES[machine]
    data = struct.pack("=IIQ6Q", number, audit or about.audit, 0, *arguments, *[0] * (6 - len(arguments)))
    lines, at, held = seccomp.program(about, PID), 0, 0
    while True:
        code, holds, fails, operand = lines[at]
        at += 1
        match code:
            case 0x20:
                held = struct.unpack_from("=I", data, operand)[0]
            case 0x54:
                held &= operand
            case 0x15:
                at += holds if held == operand else fails
            case 0x35:
                at += holds if held >= operand else fails
            case 0x06:
                return operand
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize("machine", [X86, ARM])
def test_every_call_of_the_list_is_allowed_and_every_other_refused(machine: str) -> None:
    column = seccomp.MACHINES[machine].column
    listed = {numbers[column] for numbers in seccomp.ALLOWED.values()} - {None}
    assert len(listed) > 60
    found = {number: answer(machine, number, 1 << 30, 1 << 30, 1 << 30) for number in range(600)}
    opened = {2, 257} if machine == X86 else {56}
    assert {number for number, said in found.items() if said == ALLOW} == listed | opened
    assert {number for number, said in found.items() if said == NO_SUCH} == {*range(424, 600)} - listed
    assert {*found.values()} == {ALLOW, REFUSE, NO_SUCH}


@pytest.mark.parametrize("machine", [X86, ARM])
def test_no_program_is_longer_than_the_kernel_takes_and_none_ends_without_an_answer(machine: str) -> None:
    lines = seccomp.program(seccomp.MACHINES[machine], PID)
    assert len(lines) < 4096
    assert lines[-1][0] == 0x06
    assert all(
        at + 1 + max(holds, fails) < len(lines) for at, (_, holds, fails, _) in enumerate(lines) if holds | fails
    )


@pytest.mark.parametrize(("machine", "kill", "tgkill"), [(X86, 62, 234), (ARM, 129, 131)])
def test_a_process_may_signal_itself_alone(machine: str, kill: int, tgkill: int) -> None:
    for number in (kill, tgkill):
        assert answer(machine, number, PID, 6) == ALLOW
        assert {answer(machine, number, other, 6) for other in (PID + 1, 1, 0, (1 << 64) - 1, (1 << 64) - PID)} == {
            REFUSE
        }


@pytest.mark.parametrize(("machine", "openat", "prlimit"), [(X86, 257, 302), (ARM, 56, 261)])
def test_arguments_decide_of_opening_and_limits(machine: str, openat: int, prlimit: int) -> None:
    folder = (1 << 64) - 100
    allowed = [os.O_RDONLY, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_WRONLY | os.O_CREAT | os.O_TRUNC]
    assert {answer(machine, openat, folder, 0, flags | os.O_CLOEXEC) for flags in allowed} == {ALLOW}
    assert answer(machine, openat, folder, 0, os.O_RDONLY | os.O_TRUNC) == REFUSE
    assert answer(machine, prlimit, 0, 7, 0) == answer(machine, prlimit, PID, 7, 0) == ALLOW
    assert {answer(machine, prlimit, *rest) for rest in [(0, 7, 1), (0, 7, 1 << 32), (PID + 1, 7, 0)]} == {REFUSE}


def test_another_architectures_calls_end_the_process() -> None:
    assert answer(X86, 1, audit=0x40000003) == KILL  # a 32-bit program's write is 4, and its 1 is exit
    assert answer(ARM, 64, audit=0x40000028) == KILL
    assert answer(X86, 0x40000000 | 1) == KILL


def test_the_numbers_are_those_of_the_kernels_headers() -> None:
    """Where these are installed; that a file can be read under the filter says the same of this machine's."""
    for machine, header in HEADERS.items():
        if header.exists():
            column = seccomp.MACHINES[machine].column
            text = (
                header.read_text()
                .replace("__NR3264_", "__NR_")
                .replace("#define __NR_fstatat ", "#define __NR_newfstatat ")
            )
            said = {
                parts[1].removeprefix("__NR_"): int(parts[2])
                for parts in map(str.split, text.splitlines())
                if len(parts) > 2 and parts[0] == "#define" and parts[1].startswith("__NR_") and parts[2].isdecimal()
            }
            ours = {name: numbers[column] for name, numbers in seccomp.ALLOWED.items() if numbers[column] is not None}
            assert ours == {name: said[name] for name in ours}


def test_the_kernel_ends_a_process_that_makes_an_x32_call() -> None:
    if os.uname().machine != X86 or not acts.there()["seccomp"]:
        pytest.skip("there are no such calls on this machine")
    code = (
        "import ctypes; from rightrank.models.confinement import seccomp; assert seccomp.restrict('x86_64');"
        "call = ctypes.CDLL(None).syscall; assert call(39) > 0; call(0x40000000 | 39)"
    )
    script = f"import ctypes; ctypes.CDLL(None).prctl(38, 1, 0, 0, 0); {code}"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGSYS, done.stderr
