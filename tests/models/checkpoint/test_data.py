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
from rightrank.models.program.samples import Data, Samples


def takes(dtype: str = "float32", *shape: int | None) -> Graph:
    return Graph((Input("x", dtype, shape or (None, 2)),), {}, frozenset(), (), ("x",))


def npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4"])
def test_inputs_become_the_programs_float_type_with_the_same_values(dtype: str, tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.arange(6).reshape(3, 2).astype(dtype)), takes())
    (inputs,) = found.samples.groups[0]
    assert inputs.dtype == torch.float32
    assert inputs.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.targets is None


def test_a_fixed_batch_does_not_fix_the_number_of_samples(tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.zeros((5, 2), np.float32)), takes("float32", 1, 2))
    assert len(found.samples) == 5 and found.samples.fixed == 1


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [(np.array([0, 2, 1], np.uint8), torch.int64), (np.zeros((3, 4), np.float64), torch.float32)],
)
def test_integer_targets_are_classes_and_float_targets_are_values(
    targets: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.zeros((3, 2), np.float32), targets=targets), takes()).targets
    assert found is not None and found[0].dtype == dtype
    assert found[0].tolist() == targets.tolist()


def test_safetensors_are_read_like_npz(tmp_path: Path) -> None:
    path = tmp_path / "a"
    safetensors.torch.save_file({"inputs": torch.ones(3, 2), "targets": torch.arange(3)}, path)
    found = read_data(path, takes())
    assert found.samples.groups[0][0].shape == (3, 2)


def test_tokens_may_come_as_any_integer_type(tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.zeros((3, 2), np.int32)), takes("int64"))
    assert found.samples.groups[0][0].dtype == torch.int64


def test_floats_are_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float32; the model takes int64"):
        read_data(npz(tmp_path / "a", inputs=np.zeros((3, 2), np.float32)), takes("int64"))


def test_arrays_in_fortran_order_keep_their_values(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    found = read_data(npz(tmp_path / "a", inputs=values), takes()).samples
    assert found.groups[0][0].tolist() == values.tolist()


IDS, MASK = Input("input_ids", "int64", (None, None), (1, 16)), Input("attention_mask", "bool", (None, None), (1, 16))
ENCODER = Graph((IDS, MASK), {}, frozenset(), (), ("input_ids",))


def encoded(*lengths: int) -> dict[str, Any]:
    """Two samples of each length, in groups."""
    arrays: dict[str, Any] = {}
    for number, length in enumerate(lengths):
        arrays[f"input_ids.{number}"] = np.full((2, length), number)
        arrays[f"attention_mask.{number}"] = np.ones((2, length), np.int64)
        arrays[f"targets.{number}"] = np.array([number, 0])
    return arrays


def test_every_input_is_given_by_its_name(tmp_path: Path) -> None:
    found = read_data(
        npz(tmp_path / "a", input_ids=np.zeros((3, 5), int), attention_mask=np.ones((3, 5), int)), ENCODER
    )
    ids, mask = found.samples.groups[0]
    assert (ids.shape, mask.shape, mask.dtype) == ((3, 5), (3, 5), torch.bool)


def test_the_only_input_may_be_called_by_its_own_name(tmp_path: Path) -> None:
    assert len(read_data(npz(tmp_path / "a", x=np.zeros((3, 2), np.float32)), takes()).samples) == 3


def test_samples_of_several_lengths_come_in_groups_and_survive_being_stored(tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", **encoded(4, 7, 5)), ENCODER)
    stored = Data.stored(ENCODER, found.tensors(["input_ids", "attention_mask"]))
    for each in (found, stored):
        assert [tuple(ids.shape) for ids, _ in each.samples.groups] == [(2, 4), (2, 7), (2, 5)]
        assert each.targets is not None and [one.tolist() for one in each.targets] == [[0, 0], [1, 0], [2, 0]]


def test_an_input_without_samples_is_given_once_for_all_groups(tmp_path: Path) -> None:
    scale = Input("scale", "float32", (3,))
    graph = Graph((IDS, scale), {}, frozenset(), (), ("scale",))
    given = {
        "input_ids.0": np.zeros((2, 4), int),
        "input_ids.1": np.zeros((1, 6), int),
        "scale": np.ones(3, np.float32),
    }
    found = read_data(npz(tmp_path / "a", **given), graph)
    stored = Samples.stored(graph, found.tensors(["input_ids", "scale"]))
    for samples in (found.samples, stored):
        assert len(samples) == 3 and [tuple(x.shape) for _, x in samples.groups] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_mask.1": None}, "groups of attention_mask"),
        ({"targets.1": None}, "targets do not come in the groups"),
        ({"attention_mask.1": np.ones((3, 7), int)}, "2 samples of input_ids but 3 of attention_mask"),
        ({"input_ids": np.ones((2, 7), int)}, "one without a number"),
        ({"attention_mask.0": np.full((2, 4), 2)}, "attention_mask are int64; the model takes bool"),
        ({"input_ids.0": np.ones((2, 4, 1), int)}, r"input_ids are \(2, 4, 1\); the model takes \(n, any\)"),
        ({"token_type_ids.0": np.ones((2, 4), int)}, "token_type_ids"),
        ({"targets.0": np.array([0.5, 1.0])}, "not of one type"),
    ],
)
def test_what_does_not_go_together_is_named(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    arrays = {name: each for name, each in (encoded(4, 7) | changes).items() if each is not None}
    with pytest.raises(DataError, match=words):
        read_data(npz(tmp_path / "a", **arrays), ENCODER)


def test_inputs_by_another_name_are_told_the_models_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the model takes input_ids, attention_mask"):
        safetensors.torch.save_file({"inputs": torch.ones(3, 2)}, tmp_path / "a")
        read_data(tmp_path / "a", ENCODER)


def test_channels_that_come_last_are_told_how_to_come_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="moveaxis"):
        read_data(npz(tmp_path / "a", inputs=np.zeros((2, 8, 8, 3), np.float32)), takes("float32", None, 3, 8, 8))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_program_of_half_precision_takes_floats_that_fit_it(dtype: str, tmp_path: Path) -> None:
    found = read_data(npz(tmp_path / "a", inputs=np.ones((2, 2), np.float32)), takes(dtype))
    assert found.samples.groups[0][0].dtype == getattr(torch, dtype)
    if dtype == "float16":
        with pytest.raises(DataError, match="as float16, hold NaN or infinity"):
            read_data(npz(tmp_path / "b", inputs=np.full((2, 2), 1e6, np.float32)), takes(dtype))


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
