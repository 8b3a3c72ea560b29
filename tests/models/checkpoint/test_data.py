from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from rightrank.models.checkpoint import read_data
from rightrank.models.errors import DataError
from rightrank.models.program.graph import Graph, Input


def takes(dtype: str = "float32", *shape: int | None) -> Graph:
    return Graph((Input("x", dtype, shape or (None, 2)),), {}, frozenset(), (), ("x",))


def npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4"])
def test_inputs_become_the_programs_float_type_with_the_same_values(dtype: str, tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.arange(6).reshape(3, 2).astype(dtype)), takes())
    inputs = found["inputs"]
    assert inputs is not None and inputs.dtype == torch.float32
    assert inputs.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found["targets"] is None


def test_a_fixed_batch_does_not_fix_the_number_of_samples(tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.zeros((5, 2), np.float32)), takes("float32", 1, 2))
    assert found["inputs"] is not None and len(found["inputs"]) == 5


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [(np.array([0, 2, 1], np.uint8), torch.int64), (np.zeros((3, 4), np.float64), torch.float32)],
)
def test_integer_targets_are_classes_and_float_targets_are_values(
    targets: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.zeros((3, 2), np.float32), targets=targets), takes())["targets"]
    assert found is not None and found.dtype == dtype
    assert found.tolist() == targets.tolist()


def test_safetensors_are_read_like_npz(tmp_path: Path) -> None:
    path = tmp_path / "a"
    safetensors.torch.save_file({"inputs": torch.ones(3, 2), "targets": torch.arange(3)}, path)
    found = read_data(path, takes())
    assert found["inputs"] is not None and found["inputs"].shape == (3, 2)


def test_tokens_may_come_as_any_integer_type(tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.zeros((3, 2), np.int32)), takes("int64"))
    assert found["inputs"] is not None and found["inputs"].dtype == torch.int64


def test_floats_are_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float32; the model takes int64"):
        read_data(npz(tmp_path / "a", inputs=np.zeros((3, 2), np.float32)), takes("int64"))


def test_arrays_in_fortran_order_keep_their_values(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    found = read_data(npz(tmp_path / "a", inputs=values), takes())["inputs"]
    assert found is not None and found.tolist() == values.tolist()


def test_data_for_a_model_with_two_inputs_are_refused(tmp_path: Path) -> None:
    graph = Graph(takes().inputs * 2, {}, frozenset(), (), ("x",))
    with pytest.raises(DataError, match="2 inputs"):
        read_data(npz(tmp_path / "a", inputs=np.zeros((3, 2), np.float32)), graph)


def test_what_a_flipped_bit_makes_of_a_compressed_file_is_the_datas_fault(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, inputs=np.random.default_rng(0).integers(0, 3, (200, 8)).astype(np.float32))
    whole = bytearray(path.read_bytes())
    for at in range(60, len(whole) - 150, 40):
        path.write_bytes(bytes([*whole[:at], whole[at] ^ 16, *whole[at + 1 :]]))
        with contextlib.suppress(DataError):
            read_data(path, takes("float32", None, 8))


def test_numbers_of_unusual_widths_are_refused_in_words(tmp_path: Path) -> None:
    np.savez(tmp_path / "long.npz", inputs=np.zeros((4, 8), np.longdouble))
    safetensors.torch.save_file({"inputs": torch.zeros(4, 8).to(torch.float8_e4m3fn)}, tmp_path / "short.safetensors")
    for name, words in (("long.npz", "not numbers"), ("short.safetensors", "float8")):
        with pytest.raises(DataError, match=words):
            read_data(tmp_path / name, takes("float32", None, 8))
