"""How many bits levels take."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.models.quantise.sizes import OF_SYMBOL, OF_TABLE, Packing, bits, huffman, packing


def drawn(scale: float, rows: int = 40, columns: int = 501) -> np.ndarray:
    return np.random.default_rng(0).normal(0, scale, (rows, columns)).round().clip(-127, 127).astype(np.int8)


def entropy(levels: np.ndarray) -> float:
    shares = np.unique(levels, return_counts=True)[1] / levels.size
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize(("largest", "together"), [(1, 5), (2, 3), (3, 2), (7, 2), (8, 1), (127, 1)])
def test_packed_levels_come_back(largest: int, together: int) -> None:
    random = np.random.default_rng(1)
    levels = random.integers(-largest, largest + 1, (7, 31)).astype(np.int8)
    packed = Packing(together, 2 * largest + 1)
    symbols = packed.pack(levels)
    assert symbols.dtype == np.uint8
    assert symbols.shape == (7, -(-31 // together))
    assert np.array_equal(packed.unpack(symbols, 31), levels)


@pytest.mark.parametrize("scale", [0.25, 0.35, 0.6, 1.0, 3.0, 12.0])
def test_packed_levels_take_little_more_than_their_entropy(scale: float) -> None:
    levels = drawn(scale)
    found = bits(levels, packing(levels)).sum() / levels.size
    assert entropy(levels) <= found < entropy(levels) + 0.15


def test_few_levels_take_less_than_a_bit_each() -> None:
    levels = drawn(0.25)
    assert packing(levels).together == 5
    assert bits(levels, packing(levels)).sum() / levels.size < 0.4
    assert bits(levels, Packing(1, 3)).sum() / levels.size > 1


def test_a_row_takes_its_own_symbols_and_its_share_of_the_table() -> None:
    levels = np.array([[0] * 8, [1, 0] * 4, [1, -1, 1, 0] * 2], dtype=np.int8)
    table = (OF_TABLE + 3 * OF_SYMBOL) / 3
    # Of 14 zeros, 8 ones and 2 others: one bit, two and two.
    assert bits(levels, Packing(1, 3)).tolist() == [8 + table, 12 + table, 14 + table]


def test_nothing_takes_nothing() -> None:
    assert bits(np.zeros((3, 0), dtype=np.int8), Packing(1, 3)).tolist() == [0, 0, 0]
    assert packing(np.zeros((0, 4), dtype=np.int8)).base == 3


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [([0, 5, 0], [0, 1, 0]), ([1, 1, 2, 4], [3, 3, 2, 1]), ([3, 3, 3, 3], [2, 2, 2, 2]), ([0, 0], [0, 0])],
)
def test_huffmans_lengths(counts: list[int], lengths: list[int]) -> None:
    assert huffman(np.array(counts)).tolist() == lengths
