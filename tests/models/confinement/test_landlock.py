from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from rightrank.models.confinement import landlock

LISTED, WRITABLE = 0b1100, 0b110101110


@pytest.mark.parametrize(
    ("abi", "handled"),
    [(1, (13,)), (2, (14,)), (3, (15,)), (4, (15, 2)), (5, (16, 2)), (6, (16, 2, 2)), (9, (16, 2, 2))],
    ids=str,
)
def test_every_right_that_the_kernels_version_knows_is_taken_and_no_other(
    abi: int, handled: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how many rights to files, TCP and scopes there are.

    No kernel here has the older versions: what they would be asked is read instead.
    """
    asked: list[tuple[Any, ...]] = []

    def syscall(*arguments: Any) -> int:
        asked.append(arguments)
        if arguments[0] == 444:
            return abi if arguments[1] is None else os.open(os.devnull, os.O_RDONLY)
        return 0

    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(landlock.kernel, "syscall", syscall)
    assert not landlock.restrict([file, tmp_path, tmp_path / "nothing"], [tmp_path])  # for nothing holds
    words = struct.pack(f"={len(handled)}Q", *((1 << rights) - 1 for rights in handled))
    assert asked[1][1:3] == (words, len(words))
    rules = [struct.unpack("=Qi", arguments[3])[0] for arguments in asked if arguments[0] == 445]
    truncate = 1 << 14 if abi >= 3 else 0
    assert rules == [0b100, LISTED, WRITABLE | truncate]
    assert asked[-1][0] == 446
