"""Deflate (RFC 1951) by a coder of our own: what it makes of the same numbers is the same on every machine.

Two things of a file are coded. *Levels* are bytes coded one by one with the code that suits them best (Huffman), each
basis once and for all; since a code knows nothing of what came before, the levels of a smaller rank are the leading
bits of those of a larger one, and how many they are is a sum. *Text* (see `text`) is coded with back references.

A stream is a sequence of `block`s of whole bytes, and ends with `LAST`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The code for the end of a block; literals are those below it, lengths of references those above.
END = 256
LONGEST = 15
# An empty stored block, from the first whole byte on, as the last of its stream and as any other.
LAST, ALIGNED = b"\x01\x00\x00\xff\xff", b"\x00\x00\xff\xff"
# In which order the lengths of the code for lengths are written (RFC 1951, 3.2.7).
ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


@dataclass(frozen=True)
class Bits:
    """Bits in order, the first one the lowest of `value`."""

    value: int = 0
    count: int = 0

    def __add__(self, other: Bits) -> Bits:
        return Bits(self.value | other.value << self.count, self.count + other.count)

    def whole(self) -> bytes:
        """As bytes, the last one filled with zeros."""
        return self.value.to_bytes((self.count + 7) // 8, "little")


@dataclass(frozen=True)
class Code:
    """A canonical prefix code: for each symbol its `lengths` (0: it has none) and its `words`, first bit lowest."""

    lengths: NDArray[np.uint8]
    words: NDArray[np.uint16]

    @staticmethod
    def of(lengths: Sequence[int]) -> Code:
        """The code whose words have these lengths, at most 15 (RFC 1951, 3.2.2)."""
        words, word, before = np.zeros(len(lengths), dtype=np.uint16), -1, 0
        for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
            word = word + 1 << length - before
            before = length
            words[symbol] = int(f"{word:0{length}b}"[::-1], 2)
        return Code(np.array(lengths, dtype=np.uint8), words)

    @staticmethod
    def best(counts: Sequence[int], longest: int = LONGEST) -> Code:
        """A code with the fewest bits for symbols that occur so often (Huffman); where words would be longer than
        `longest`, for counts that are nearer to each other."""
        counts = [int(count) for count in counts]
        while max(lengths := _lengths(counts)) > longest:
            counts = [(count + 1) // 2 for count in counts]
        return Code.of(lengths)

    def word(self, symbol: int) -> Bits:
        return Bits(int(self.words[symbol]), int(self.lengths[symbol]))


def _lengths(counts: Sequence[int]) -> list[int]:
    """Those of a Huffman code, of symbols that occur; the same for the same counts."""
    lengths = [0] * len(counts)
    heap: list[tuple[int, int, tuple[int, ...]]]
    heap = [(count, symbol, (symbol,)) for symbol, count in enumerate(counts) if count]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (one, least, below), (other, _, beside) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (*below, *beside):
            lengths[symbol] += 1
        heapq.heappush(heap, (one + other, least, (*below, *beside)))
    return lengths


def opening(literals: Code, distances: Code | None = None) -> Bits:
    """The head of a block that is not the last of its stream, with codes of its own (RFC 1951, 3.2.7)."""
    # Without references one distance is named all the same, as every other coder does.
    apart = [1] if distances is None else distances.lengths.tolist()
    lengths = literals.lengths.tolist()
    while len(lengths) > END + 1 and not lengths[-1]:
        lengths.pop()
    runs = _runs([*lengths, *apart])
    counts = [0] * 19
    for symbol, _ in runs:
        counts[symbol] += 1
    if sum(map(bool, counts)) == 1:
        counts[0 if not counts[0] else 18] += 1  # of one word alone not every reader takes the code
    code = Code.best(counts, longest=7)
    ordered = [int(code.lengths[symbol]) for symbol in ORDER]
    while len(ordered) > 4 and not ordered[-1]:
        ordered.pop()
    found = Bits(0b100, 3) + Bits(len(lengths) - END - 1, 5) + Bits(len(apart) - 1, 5) + Bits(len(ordered) - 4, 4)
    for length in ordered:
        found += Bits(length, 3)
    for symbol, extra in runs:
        found += code.word(symbol) + extra
    return found


def _runs(lengths: Sequence[int]) -> list[tuple[int, Bits]]:
    """Lengths of words with runs of the same put together: symbols, and the bits that follow each."""
    found: list[tuple[int, Bits]] = []
    start = 0
    while start < len(lengths):
        value, end = lengths[start], start
        while end < len(lengths) and lengths[end] == value:
            end += 1
        left = end - start
        if value:
            found.append((value, Bits()))
            left -= 1
        while left >= 3:
            if value:
                took = min(left, 6)
                found.append((16, Bits(took - 3, 2)))
            elif left <= 10:
                took = left
                found.append((17, Bits(took - 3, 3)))
            else:
                took = min(left, 138)
                found.append((18, Bits(took - 11, 7)))
            left -= took
        found += [(value, Bits())] * left
        start = end
    return found


@dataclass(frozen=True)
class Coded:
    """Rows of bytes, coded for a block of their own: of `stream` the first `ends[r]` bits are the block's head and its
    first r rows; `end` closes it."""

    stream: NDArray[np.uint8]
    ends: NDArray[np.int64]
    end: Bits

    @staticmethod
    def of(rows: NDArray[np.uint8]) -> Coded:
        """Rows (R, m), each of which is coded after those before it, with one code for all."""
        counts = np.bincount(rows.reshape(-1), minlength=END + 1)
        counts[END] = 1
        code = Code.best(counts.tolist())
        head = opening(code)
        lengths = code.lengths[rows]
        ends = np.concatenate([[0], np.cumsum(lengths.sum(axis=1, dtype=np.int64))]) + head.count
        stream = np.zeros((int(ends[-1]) + 7) // 8, dtype=np.uint8)
        stream[: (head.count + 7) // 8] = np.frombuffer(head.whole(), dtype=np.uint8)
        pack(stream, head.count, code.words[rows].reshape(-1), lengths.reshape(-1))
        return Coded(stream, ends, code.word(END))

    def size(self, count: NDArray[np.int64] | int) -> NDArray[np.int64] | int:
        """The bytes of a `block` of so many rows."""
        return sized(self.ends[count], self.end.count)


def sized(bits: NDArray[np.int64] | int, end: int) -> NDArray[np.int64] | int:
    """The bytes of a block that has so many bits before the word that ends it, of which `end` is the length."""
    return (bits + end + 3 + 7) // 8 + len(ALIGNED)


def block(stream: NDArray[np.uint8], bits: int, end: Bits) -> list[bytes | memoryview]:
    """A block of a stream's first `bits`, in whole bytes."""
    whole, rest = divmod(bits, 8)
    tail = Bits(int(stream[whole]) & (1 << rest) - 1 if rest else 0, rest) + end + Bits(0, 3)
    return [stream[:whole].data, tail.whole() + ALIGNED]


# How many words are laid out at once.
PART = 1 << 20


def pack(
    stream: NDArray[np.uint8], start: int, words: NDArray[np.unsignedinteger[Any]], lengths: NDArray[np.uint8]
) -> None:
    """Lays words one after the other into `stream`, from bit `start` on."""
    for first in range(0, words.size, PART):
        some, counts = words[first : first + PART], lengths[first : first + PART].astype(np.int64)
        places = np.cumsum(counts) - counts
        total = int(counts.sum())
        lead = start % 8
        bits = np.zeros(-(-(lead + total) // 8) * 8, dtype=np.uint8)
        for place in range(int(counts.max(initial=0))):
            where = np.flatnonzero(counts > place)
            bits[lead + places[where] + place] = some[where] >> place & 1
        packed = np.packbits(bits, bitorder="little")
        stream[start // 8 : start // 8 + packed.size] |= packed
        start += total
