from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from rightrank.models.emit.taken import taken
from rightrank.models.master.slots import Slot
from rightrank.models.master.tensorfile import TensorFile


def test_a_plans_own_tensor_comes_before_the_masters_of_which_the_leading_part_is_taken(tmp_path: Path) -> None:
    save_file({"up/a": torch.arange(12.0).reshape(4, 3)}, tmp_path / "master.safetensors")
    save_file({"up/a": torch.ones(4, 2)}, tmp_path / "own.safetensors")
    slot = Slot("a", "up/a", "float32", (4, 2), True, "up", full=(4, 3))
    master, own = TensorFile(tmp_path / "master.safetensors"), TensorFile(tmp_path / "own.safetensors")
    assert taken(slot, master, None).view("f4").tolist() == [[0, 1], [3, 4], [6, 7], [9, 10]]
    assert taken(slot, master, own).view("f4").tolist() == [[1, 1]] * 4
