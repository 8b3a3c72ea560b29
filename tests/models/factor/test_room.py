from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rightrank.models.factor.room import Room


def mapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers lie in a file."""
    address, path = tensor.data_ptr(), ""
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends, *_, last = line.split(maxsplit=5)
        low, high = (int(end, 16) for end in ends.split("-"))
        if low <= address < high:
            path = last
    return "sums-" in path


def test_what_is_beyond_the_memory_lies_in_files_that_have_no_name(tmp_path: Path) -> None:
    room = Room(tmp_path / "work", 1000)
    within, beyond, small = room.zeros(10, 10), room.zeros(4, 30), room.zeros(20)
    assert [mapped(each) for each in (within, beyond, small)] == [False, True, False]
    assert not [*(tmp_path / "work").iterdir()]
    for each in (within, beyond, small):
        assert each.dtype == torch.float64 and not each.any()
        each += 1
        each += torch.ones_like(each)
        assert torch.equal(each, torch.full_like(each, 2))
    assert beyond.shape == (4, 30)


def test_nothing_takes_no_room(tmp_path: Path) -> None:
    assert Room(tmp_path, 0).zeros(0, 3).shape == (0, 3)


def test_a_disk_without_room_for_them_is_an_error_of_the_systems(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Room(tmp_path, 0).zeros(1 << 25, 1 << 25)
    assert not [*tmp_path.iterdir()]
