"""Deflate by a coder of our own: every other reads it, and a smaller rank is the beginning of a larger one."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rightrank.models.emit.torchscript.deflate import END, LAST, Bits, Code, Coded, block, opening, pack


def inflated(data: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(data)


def drawn(rows: int, width: int, spread: float, seed: int = 0) -> NDArray[np.uint8]:
    numbers = np.random.default_rng(seed).standard_normal((rows, width)) * spread
    return np.clip(np.rint(numbers), -127, 127).astype(np.int8).view(np.uint8)


@pytest.mark.parametrize(
    ("rows", "width", "spread"),
    [(64, 144, 3.0), (1, 7, 1.0), (3, 1, 0.0), (200, 5, 40.0), (2, 0, 1.0), (9, 70_000, 2.0)],
)
def test_any_number_of_rows_is_read_and_has_the_bytes_that_were_said(rows: int, width: int, spread: float) -> None:
    levels = drawn(rows, width, spread)
    coded = Coded.of(levels)
    for count in {0, 1, rows // 2, rows}:
        data = b"".join(map(bytes, block(coded.stream, int(coded.ends[count]), coded.end)))
        assert len(data) == coded.size(count)
        assert inflated(data + LAST) == levels[:count].tobytes()


def test_blocks_follow_each_other() -> None:
    several = [drawn(4, 50, spread, seed) for seed, spread in enumerate((1.0, 9.0, 0.0))]
    data = b""
    for levels in several:
        coded = Coded.of(levels)
        data += b"".join(map(bytes, block(coded.stream, int(coded.ends[3]), coded.end)))
    assert inflated(data + LAST) == b"".join(levels[:3].tobytes() for levels in several)


def test_levels_take_little_more_than_their_entropy() -> None:
    levels = drawn(100, 1000, 4.0)
    shares = np.bincount(levels.reshape(-1)) / levels.size
    entropy = -float((shares[shares > 0] * np.log2(shares[shares > 0])).sum())
    bits = Coded.of(levels).ends[-1] / levels.size
    assert entropy <= bits <= entropy + 0.06


@given(st.lists(st.integers(0, 10**6), min_size=257, max_size=286))
def test_a_code_is_a_prefix_code_that_is_complete_and_short_enough(counts: list[int]) -> None:
    counts[END] = max(counts[END], 1)
    code = Code.best(counts)
    used = code.lengths[code.lengths > 0].astype(int)
    assert ((code.lengths > 0) == (np.array(counts) > 0)).all()
    assert used.max() <= 15
    assert len(used) == 1 or (2.0**-used).sum() == 1
    words = {format(int(w), f"0{n}b")[::-1] for w, n in zip(code.words, code.lengths, strict=True) if n}
    assert not any(one != other and other.startswith(one) for one in words for other in words if len(words) < 40)


def test_counts_that_would_make_words_too_long_are_drawn_nearer() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    code = Code.best([*fibonacci, *[0] * (END - 40), 1])
    assert 12 < code.lengths.max() <= 15
    head, end = opening(code), code.word(END)
    assert inflated((head + end + Bits(0, 3)).whole() + b"\x00\x00\xff\xff" + LAST) == b""


def test_words_are_laid_out_bit_after_bit_wherever_they_begin() -> None:
    random = np.random.default_rng(1)
    lengths = random.integers(1, 16, 300).astype(np.uint8)
    words = np.array([random.integers(0, 1 << int(n)) for n in lengths], dtype=np.uint16)
    wanted = Bits(0b101, 3)
    for word, length in zip(words.tolist(), lengths.tolist(), strict=True):
        wanted += Bits(word, length)
    stream = np.zeros(len(wanted.whole()), dtype=np.uint8)
    stream[0] = 0b101
    pack(stream, 3, words, lengths)
    assert stream.tobytes() == wanted.whole()
